"""Deciding on what was seen last and deciding on locked rows keep the same ledger, on real Postgres."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.changes import Changes
from services.cost.domain.hold import Hold, HoldId, HoldState
from services.cost.domain.hold_lines import HoldLines
from services.cost.domain.node import NodeKey
from services.cost.domain.period import Period
from services.cost.domain.price_table import ShippedPrices
from services.cost.domain.spend_book import SpendBook
from services.cost.domain.terms import BudgetMode, Terms, TermsChange
from services.cost.storage.budget_repository import BudgetRepository
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.storage.price_repository import PriceRepository
from services.cost.storage.unit_of_work import SpendStore
from services.cost.transport.convert import alert_to_message
from services.cost.usecases.expire_holds import ExpireHolds
from services.cost.usecases.ledger_ports import CostFilter
from services.cost.usecases.locked_tenants import LockedTenants
from services.cost.usecases.ports import LastSeen, SpendNeeds
from services.cost.usecases.prices import CurrentPrices, import_prices
from services.cost.usecases.remove_budget import RemoveBudget
from services.cost.usecases.set_budget import SetBudget
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.cost.usecases.spend import (
    Abandon,
    Dispatch,
    Extend,
    Foreseen,
    Operation,
    Outcome,
    Release,
    Reserve,
    Settle,
    Spend,
)
from services.meshkit.content import Usage
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.once import AnsweredBefore, Once, RequestInProgress, entered
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.money import a_price, a_purpose
from tests.support.unknown_prices import refused_unknown_prices

pytestmark = pytest.mark.asyncio(loop_scope="module")

_TENANT_LIMIT = NanoUsd(1000)
_RUN_LIMIT = NanoUsd(400)
#: Nodes that some calls lie in.
_NODES = (NodeKey(BudgetScope.AGENT, "Athena"), NodeKey(BudgetScope.STEP, "run_1/rounds"))


class Memory:
    """What a replica saw, and how often it was right; or the memory of one that forgets at once."""

    def __init__(self, store: LastSeen, *, forgetful: bool) -> None:
        self._store = store
        self._forgetful = forgetful
        self.right = 0
        self.wrong = 0
        #: How often what was decided ahead could be written, and how often rows had changed by then.
        self.foreseen = 0
        self.overtaken = 0

    def recall(self, needs: SpendNeeds, *, now: datetime) -> SpendBook | None:
        return None if self._forgetful else self._store.recall(needs, now=now)

    def stands(self, changes: Changes) -> bool:
        stands = self._store.stands(changes)
        self.foreseen += stands
        self.overtaken += not stands
        return stands

    async def write_if_unchanged(self, tenants: Iterable[TenantId], changes: Changes) -> bool:
        return self._noted(await self._store.write_if_unchanged(tenants, changes))

    async def limit_if_unchanged(self, changes: Changes) -> bool:
        return self._noted(await self._store.limit_if_unchanged(changes))

    def _noted(self, written: bool) -> bool:
        self.right += written
        self.wrong += not written
        return written


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation, in words that two ledgers share."""

    verb: str
    #: Position of the tenant.
    tenant: int
    #: Which request, or the hold that it made.
    request: UUID
    tokens: int
    #: Dispatched at once, or released as unbilled.
    flag: bool


