"""Money adds up, whatever happens in whatever order."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from services.cost.domain.amounts import MAX_CHARGE, MAX_LIMIT, Amounts, Measure
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.budget_alert import AlertCause
from services.cost.domain.changes import Changes
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.errors import BudgetDegrades, BudgetExhausted, BudgetNotFound, HoldNotFound, RefusalCause
from services.cost.domain.hold import Hold, HoldId, HoldState
from services.cost.domain.price import Price
from services.cost.domain.spend_book import SpendBook
from services.cost.domain.terms import BudgetMode
from services.meshkit.content import Usage
from services.meshkit.core.errors import Invalid, MeshError, RequestIdReused
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.money import NanoUsd
from tests.support.examples import examples
from tests.support.money import ANNA, BERT, MINUTE, NOON, a_budget, a_hold, a_price

PRICE = a_price()


def price_of(digest: bytes) -> Price:
    assert digest == PRICE.digest
    return PRICE


def a_book(*budgets: Budget, holds: tuple[Hold, ...] = (), later: timedelta = timedelta()) -> SpendBook:
    numbers = count(1)
    return SpendBook(budgets, holds, now=NOON + later, new_id=lambda: UUID(int=next(numbers)))


def test_a_hold_goes_into_every_budget_or_into_none() -> None:
    run = a_budget(5, run_id="run_1")
    book = a_book(a_budget(100), run)
    with pytest.raises(BudgetExhausted):
        book.reserve(a_hold(6, budgets=(run.id,)))
    assert book.changes().new_holds == ()
    book = a_book(a_budget(100), run)
    book.reserve(a_hold(5, budgets=(run.id,)))
    assert [budget.held for budget in book.changes().budgets] == [5, 5]


def test_a_limit_is_used_to_the_last_nano_dollar_and_not_beyond() -> None:
    book = a_book(a_budget(10))
    book.reserve(a_hold(10))
    with pytest.raises(BudgetExhausted) as refusal:
        book.reserve(a_hold(1))
    assert refusal.value.metadata["cause"] == RefusalCause.HELD
    assert refusal.value.retry_after is not None


def test_a_refusal_because_too_much_is_spent_is_told_once() -> None:
    book = a_book(a_budget(10, spent=10))
    for _ in range(3):
        with pytest.raises(BudgetExhausted) as refusal:
            book.reserve(a_hold(1))
        assert refusal.value.metadata["cause"] == RefusalCause.SPENT
        assert refusal.value.retry_after is None
    changes = book.changes()
    assert [alert.cause for alert in changes.alerts] == [AlertCause.EXHAUSTED]
    assert changes.budgets[0].exhausted


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "tenant"),
        ({"scope": BudgetScope.PROJECT, "name": "atlas"}, "project:atlas"),
        ({"scope": BudgetScope.AGENT, "name": "Athena"}, "agent:Athena"),
        ({"scope": BudgetScope.STEP, "name": "run_1/rounds/2"}, "step:run_1/rounds/2"),
        ({"scope": BudgetScope.RUN, "run_id": "run_1"}, "run:run_1"),
    ],
)
def test_a_refusal_names_its_budget_as_people_do_beside_its_id(changes: dict[str, Any], name: str) -> None:
    used = replace(a_budget(10, spent=10), **changes)
    shown = from_uuid("budget", used.id)
    with pytest.raises(BudgetExhausted) as exhausted:
        used.refuse_unless_free(Amounts(1), now=NOON, cheapest=True)
    degrading = replace(used, limit=NanoUsd(20), mode=BudgetMode.DEGRADE, warn_at=50)
    with pytest.raises(BudgetDegrades) as degrades:
        degrading.refuse_unless_free(Amounts(1), now=NOON, cheapest=False)
    for refusal in (exhausted.value, degrades.value):
        assert (refusal.metadata["budget_name"], refusal.metadata["budget"]) == (name, shown)
        assert repr(name) in refusal.message
        assert shown in refusal.message


def test_a_call_that_asks_for_too_much_does_not_mean_that_the_budget_is_used_up() -> None:
    book = a_book(a_budget(10, spent=8))
    with pytest.raises(BudgetExhausted):
        book.reserve(a_hold(3))
    assert book.changes().empty


def test_a_repeated_request_gets_its_first_hold_and_holds_nothing_more() -> None:
    book = a_book(a_budget(10))
    first = book.reserve(a_hold(6))
    again = book.reserve(a_hold(6, request_id=first.request_id))
    assert again is first
    assert book.changes().budgets[0].held == 6


def test_a_request_id_with_another_request_is_refused() -> None:
    book = a_book(a_budget(10))
    first = book.reserve(a_hold(6))
    other = a_hold(6, request_id=first.request_id)
    object.__setattr__(other, "request_digest", b"something else")
    with pytest.raises(RequestIdReused):
        book.reserve(other)


def test_rows_of_another_tenant_in_the_same_frame_are_not_found() -> None:
    hers, his = a_budget(10), a_budget(10, tenant=BERT)
    hold = a_hold(1)
    book = a_book(hers, his, holds=(hold,))
    with pytest.raises(BudgetNotFound):
        book.reserve(a_hold(1, budgets=(his.id,)))
    for step in (
        lambda: book.dispatch(BERT, hold.id),
        lambda: book.settle(BERT, hold.id, Usage(), price_of),
        lambda: book.release(BERT, hold.id, dispatched_unbilled=True),
    ):
        with pytest.raises(HoldNotFound):
            step()
    with pytest.raises(BudgetNotFound):
        book.set_limit(ANNA, his.id, NanoUsd(0))
    assert book.changes().empty


def test_a_reservation_that_one_budget_cannot_add_up_is_held_in_none() -> None:
    own = replace(a_budget(100), mode=BudgetMode.SOFT)
    run = replace(a_budget(100, run_id="run_1", spent=2 * MAX_LIMIT - MAX_CHARGE), mode=BudgetMode.SOFT)
    book = a_book(own, run)
    with pytest.raises(Invalid):
        book.reserve(a_hold(10, budgets=(run.id,)))
    book.reserve(a_hold(7))
    assert [(budget.id, budget.held) for budget in book.changes().budgets] == [(own.id, 7)]


def test_a_settlement_above_the_bound_shows_as_overrun_and_stops_new_holds() -> None:
    sent = a_hold(10).dispatch(NOON)
    book = a_book(a_budget(10, held=10), holds=(sent,))
    book.settle(ANNA, sent.id, Usage(input=25), price_of)
    with pytest.raises(BudgetExhausted) as refusal:
        book.reserve(a_hold(0))
    assert refusal.value.metadata["cause"] == RefusalCause.OVERRUN
    changes = book.changes()
    assert (changes.budgets[0].spent, changes.budgets[0].overrun) == (25, 15)
    assert [alert.cause for alert in changes.alerts] == [AlertCause.OVERRUN, AlertCause.WARNED]
    assert {(alert.measure, alert.run_id) for alert in changes.alerts} == {(Measure.MONEY, "run_1")}
    ids = [alert.id for alert in changes.alerts]
    assert len(set(ids)) == 2


def test_a_limit_lowered_below_what_is_used_shows_as_overrun_and_raising_it_heals() -> None:
    book = a_book(a_budget(10, spent=6, held=2))
    assert book.set_limit(ANNA, tenant_budget_id(ANNA), NanoUsd(5)).overrun == 3
    assert book.set_limit(ANNA, tenant_budget_id(ANNA), NanoUsd(8)).overrun == 0


def test_late_usage_reverses_the_assumed_entry_and_adds_the_real_one() -> None:
    sent = a_hold(10).dispatch(NOON)
    book = a_book(a_budget(10, held=10), holds=(sent,), later=MINUTE)
    (assumed,) = book.expire_due()
    assert assumed.state is HoldState.ASSUMED
    book.settle(ANNA, sent.id, Usage(input=4), price_of)
    changes = book.changes()
    assert [(entry.cost, entry.assumed, entry.reversal) for entry in changes.entries] == [
        (10, True, False),
        (-10, True, True),
        (4, False, False),
    ]
    assert changes.entries[1].usage == Usage(input=-10)
    assert (changes.budgets[0].spent, changes.budgets[0].held) == (4, 0)


def test_an_absurd_usage_is_refused_and_the_hold_stays() -> None:
    sent = a_hold(10).dispatch(NOON)
    book = a_book(a_budget(10, held=10), holds=(sent,))
    with pytest.raises(Invalid, match="usage"):
        book.settle(ANNA, sent.id, Usage(input=MAX_CHARGE + 1), price_of)
    assert book.changes().empty


class Spending(RuleBasedStateMachine):
    """Random reserves, dispatches, settlements, releases, expiries and limits over a tenant's budget and two runs'."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.tenant = a_budget(200)
        self.runs = (a_budget(60, run_id="run_1"), a_budget(90, run_id="run_2"))
        self.budgets: dict[BudgetId, Budget] = {budget.id: budget for budget in (self.tenant, *self.runs)}
        self.known: dict[HoldId, Hold] = {}
        self.entries: list[CostEvent] = []
        self.now = NOON
        self.bounds_are_sound = True

    def transact(self, *steps: Callable[[SpendBook], object]) -> None:
        """Runs steps in one transaction, writes back, and checks that nothing moved the wrong way."""
        book = SpendBook(self.budgets.values(), self.known.values(), now=self.now, new_id=uuid4)
        for step in steps:
            try:
                step(book)
            except MeshError:
                continue
        changes = book.changes()
        self.rests_on_what_was(changes)
        for hold in (*changes.new_holds, *changes.holds):
            before = self.known.get(hold.id)
            if before is not None:
                assert before.state not in (HoldState.SETTLED, HoldState.RELEASED), "a terminal hold changed"
            self.known[hold.id] = hold
        for budget in changes.budgets:
            self.budgets[budget.id] = budget
        self.entries += changes.entries

    def rests_on_what_was(self, changes: Changes) -> None:
        """Every row that changes is among those it was decided on, as it was before."""
        assert {budget.id for budget in changes.budgets} <= {budget.id for budget in changes.seen_budgets}
        assert {hold.id for hold in changes.holds} == {hold.id for hold in changes.seen_holds}
        assert all(self.budgets[budget.id] == budget for budget in changes.seen_budgets)
        assert all(self.known[hold.id] == hold for hold in changes.seen_holds)

    @rule(target=holds, amounts=st.lists(st.integers(0, 80), min_size=1, max_size=4), where=st.integers(0, 2))
    def reserve(self, amounts: list[int], where: int) -> object:
        budgets = () if where == 2 else (self.runs[where].id,)
        wanted = [a_hold(amount, budgets=budgets, expires=self.now + MINUTE) for amount in amounts]
        before = {budget.id: budget for budget in self.budgets.values()}
        self.transact(*(lambda book, one=one: book.reserve(one) for one in wanted))
        for budget in self.budgets.values():
            if budget.held > before[budget.id].held:
                assert budget.spent + budget.held <= budget.limit, "a hold went above a limit"
        return multiple(*(one.id for one in wanted))

    @rule(hold=holds)
    def dispatch(self, hold: HoldId) -> None:
        self.transact(lambda book: book.dispatch(ANNA, hold))

    @rule(hold=holds, tokens=st.integers(0, 120))
    def settle(self, hold: HoldId, tokens: int) -> None:
        known = self.known.get(hold)
        if known is not None and tokens > known.amount:
            self.bounds_are_sound = False
        self.transact(lambda book: book.settle(ANNA, hold, Usage(input=tokens), price_of))

    @rule(hold=consumes(holds), unbilled=st.booleans())
    def release(self, hold: HoldId, unbilled: bool) -> None:
        self.transact(lambda book: book.release(ANNA, hold, dispatched_unbilled=unbilled))

    @rule(seconds=st.integers(1, 90))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.transact(lambda book: book.expire_due())

    @rule(which=st.integers(0, 2), limit=st.integers(0, 300))
    def set_limit(self, which: int, limit: int) -> None:
        budget = (self.tenant, *self.runs)[which].id
        self.bounds_are_sound = False
        self.transact(lambda book: book.set_limit(ANNA, budget, NanoUsd(limit)))

    @invariant()
    def every_budget_is_the_sum_of_its_holds(self) -> None:
        for budget in self.budgets.values():
            mine = [hold for hold in self.known.values() if budget.id in hold.budgets]
            assert budget.held == sum(hold.held for hold in mine)
            assert budget.spent == sum(hold.charged for hold in mine)

    @invariant()
    def the_database_constraint_holds(self) -> None:
        for budget in self.budgets.values():
            assert budget.spent + budget.held <= budget.limit + budget.overrun
            assert min(budget.spent, budget.held, budget.overrun, budget.limit) >= 0

    @invariant()
    def sound_bounds_and_steady_limits_never_overrun(self) -> None:
        if self.bounds_are_sound:
            assert all(budget.overrun == 0 for budget in self.budgets.values())

    @invariant()
    def the_ledger_equals_what_is_spent(self) -> None:
        assert sum(entry.cost for entry in self.entries) == self.budgets[self.tenant.id].spent

    @invariant()
    def what_left_is_held_settled_assumed_or_declared_free(self) -> None:
        for hold in self.known.values():
            if hold.state is HoldState.DISPATCHED:
                assert hold.held == hold.amount
            if hold.state is HoldState.ASSUMED:
                assert hold.charged == hold.amount


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=examples(60), stateful_step_count=40)
