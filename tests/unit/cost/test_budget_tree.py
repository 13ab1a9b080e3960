"""Random trees, periods, measures, crashes and clocks: the book does what a plain count of all calls says."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from services.cost.domain.amounts import NONE, Amounts
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.budget_alert import AlertCause
from services.cost.domain.changes import Changes
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.errors import BudgetDegrades, BudgetExhausted, BudgetInUse
from services.cost.domain.hold import OPEN_STATES, Hold, HoldId, HoldState
from services.cost.domain.node import NodeKey
from services.cost.domain.period import Period
from services.cost.domain.price import Price
from services.cost.domain.spend_book import SpendBook
from services.cost.domain.terms import BudgetMode, Terms, TermsChange
from services.meshkit.content import CallContext, CallId, Usage
from services.meshkit.core.errors import Invalid, MeshError
from services.meshkit.core.money import NanoUsd
from tests.support.examples import examples
from tests.support.money import ANNA, MINUTE, NOON, a_hold, a_price

PRICE = a_price()
ZONE = "America/New_York"
OWN = tenant_budget_id(ANNA)
NAMES = (
    NodeKey(BudgetScope.PROJECT, "atlas"),
    NodeKey(BudgetScope.AGENT, "Athena"),
    NodeKey(BudgetScope.AGENT, "Apollo"),
    NodeKey(BudgetScope.STEP, "run_1/rounds"),
    NodeKey(BudgetScope.STEP, "run_1/rounds/1"),
    NodeKey(BudgetScope.STEP, "run_1/rounds/1/Athena"),
    NodeKey(BudgetScope.STEP, "run_2/rounds"),
)


def price_of(digest: bytes) -> Price:
    assert digest == PRICE.digest
    return PRICE


def number_of_period(terms: Terms, moment: datetime) -> int:
    """Numbers periods in another way than the domain: by what a calendar shows."""
    local = moment.astimezone(ZoneInfo(terms.zone))
    match terms.period:
        case Period.NONE:
            return 0
        case Period.HOUR:
            return int(moment.timestamp() // 3600)
        case Period.DAY:
            return local.date().toordinal()
        case Period.WEEK:
            return (local.date().toordinal() - 1) // 7
        case Period.MONTH:
            return local.year * 12 + local.month


@dataclass(slots=True)
class Node:
    """What a budget should be."""

    terms: Terms
    spent: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    period: int = 0
    removed: bool = False
    #: Tells of the moment of a charge whether it is not too old to be in `spent`.
    recent: Callable[[datetime], bool] = lambda moment: True

    def spent_at(self, now: datetime) -> list[int]:
        return [0] * 4 if number_of_period(self.terms, now) > self.period else self.spent

    def counts(self, charged: datetime) -> bool:
        return self.recent(charged) and number_of_period(self.terms, charged) <= self.period

    def look(self, now: datetime) -> None:
        """Turns the period, and takes one back that only a wrong clock can have turned."""
        number = number_of_period(self.terms, now)
        if number > self.period:
            self.spent, self.period, self.recent = [0] * 4, number, self.from_this_period(number)
        elif number < self.period - 1:
            self.period, self.recent = number, lambda moment: moment >= now

    def from_this_period(self, number: int) -> Callable[[datetime], bool]:
        terms = self.terms
        return lambda moment: number_of_period(terms, moment) >= number

    def define(self, terms: Terms, now: datetime, charged: Amounts | None, since: datetime | None) -> None:
        self.look(now)
        self.removed = False
        same = (self.terms.period, self.terms.zone) == (terms.period, terms.zone)
        self.terms = terms
        if not same:
            self.period = number_of_period(terms, now)
            if charged is not None and since is not None:
                self.spent, self.recent = list(charged), lambda moment: moment >= since

    def charge(self, delta: Amounts, now: datetime, before: datetime | None) -> None:
        self.look(now)
        stale = before is not None and not self.counts(before)
        self.spent = [
            old + (max(0, change) if stale else change) for old, change in zip(self.spent, delta, strict=True)
        ]

    def limits(self) -> tuple[int | None, ...]:
        return (self.terms.limit, self.terms.tokens, self.terms.calls, self.terms.wall_ms)


TERM_NAMES = tuple(sorted(TermsChange.whole(Terms(limit=NanoUsd(0))).named))
LIMITS = st.one_of(st.none(), st.integers(0, 400))
TERMS = st.builds(
    Terms,
    limit=st.integers(0, 300).map(NanoUsd),
    tokens=LIMITS,
    calls=st.one_of(st.none(), st.integers(0, 6)),
    wall_ms=st.one_of(st.none(), st.integers(0, 400_000)),
    mode=st.sampled_from(BudgetMode),
    warn_at=st.integers(1, 100),
    period=st.sampled_from(Period),
    zone=st.sampled_from(("UTC", ZONE)),
)


class Trees(RuleBasedStateMachine):
    """One tenant with a tree that changes, and calls by two agents in a run and in runs that it starts."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        terms = Terms(limit=NanoUsd(600), warn_at=0)
        own = Budget(
            id=OWN,
            tenant=ANNA,
            scope=BudgetScope.TENANT,
            run_id=None,
            limit=terms.limit,
            counted_from=NOON,
            created=NOON,
        )
        self.rows: dict[BudgetId, Budget] = {OWN: own}
        self.nodes: dict[BudgetId, Node] = {OWN: Node(terms)}
        self.known: dict[HoldId, Hold] = {}
        self.entries: list[CostEvent] = []
        #: What each step took, when, and when its call was charged first.
        self.charges: list[tuple[HoldId, Amounts, datetime, datetime]] = []
        self.now = NOON
        self.crash = False

    # --- what happens ------------------------------------------------------------------------------------------------

    def transact(self, step: Callable[[SpendBook], object]) -> tuple[MeshError | None, Changes | None]:
        """Runs a step in one transaction; gives why it was refused, and what was written unless it crashed."""
        book = SpendBook(self.rows.values(), self.known.values(), now=self.now, new_id=uuid4)
        refusal: MeshError | None = None
        try:
            step(book)
        except MeshError as error:
            refusal = error
        changes = book.changes()
        assert all(self.rows[seen.id] == seen for seen in changes.seen_budgets)
        if self.crash:
            self.crash = False
            return refusal, None
        for hold in (*changes.new_holds, *changes.holds):
            before = self.known.get(hold.id)
            delta = hold.took.less(Amounts() if before is None else before.took)
            first = self.now if before is None or before.charged_at is None else before.charged_at
            for name in hold.budgets if any(delta) else ():
                self.nodes[name].charge(delta, self.now, None if before is None else before.charged_at)
            self.charges += [(hold.id, delta, self.now, first)] if any(delta) else []
            self.known[hold.id] = hold
        for budget in (*changes.budgets, *changes.defined):
            before_row = self.rows.get(budget.id)
            assert before_row is None or budget.revision == before_row.revision + 1
            self.rows[budget.id] = budget
            node = self.nodes.get(budget.id)
            if node is not None:
                node.look(self.now)
        self.entries += changes.entries
        return refusal, changes

    @rule()
    def the_next_transaction_is_lost(self) -> None:
        self.crash = True

    def charged(self, budget: BudgetId, since: datetime, endless: bool) -> Amounts:
        """Counts what is in a period: a charge whole, of corrections of older ones only what came on top."""
        total = [0] * 4
        for name in {hold for hold, *_ in self.charges}:
            mine = [(delta, at, first) for hold, delta, at, first in self.charges if hold == name]
            deltas = [delta for delta, at, first in mine if at >= since or first >= since]
            took = [sum(parts) for parts in zip(*deltas, strict=True)] or [0] * 4
            took = took if mine[0][2] >= since else [max(0, part) for part in took]
            if budget in self.known[name].budgets:
                total = [before + part for before, part in zip(total, took, strict=True)]
        return Amounts(*total)

    @rule(
        key=st.sampled_from(NAMES),
        terms=TERMS,
        named=st.sets(st.sampled_from(TERM_NAMES)),
        count=st.booleans(),
    )
    def define(self, key: NodeKey, terms: Terms, named: set[str], count: bool) -> None:
        tree = self.rows[OWN].tree
        made: list[Budget] = []
        counted: list[Amounts | None] = [None]
        since: list[datetime | None] = [None]
        change = TermsChange(named=frozenset(named), to=terms)
        known = self.named(key)
        before = None if known is None else self.nodes[known].terms

        def step(book: SpendBook) -> None:
            recount = book.recounts(ANNA, key, change)
            since[0] = None if recount is None else recount.since
            counted[0] = self.charged(*recount) if recount and count else None
            made.append(book.define(ANNA, key, change, charged=counted[0]))

        crash = self.crash
        refusal, changes = self.transact(step)
        if refusal is not None:
            assert isinstance(refusal, Invalid)
            field_name = refusal.field
            assert field_name in ("limit_nano_usd", "zone", "period")
            assert (field_name == "limit_nano_usd") == (before is None and "limit" not in named)
            assert field_name != "period" or not count
            return
        if crash or changes is None:
            return
        new = made[0].id not in self.nodes or self.nodes[made[0].id].removed
        assert self.rows[OWN].tree == tree + new
        wanted = before if before is not None else Terms(limit=terms.limit)
        wanted = replace(wanted, **{name: getattr(terms, name) for name in named})
        wanted = wanted if wanted.period else replace(wanted, zone="UTC")
        node = self.nodes.setdefault(made[0].id, Node(wanted, period=number_of_period(wanted, self.now)))
        node.define(wanted, self.now, counted[0], since[0])
        assert made[0].terms == wanted

    @rule(key=st.sampled_from(NAMES))
    def remove(self, key: NodeKey) -> None:
        budget = self.named(key)
        if budget is None:
            return
        refusal, changes = self.transact(lambda book: book.remove(ANNA, budget))
        assert isinstance(refusal, BudgetInUse) == any(self.held(budget))
        if refusal is None and changes is not None:
            self.nodes[budget].removed = True

    @rule(
        target=holds,
        amount=st.integers(0, 60),
        agent=st.sampled_from(("Athena", "Apollo", "")),
        project=st.sampled_from(("atlas", "")),
        run_id=st.sampled_from(("run_1", "run_1", "run_2")),
        path=st.sampled_from(("", "rounds", "rounds/1/Athena", "rounds/1/Athena/deeper", "rounds/2")),
        parent_steps=st.sampled_from(
            ((), ("run_1/rounds/1",), ("run_1/rounds/1/Athena", "run_0/nodes"), ("run_1/rounds2",), ("run_11/rounds",))
        ),
        cheapest=st.booleans(),
        waits=st.booleans(),
        minutes=st.integers(1, 3),
    )
    def reserve(
        self,
        amount: int,
        agent: str,
        project: str,
        run_id: str,
        path: str,
        parent_steps: tuple[str, ...],
        cheapest: bool,
        waits: bool,
        minutes: int,
    ) -> object:
        context = CallContext(
            call_id=CallId(run_id=run_id, path=path), agent_name=agent, project=project, parent_steps=parent_steps
        )
        plain = a_hold(amount, expires=self.now + minutes * MINUTE)
        wanted = replace(plain, created=self.now, purpose=replace(plain.purpose, context=context))
        names = self.spends_from(context)
        ask = (amount, amount, 1, minutes * 60_000)
        level = {name: self.refuses(name, ask, cheapest=cheapest, waits=waits) for name in names}
        refusal, changes = self.transact(lambda book: book.reserve(wanted, cheapest=cheapest, waits=waits))
        assert (refusal is None) == (not any(level.values())), (level, refusal)
        if refusal is not None:
            assert type(refusal) in {reason for reason in level.values() if reason}
        elif changes is not None:
            assert set(changes.new_holds[0].budgets) == names
        return multiple() if changes is None or refusal is not None else wanted.id

    @rule(hold=holds)
    def dispatch(self, hold: HoldId) -> None:
        self.transact(lambda book: book.dispatch(ANNA, hold))

    @rule(hold=holds, minutes=st.integers(1, 30))
    def extend(self, hold: HoldId, minutes: int) -> None:
        before = self.known[hold]
        refusal, changes = self.transact(lambda book: book.extend(ANNA, hold, minutes * MINUTE))
        opened = before.state in OPEN_STATES and self.now < before.expires
        if opened and isinstance(refusal, BudgetExhausted):
            longer = minutes * 60_000 - before.most.wall_ms
            assert any(self.refuses(name, (0, 0, 0, longer), cheapest=True) for name in before.budgets)
        elif changes is not None:
            assert (refusal is None) == opened
            assert self.known[hold].expires >= before.expires

    @rule(hold=holds, tokens=st.integers(0, 90))
    def settle(self, hold: HoldId, tokens: int) -> None:
        self.transact(lambda book: book.settle(ANNA, hold, Usage(input=tokens), price_of))

    @rule(hold=consumes(holds), unbilled=st.booleans())
    def release(self, hold: HoldId, unbilled: bool) -> None:
        self.transact(lambda book: book.release(ANNA, hold, dispatched_unbilled=unbilled))

    @rule(span=st.sampled_from((20, 90, 1800, 3600, 40_000, 86_400, 8 * 86_400, 40 * 86_400)))
    def time_passes(self, span: int) -> None:
        self.now += timedelta(seconds=span)

    @rule(span=st.sampled_from((1, 600, 7200, 86_400, 60 * 86_400)))
    def the_clock_jumps_back(self, span: int) -> None:
        self.now = max(NOON, self.now - timedelta(seconds=span))

    @rule()
    def sweep(self) -> None:
        self.transact(lambda book: book.expire_due())

    # --- what a plain count says -------------------------------------------------------------------------------------

    def named(self, key: NodeKey) -> BudgetId | None:
        for name, node in self.nodes.items():
            row = self.rows[name]
            if not node.removed and (row.scope, row.name) == key:
                return name
        return None

    def spends_from(self, context: CallContext) -> set[BudgetId]:
        places = [f"{place}/" for place in (f"{context.call_id.run_id}/{context.call_id.path}", *context.parent_steps)]
        found = {OWN}
        for key in NAMES:
            fits = {
                BudgetScope.PROJECT: key.name == context.project,
                BudgetScope.AGENT: key.name == context.agent_name,
                BudgetScope.STEP: any(place.startswith(f"{key.name}/") for place in places),
            }[key.scope]
            name = self.named(key)
            if fits and name is not None:
                found.add(name)
        return found

    def held(self, name: BudgetId) -> list[int]:
        mine = [hold for hold in self.known.values() if name in hold.budgets and hold.state in OPEN_STATES]
        wall = [(hold.expires - hold.created) // timedelta(milliseconds=1) for hold in mine]
        money = sum(hold.amount for hold in mine)
        return [money, sum(hold.bound.total for hold in mine), len(mine), sum(wall)]

    def refuses(
        self, name: BudgetId, ask: tuple[int, ...], *, cheapest: bool, waits: bool = False
    ) -> type[MeshError] | None:
        node = self.nodes[name]
        if node.terms.mode is BudgetMode.SOFT:
            return None
        counted = list(zip(node.limits(), node.spent_at(self.now), self.held(name), ask, strict=True))
        limited = [(limit, spent, held, asked) for limit, spent, held, asked in counted if limit is not None]
        room = all(spent + held + asked <= limit for limit, spent, held, asked in limited)
        if (
            node.terms.mode is BudgetMode.DEGRADE
            and not cheapest
            and all(spent < limit for limit, spent, *_ in limited)
        ):
            level = node.terms.warn_at
            if any(spent * 100 >= limit * level for limit, spent, *_ in limited):
                return BudgetDegrades
            if any((spent + held) * 100 >= limit * level for limit, spent, held, _ in limited):
                return BudgetExhausted if waits else BudgetDegrades
        return None if room else BudgetExhausted

    @invariant()
    def every_budget_is_what_the_count_says(self) -> None:
        for name, node in self.nodes.items():
            budget = self.rows[name].at(self.now)
            gauges = [gauge for _, gauge in budget.gauges]
            assert [gauge.held for gauge in gauges] == self.held(name)
            assert [gauge.spent for gauge in gauges] == node.spent_at(self.now)

    @invariant()
    def the_database_constraints_hold(self) -> None:
        for budget in (*self.rows.values(), *(row.at(self.now) for row in self.rows.values())):
            for _, gauge in budget.gauges:
                assert min(gauge.spent, gauge.held, gauge.overrun) >= 0
                if budget.hard and gauge.limit is not None:
                    assert gauge.overrun == max(0, gauge.spent + gauge.held - gauge.limit)

    @invariant()
    def the_ledger_equals_what_the_tenant_spent(self) -> None:
        assert sum(entry.cost for entry in self.entries) == self.rows[OWN].spent


TestTrees = Trees.TestCase
TestTrees.settings = settings(max_examples=examples(80), stateful_step_count=50)


def test_a_warning_is_told_once_per_period_and_again_at_the_limit_of_a_soft_one() -> None:
    key = NodeKey(BudgetScope.AGENT, "Athena")
    terms = Terms(limit=NanoUsd(10), mode=BudgetMode.SOFT, warn_at=50, period=Period.DAY)
    rows: dict[BudgetId, Budget] = {}
    own = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=NanoUsd(1000), created=NOON)
    rows[OWN] = own
    told: list[int] = []
    for day in range(2):
        for _ in range(12):
            book = SpendBook(rows.values(), (), now=NOON + timedelta(days=day), new_id=uuid4)
            if len(rows) == 1:
                book.define(ANNA, key, TermsChange.whole(terms))
            hold = book.reserve(a_hold(1, expires=NOON + timedelta(days=9)))
            book.dispatch(ANNA, hold.id)
            book.settle(ANNA, hold.id, Usage(input=1), price_of)
            changes = book.changes()
            rows |= {budget.id: budget for budget in (*changes.budgets, *changes.defined)}
            told += [alert.budget.spent for alert in changes.alerts if alert.cause is AlertCause.WARNED]
    assert told == [5, 10, 5, 10]