class Ledger:
    """Two tenants, each with the budget of a run, and two replicas that spend for them."""

    def __init__(self, place: "Place", *, forgetful: bool) -> None:
        self.stores = [place.store() for _ in range(2)]
        self.memories = [Memory(store, forgetful=forgetful) for store in self.stores]
        # Even numbers, and the run of each comes next: both ledgers ask their budgets in the same order.
        self.tenants = (TenantId(UUID(int=uuid4().int & ~1)), TenantId(UUID(int=uuid4().int & ~1)))
        self._place = place
        self._replicas = [
            Spend(
                begin=store.begin_hastily,
                begin_patiently=store.begin,
                last_seen=memory,
                prices=place.prices,
                unknown=refused_unknown_prices(),
                lines=HoldLines(changed=lambda: None),
                clock=place.clock,
                ids=SystemIds(),
            )
            for store, memory in zip(self.stores, self.memories, strict=True)
        ]
        self._in_turn = [
            LockedTenants(
                partial(_carry_out, spend),
                foresee=partial(_foresee, spend),
                unlocked=store.unlocked,
                at_once=1,
                most=99,
            )
            for spend, store in zip(self._replicas, self.stores, strict=True)
        ]
        self._runs: list[BudgetId] = []
        self._holds: dict[UUID, HoldId] = {}
        #: As they were when they were made.
        self._made: dict[UUID, Hold] = {}

    async def open(self) -> None:
        for tenant in self.tenants:
            wanted = Budget(
                id=BudgetId(UUID(int=tenant.int + 1)),
                tenant=tenant,
                scope=BudgetScope.RUN,
                run_id="run_1",
                limit=_RUN_LIMIT,
                counted_from=self._place.clock.now(),
                created=self._place.clock.now(),
            )
            self._runs.append((await self.stores[0].add_budget(wanted)).id)

    async def spend(self, replica: int, steps: list[Step]) -> list[Any]:
        """Takes the steps as one frame; gives what became of each, without ids."""
        outcomes = (await self._replicas[replica].decide([self._operation(step) for step in steps])).outcomes
        return self._noted(steps, outcomes)

    async def spend_ahead(self, replica: int, *frames: list[Step]) -> list[Any]:
        """Takes frames at the same time, each decided while the one before it is written."""
        commit = self._in_turn[replica].commit
        asked = [commit([self._operation(step) for step in steps]) for steps in frames]
        found = await asyncio.gather(*asked)
        return [self._noted(steps, outcomes) for steps, outcomes in zip(frames, found, strict=True)]

    def _noted(self, steps: list[Step], outcomes: Sequence[Any]) -> list[Any]:
        for step, outcome in zip(steps, outcomes, strict=True):
            if isinstance(outcome, Hold) and step.verb == "reserve":
                self._holds[step.request] = outcome.id
                self._made.setdefault(step.request, outcome)
        return [_told(outcome) for outcome in outcomes]

    async def limit(self, replica: int, tenant: int, limit: int) -> None:
        store, clock = self.stores[replica], self._place.clock
        change = SetBudgetLimit(begin=store.begin, last_seen=self.memories[replica], clock=clock)
        await change(self.tenants[tenant], tenant_budget_id(self.tenants[tenant]), NanoUsd(limit))

    async def grow(self, replica: int, tenant: int, key: NodeKey, terms: Terms | None) -> str:
        """Sets a node, or removes it; tells what was said."""
        store, clock = self.stores[replica], self._place.clock
        try:
            if terms is None:
                await RemoveBudget(begin=store.begin, clock=clock)(self.tenants[tenant], key)
            else:
                change = SetBudget(begin=store.begin, clock=clock)
                await change(self.tenants[tenant], key, TermsChange.whole(terms))
        except MeshError as refusal:
            return refusal.reason
        return "done"

    async def books(self) -> list[Any]:
        """Gives all budgets and entries, without ids, and checks that they agree."""
        told: list[Any] = []
        for tenant in self.tenants:
            budgets = await self._place.budgets.page(tenant, size=10, after=None)
            entries = await self._place.ledger.page(tenant, CostFilter(), size=500, after=None)
            own = next(budget for budget in budgets if budget.scope is BudgetScope.TENANT)
            assert own.spent == sum(entry.cost for entry in entries)
            assert own.spent + own.held <= own.limit + own.overrun
            told += sorted(
                (one.scope, one.name, one.terms.mode, one.turn or one.created, one.exhausted, one.warned, *one.gauges)
                for one in budgets
            )
            told.append(
                sorted(
                    (entry.created, entry.cost, entry.usage.input, entry.assumed, entry.reversal) for entry in entries
                )
            )
        return told

    def _operation(self, step: Step) -> Operation:
        tenant = self.tenants[step.tenant]
        hold = self._holds.get(step.request, HoldId(step.request))
        match step.verb:
            case "reserve":
                return Reserve(
                    tenant=tenant,
                    request_id=step.request,
                    purpose=a_purpose(),
                    budgets=(self._runs[step.tenant],) if step.tokens % 2 else (),
                    bound=Usage(input=step.tokens),
                    tool_cost=NanoUsd(0),
                    ttl=timedelta(seconds=60),
                    dispatched=step.flag,
                )
            case "dispatch":
                return Dispatch(tenant=tenant, hold=hold)
            case "settle":
                return Settle(tenant=tenant, hold=hold, usage=Usage(input=step.tokens))
            case "abandon" if step.request in self._made:
                made = self._made[step.request]
                return Abandon(tenant=made.tenant, hold=made.id, made=made)
            case "extend":
                return Extend(tenant=tenant, hold=hold, life=timedelta(seconds=60 + step.tokens))
            case _:
                return Release(tenant=tenant, hold=hold, dispatched_unbilled=step.flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database, a clock and prices."""

    app: AsyncEngine
    maintenance: AsyncEngine
    clock: FakeClock
    prices: CurrentPrices
    budgets: BudgetRepository
    ledger: LedgerRepository

    def store(self) -> SpendStore:
        return SpendStore(
            app=self.app,
            hasty=self.app,
            maintenance=self.maintenance,
            ids=SystemIds(),
            tenant_limit=_TENANT_LIMIT,
            encode=alert_to_message,
            published=lambda: None,
            moved=lambda budgets: None,
        )


class Dice:
    """Random frames: mostly calls that go their way, and now and then anything, also for the wrong tenant."""

    def __init__(self, random: Random) -> None:
        self._random = random
        #: Every request so far.
        self._requests: list[Step] = []
        #: What is next for calls in progress.
        self._next: list[Step] = []

    def frame(self) -> list[Step]:
        return [self._step() for _ in range(self._random.choice((1, 1, 1, 1, 2, 4)))]

    def _step(self) -> Step:
        chance = self._random.random()
        if chance < 0.2 and self._requests:
            return self._anything()
        if chance < 0.6 and self._next:
            step = self._next.pop(self._random.randrange(len(self._next)))
        else:
            tokens = self._random.choice((0, 7, 20, 45))
            step = Step(
                verb="reserve",
                tenant=self._random.randrange(2),
                request=uuid4(),
                tokens=tokens,
                flag=self._random.random() < 0.6,
            )
            self._requests.append(step)
        if step.verb == "reserve" and not step.flag:
            self._next.append(replace(step, verb="dispatch"))
        elif step.verb in ("reserve", "dispatch"):
            verb = self._random.choice(("settle", "settle", "release"))
            self._next.append(replace(step, verb=verb, tokens=self._random.randrange(step.tokens + 1), flag=True))
        return step

    def _anything(self) -> Step:
        step = self._random.choice(self._requests[-6:])
        return replace(
            step,
            verb=self._random.choice(("reserve", "dispatch", "extend", "settle", "release", "abandon")),
            tenant=step.tenant if self._random.random() < 0.8 else 1 - step.tenant,
            tokens=self._random.choice((step.tokens, step.tokens, 60)),
        )


async def _carry_out(
    spend: Spend, items: Sequence[Any], *, patiently: bool, foreseen: Foreseen | None = None
) -> Sequence[Outcome]:
    return (await spend.decide(items, patiently=patiently, foreseen=foreseen)).outcomes


def _foresee(spend: Spend, items: Sequence[Any]) -> Foreseen | None:
    return spend.foresee(items)


def _told(outcome: Outcome) -> Any:
    if isinstance(outcome, MeshError):
        return outcome.reason, outcome.metadata.get("cause"), outcome.metadata.get("left_nano_usd")
    return outcome.state, outcome.amount, outcome.charged, outcome.usage, len(outcome.budgets)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(postgres: str) -> AsyncIterator[Place]:
    urls = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", urls.migrator)
    clock = FakeClock()
    async with sql_engine(urls.app, pool_size=3) as app, sql_engine(urls.maintenance, pool_size=2) as maintenance:
        table = PriceRepository(maintenance)
        await import_prices(table, ShippedPrices(edition=1, prices=(a_price(),)), free_providers=(), now=clock.now())
        prices = CurrentPrices(table, clock=clock, refresh_seconds=60)
        await prices.refresh()
        yield Place(
            app=app,
            maintenance=maintenance,
            clock=clock,
            prices=prices,
            budgets=BudgetRepository(app),
            ledger=LedgerRepository(app),
        )


@pytest.mark.parametrize("seed", range(6))
async def test_frames_decided_ahead_end_in_the_same_ledger(place: Place, seed: int) -> None:
    random = Random(seed)
    dice = Dice(random)
    ahead, locking = Ledger(place, forgetful=False), Ledger(place, forgetful=True)
    for ledger in (ahead, locking):
        await ledger.open()
    for _ in range(60):
        replica = int(random.random() < 0.15)
        if random.random() < 0.1:
            tenant, limit = random.randrange(2), random.choice((100, 1000, 4000))
            for ledger in (ahead, locking):
                await ledger.limit(replica, tenant, limit)
        frames = [dice.frame() for _ in range(3)]
        # Nobody can ask for what becomes of a hold before being told of it.
        made = {step.request for frame in frames for step in frame if step.verb == "reserve"}
        frames = [[step for step in frame if step.verb == "reserve" or step.request not in made] for frame in frames]
        frames = [frame for frame in frames if frame]
        assert await ahead.spend_ahead(replica, *frames) == [await locking.spend(replica, frame) for frame in frames]
    assert await ahead.books() == await locking.books()
    assert sum(memory.foreseen for memory in ahead.memories) > 15
    assert sum(memory.overtaken for memory in ahead.memories) > 0, "a frame should have been overtaken now and then"


@pytest.mark.parametrize("seed", range(6))
async def test_random_commands_end_in_the_same_ledger_either_way(place: Place, seed: int) -> None:
    random = Random(seed)
    dice = Dice(random)
    seeing, locking = Ledger(place, forgetful=False), Ledger(place, forgetful=True)
    for ledger in (seeing, locking):
        await ledger.open()
    for _ in range(100):
        replica = int(random.random() < 0.15)
        chance = random.random()
        if chance < 0.06:
            place.clock.advance(seconds=random.choice((20, 61)))
            sweep = ExpireHolds(begin=seeing.stores[replica].sweep, clock=place.clock, every_seconds=1)
            while await sweep.once():
                pass
        elif chance < 0.14:
            tenant, key = random.randrange(2), random.choice(_NODES)
            terms = None if random.random() < 0.3 else _terms(random)
            assert await seeing.grow(replica, tenant, key, terms) == await locking.grow(replica, tenant, key, terms)
        elif chance < 0.18:
            tenant, limit = random.randrange(2), random.choice((100, 1000, 4000))
            for ledger in (seeing, locking):
                await ledger.limit(replica, tenant, limit)
        else:
            frame = dice.frame()
            assert await seeing.spend(replica, frame) == await locking.spend(replica, frame)
    assert await seeing.books() == await locking.books()
    assert sum(memory.right for memory in seeing.memories) > 15
    assert sum(memory.wrong for memory in seeing.memories) > 0, "the rows should have changed under it now and then"


def _terms(random: Random) -> Terms:
    return Terms(
        limit=NanoUsd(random.choice((60, 300, 5000))),
        tokens=random.choice((None, 100, 1000)),
        calls=random.choice((None, 3, 50)),
        wall_ms=random.choice((None, 200_000)),
        mode=random.choice(tuple(BudgetMode)),
        period=random.choice((Period.NONE, Period.HOUR)),
    )


async def test_calls_and_changes_of_the_tree_at_once_leave_no_node_out(place: Place) -> None:
    """A call that was answered after a node was made spends from it, whichever replica answered."""
    ledger = Ledger(place, forgetful=False)
    await ledger.open()
    tenant, key = ledger.tenants[0], _NODES[0]

    async def spend_on(replica: int) -> None:
        left = 10
        while left:
            before = made.is_set()
            left -= before
            (told,) = await ledger.spend(replica, [_reserve(uuid4(), tokens=2)])
            assert told[-1] == 2 or not before, "a node that was there was left out"

    made = asyncio.Event()

    async def grow() -> None:
        await asyncio.sleep(0.02)
        assert await ledger.grow(1, 0, key, Terms(limit=NanoUsd(5000))) == "done"
        made.set()

    await asyncio.gather(spend_on(0), spend_on(1), grow())
    node = await place.budgets.find(tenant, key)
    assert node.calls.held > 0
    assert node.held == 2 * node.calls.held


async def test_the_same_request_at_two_replicas_at_once_makes_one_hold(place: Place) -> None:
    ledger = Ledger(place, forgetful=False)
    await ledger.open()
    for number in range(2):
        await ledger.spend(number, [_reserve(uuid4(), tokens=10)])
    for _ in range(10):
        steps = [_reserve(uuid4(), tokens=10)]
        told = await asyncio.gather(*(ledger.spend(number % 2, steps) for number in range(4)))
        assert told == [[(HoldState.DISPATCHED, 10, 0, None, 1)]] * 4
    own = await place.budgets.get(ledger.tenants[0], tenant_budget_id(ledger.tenants[0]))
    assert own.held == 12 * 10


async def test_a_limit_is_changed_in_one_round_trip_unless_its_budget_changed_meanwhile(place: Place) -> None:
    ledger = Ledger(place, forgetful=False)
    await ledger.open()
    memory = ledger.memories[0]
    told: list[tuple[int, int]] = []
    for replica, limit in ((0, 500), (0, 600), (1, 700), (0, 800), (0, 900), (0, 900)):
        await ledger.limit(replica, 0, limit)
        assert (await place.budgets.get(ledger.tenants[0], tenant_budget_id(ledger.tenants[0]))).limit == limit
        if replica == 0:
            told.append((memory.right, memory.wrong))
    assert told == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 1)], "the last one changes nothing, so it looks"


async def test_the_same_change_twice_at_once_is_done_once(place: Place) -> None:
    """Whoever comes second is told to ask again, or gets the answer of the first."""
    ledger = Ledger(place, forgetful=False)
    await ledger.open()
    await ledger.limit(0, 0, 500)
    tenant, request = ledger.tenants[0], uuid4()

    async def change(replica: int) -> str:
        this = Once(tenant=tenant, method="a.v1.B/C", request_id=request, body=b"800", answer=lambda _: b"answer")
        with entered(this):
            try:
                await ledger.limit(replica, 0, 800)
            except AnsweredBefore as before:
                return before.answer.decode()
            except RequestInProgress:
                return "wait"
        return "done" if this.claimed else "forgotten"

    told = await asyncio.gather(*(change(replica) for replica in (0, 0, 1, 0)))
    assert told.count("done") == 1
    assert "forgotten" not in told
    assert await change(1) == "answer"


def _reserve(request: UUID, *, tokens: int) -> Step:
    return Step(verb="reserve", tenant=0, request=request, tokens=tokens, flag=True)