def test_what_comes_back_of_a_period_that_is_over_does_not_go_into_this_one() -> None:
    terms = Terms(limit=NanoUsd(100), period=Period.DAY, warn_at=0)
    own = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=NanoUsd(100), created=NOON)
    own = own.defined(terms, now=NOON, charged=NONE)
    late = replace(a_hold(10), state=HoldState.ASSUMED, charged=NanoUsd(10), charged_at=NOON, dispatched=NOON)
    for tokens, spent in ((4, 20), (25, 35)):
        today = {"turn": datetime(2026, 1, 3, tzinfo=UTC), "counted_from": datetime(2026, 1, 2, tzinfo=UTC)}
        row = replace(own, spent=NanoUsd(20), **today)
        book = SpendBook([row], [late], now=NOON + timedelta(days=1), new_id=uuid4)
        book.settle(ANNA, late.id, Usage(input=tokens), price_of)
        assert [budget.spent for budget in book.changes().budgets] in ([spent], [])
        assert book.set_limit(ANNA, OWN, NanoUsd(99)).spent == spent


def test_a_clock_that_was_ahead_turns_periods_for_a_moment_and_not_for_years() -> None:
    terms = Terms(limit=NanoUsd(100), period=Period.DAY)
    made = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=NanoUsd(100), created=NOON)
    day = made.defined(terms, now=NOON, charged=NONE).moved(NONE, Amounts(60))
    ahead = day.at(NOON + timedelta(days=3650)).moved(NONE, Amounts(40))
    assert (ahead.spent, ahead.turn) == (40, datetime(2035, 12, 31, tzinfo=UTC))
    again = ahead.at(NOON + timedelta(hours=1))
    assert (again.spent, again.turn) == (40, datetime(2026, 1, 2, tzinfo=UTC))
    assert again.at(NOON + timedelta(days=1)).spent == 0
    assert again.corrected(NONE, Amounts(-40), charged=NOON + timedelta(days=3650)).spent == 40


def test_a_clock_that_is_a_little_behind_leaves_the_new_period_as_it_is() -> None:
    terms = Terms(limit=NanoUsd(100), period=Period.HOUR)
    made = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=NanoUsd(100), created=NOON)
    turned = made.defined(terms, now=NOON, charged=NONE).at(NOON + timedelta(hours=1)).moved(NONE, Amounts(7))
    behind = turned.at(NOON + timedelta(minutes=59, seconds=58))
    assert behind is turned


def test_a_charge_of_the_first_release_comes_back_only_if_its_call_began_in_what_is_counted() -> None:
    own = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=NanoUsd(100), created=NOON)
    own = own.defined(Terms(limit=NanoUsd(100), period=Period.DAY), now=NOON, charged=Amounts(20))
    for created, spent in ((NOON - timedelta(days=1), 20), (NOON, 14)):
        late = replace(a_hold(10), state=HoldState.ASSUMED, charged=NanoUsd(10), created=created, counts=False)
        book = SpendBook([own], [late], now=NOON + MINUTE, new_id=uuid4)
        book.settle(ANNA, late.id, Usage(input=4), price_of)
        assert book.set_limit(ANNA, OWN, NanoUsd(99)).spent == spent


def test_a_correction_can_always_be_written() -> None:
    own = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=NanoUsd(100), created=NOON)
    short = replace(own, counted_from=NOON, spent=NanoUsd(3))
    assert short.corrected(NONE, Amounts(-10, -5, -1, -100), charged=NOON).spent == 0


def test_a_period_that_is_too_full_to_count_is_kept_if_it_was_counted_and_else_refused() -> None:
    made = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=NanoUsd(100), created=NOON)
    month = made.defined(Terms(limit=NanoUsd(100), period=Period.MONTH), now=NOON, charged=Amounts(30))
    daily = Terms(limit=NanoUsd(100), period=Period.DAY)
    later = NOON + timedelta(days=3)
    kept = month.defined(daily, now=later)
    assert (kept.spent, kept.corrected(NONE, Amounts(-10), charged=NOON).spent) == (30, 20)
    assert kept.at(later + timedelta(days=1)).spent == 0
    counted = month.defined(daily, now=later, charged=Amounts(4))
    endless = Terms(limit=NanoUsd(100))
    for terms in (Terms(limit=NanoUsd(100), period=Period.MONTH), endless):
        with pytest.raises(Invalid, match="too many charges"):
            counted.defined(terms, now=later)
    quota = NanoUsd(50)
    limited = counted.limited_to(quota, default=quota, now=later)
    assert (limited.limit, limited.period, limited.spent) == (50, Period.NONE, 4), "a quota holds in any case"


@given(st.data())
def test_what_a_tenant_set_comes_back_with_its_quota_and_never_exceeds_it(data: st.DataObject) -> None:
    default, quotas = NanoUsd(100), st.one_of(st.just(0), st.integers(1, 400))
    own = Budget(id=OWN, tenant=ANNA, scope=BudgetScope.TENANT, run_id=None, limit=default, created=NOON)
    wanted, limit, quota = Terms(limit=default), None, 0
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            quota = data.draw(quotas)
            own = own.limited_to(NanoUsd(quota), default=default, now=NOON, charged=NONE)
            assert own.limited_to(NanoUsd(quota), default=default, now=NOON) is own
        else:
            named, to = data.draw(st.sets(st.sampled_from(TERM_NAMES))), data.draw(TERMS)
            book = SpendBook([own], (), now=NOON, new_id=uuid4)
            change = TermsChange(named=frozenset(named), to=to)
            try:
                changed = book.define(ANNA, NodeKey(BudgetScope.TENANT, ""), change, charged=NONE)
            except MeshError:
                continue
            assert not quota or "limit" not in named or to.limit <= quota
            own, limit = changed, to.limit if "limit" in named else limit
            wanted = change.onto(wanted)
        free = limit if limit is not None else quota or default
        assert own.limit == (min(free, quota) if quota else free)
        assert own.rules == (wanted.rules if not quota else wanted.under(NanoUsd(1)).rules)
        assert own.terms.rules == wanted.rules
        assert own.warn_at == wanted.warn_at
