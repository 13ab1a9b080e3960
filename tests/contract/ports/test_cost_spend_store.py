"""One suite for the transactions of spending, on the fake and on real Postgres."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from comitia.cost.v1 import cost_pb2
from services.cost.domain.amounts import NONE
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, Warned, tenant_budget_id
from services.cost.domain.budget_alert import AlertCause
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.errors import BudgetNotFound, HoldFenced, HoldNotFound, NodeNotFound
from services.cost.domain.hold import Hold, HoldId, HoldState
from services.cost.domain.node import NodeKey
from services.cost.domain.period import Period
from services.cost.domain.price import Price
from services.cost.domain.spend_book import SpendBook
from services.cost.domain.terms import BudgetMode, Terms, TermsChange
from services.cost.storage.alert_retention import AlertRetention
from services.cost.storage.budget_alert_store import BudgetAlertStore
from services.cost.storage.budget_repository import BudgetRepository
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.storage.tables import METADATA
from services.cost.storage.unit_of_work import SpendStore
from services.cost.transport.convert import alert_to_message
from services.cost.usecases.ledger_ports import CostFilter
from services.cost.usecases.ports import (
    BudgetAlerts,
    KeptAlert,
    LastSeen,
    RunBudgets,
    SpendNeeds,
    Sweep,
    TreeRows,
    UnitOfWork,
)
from services.meshkit.content import Usage
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import drift, migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import maintenance_scope
from tests.support.memory_spend_store import MemorySpendStore
from tests.support.money import MINUTE, NOON, a_hold, a_price

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Store(LastSeen, RunBudgets, Protocol):
    def begin(self, tenants: Any, /) -> AbstractAsyncContextManager[UnitOfWork]: ...
    def sweep(self) -> AbstractAsyncContextManager[Sweep]: ...
    async def get(self, tenant: TenantId, budget: BudgetId) -> Budget: ...
    async def find(self, tenant: TenantId, key: NodeKey) -> Budget: ...
    async def page(
        self, tenant: TenantId, *, size: int, after: Any, scope: BudgetScope | None = None
    ) -> list[Budget]: ...
    async def tree(self, tenant: TenantId, *, most_runs: int) -> TreeRows: ...
    async def entries(self, tenant: TenantId) -> list[CostEvent]: ...
    @property
    def alerts(self) -> BudgetAlerts: ...


class PostgresStore:
    """The real unit of work and the real readers, as one store."""

    def __init__(
        self, store: SpendStore, budgets: BudgetRepository, ledger: LedgerRepository, alerts: BudgetAlertStore
    ) -> None:
        self.begin, self.sweep = store.begin, store.sweep
        self.recall, self.stands, self.write_if_unchanged = store.recall, store.stands, store.write_if_unchanged
        self.limit_if_unchanged, self.add_budget = store.limit_if_unchanged, store.add_budget
        self.get, self.page = budgets.get, budgets.page
        self.find, self.tree = budgets.find, budgets.tree
        self._ledger = ledger
        self.alerts: BudgetAlerts = alerts

    async def entries(self, tenant: TenantId) -> list[CostEvent]:
        return (await self._ledger.page(tenant, CostFilter(), size=100, after=None))[::-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", made.migrator)
    return made


@asynccontextmanager
async def postgres_store(urls: DatabaseUrls) -> AsyncIterator[PostgresStore]:
    async with sql_engine(urls.app, pool_size=3) as app, sql_engine(urls.maintenance, pool_size=2) as maintenance:
        spending = SpendStore(
            app=app,
            hasty=app,
            maintenance=maintenance,
            ids=SystemIds(),
            tenant_limit=NanoUsd(1000),
            encode=alert_to_message,
            published=lambda: None,
            moved=lambda budgets: None,
        )
        yield PostgresStore(spending, BudgetRepository(app), LedgerRepository(app), BudgetAlertStore(app))


@pytest.fixture(params=["memory", "postgres"])
def backend(request: pytest.FixtureRequest) -> DatabaseUrls | None:
    """The database to use, None for the fake."""
    return None if request.param == "memory" else request.getfixturevalue("urls")


@pytest_asyncio.fixture(loop_scope="module")
async def store(backend: DatabaseUrls | None) -> AsyncIterator[Store]:
    if backend is None:
        yield MemorySpendStore()
        return
    async with postgres_store(backend) as real:
        yield real


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(uuid4())


def reserving(*holds: Hold) -> SpendNeeds:
    return SpendNeeds(
        tenants=frozenset(hold.tenant for hold in holds),
        spenders=frozenset(hold.tenant for hold in holds),
        budgets=frozenset(budget for hold in holds for budget in hold.budgets),
        requests=frozenset((hold.tenant, hold.request_id) for hold in holds),
    )


def moving(*holds: Hold, tenants: frozenset[TenantId] | None = None) -> SpendNeeds:
    return SpendNeeds(
        tenants=tenants or frozenset(hold.tenant for hold in holds), moved=frozenset(hold.id for hold in holds)
    )


async def reserve(store: Store, *holds: Hold, commit: bool = True) -> None:
    needs = reserving(*holds)
    async with store.begin(needs.tenants) as work:
        book = await work.load(needs, now=NOON)
        for hold in holds:
            book.reserve(hold)
        await work.save(book.changes())
        if commit:
            await work.commit()


async def settle(store: Store, hold: Hold, tokens: int) -> None:
    async with store.begin((hold.tenant,)) as work:
        book = await work.load(moving(hold), now=NOON)
        book.dispatch(hold.tenant, hold.id)
        book.settle(hold.tenant, hold.id, Usage(input=tokens), price_of)
        await work.save(book.changes())
        await work.commit()


async def write_seen(store: Store, hold: Hold, step: Callable[[SpendBook], object]) -> bool:
    """Takes a step on what was seen last, and writes it unless it has changed."""
    fresh = store.recall(moving(hold), now=NOON) is None
    book = store.recall(reserving(hold) if fresh else moving(hold), now=NOON)
    assert book is not None
    step(book)
    return await store.write_if_unchanged((hold.tenant,), book.changes())


def price_of(digest: bytes) -> Price:
    assert digest == a_price().digest
    return a_price()


async def own(store: Store, tenant: TenantId) -> Budget:
    return await store.get(tenant, tenant_budget_id(tenant))


async def test_a_tenants_first_hold_makes_its_budget(store: Store, tenant: TenantId) -> None:
    await reserve(store, a_hold(10, tenant=tenant))
    budget = await own(store, tenant)
    assert (budget.limit, budget.held, budget.scope, budget.created) == (1000, 10, BudgetScope.TENANT, NOON)


async def test_what_is_not_committed_never_happened(store: Store, tenant: TenantId) -> None:
    await reserve(store, a_hold(10, tenant=tenant), commit=False)
    with pytest.raises(BudgetNotFound):
        await own(store, tenant)
    await reserve(store, a_hold(7, tenant=tenant))
    assert (await own(store, tenant)).held == 7


async def test_a_hold_comes_back_as_it_was_written(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant)
    await reserve(store, hold)
    again = a_hold(10, tenant=tenant, request_id=hold.request_id)
    async with store.begin((tenant,)) as work:
        found = (await work.load(reserving(again), now=NOON)).reserve(again)
    assert (found.id, found.bound, found.budgets, found.price) == (hold.id, hold.bound, hold.budgets, hold.price)
    assert (found.expires, found.created, found.state) == (hold.expires, hold.created, HoldState.RESERVED)
    assert found.purpose.context.call_id == hold.purpose.context.call_id


async def test_a_settlement_moves_money_in_every_budget_and_writes_one_entry(store: Store, tenant: TenantId) -> None:
    run = await store.add_budget(
        Budget(
            id=BudgetId(uuid4()),
            tenant=tenant,
            scope=BudgetScope.RUN,
            run_id="run_1",
            limit=NanoUsd(50),
            created=NOON,
        )
    )
    hold = a_hold(10, tenant=tenant, budgets=(run.id,))
    await reserve(store, hold)
    await settle(store, hold, 4)
    for budget in (await own(store, tenant), await store.get(tenant, run.id)):
        assert (budget.spent, budget.held) == (4, 0)
    (entry,) = await store.entries(tenant)
    assert (entry.hold, entry.cost, entry.usage, entry.assumed) == (hold.id, 4, Usage(input=4), False)


async def test_a_run_has_one_budget(store: Store, tenant: TenantId) -> None:
    made: list[Budget] = []
    for limit in (50, 60):
        wanted = Budget(
            id=BudgetId(uuid4()),
            tenant=tenant,
            scope=BudgetScope.RUN,
            run_id="run_1",
            limit=NanoUsd(limit),
            counted_from=NOON,
            created=NOON,
        )
        made.append(await store.add_budget(wanted))
    assert made[0] == made[1]
    assert await store.page(tenant, size=10, after=None) == [made[0]]


async def test_a_runs_budget_keeps_the_project_and_takes_calls_of_no_other(store: Store, tenant: TenantId) -> None:
    runs = [
        await store.add_budget(
            Budget(
                id=BudgetId(uuid4()),
                tenant=tenant,
                scope=BudgetScope.RUN,
                run_id=f"run_{number}",
                project=project,
                limit=NanoUsd(50),
                created=NOON,
            )
        )
        for number, project in enumerate(("atlas", "", None))
    ]
    assert [(await store.get(tenant, run.id)).project for run in runs] == ["atlas", "", None]
    # The project of this call is empty.
    for run in runs[1:]:
        await reserve(store, a_hold(10, tenant=tenant, budgets=(run.id,)))
    with pytest.raises(Invalid) as refused:
        await reserve(store, a_hold(10, tenant=tenant, budgets=(runs[0].id,)))
    assert refused.value.field == "context.project"
    assert [(await store.get(tenant, run.id)).held for run in runs] == [0, 10, 10]


async def test_two_who_make_the_budget_of_one_run_at_once_get_the_same(store: Store, tenant: TenantId) -> None:
    wanted = [
        Budget(
            id=BudgetId(uuid4()),
            tenant=tenant,
            scope=BudgetScope.RUN,
            run_id="run_1",
            limit=NanoUsd(50),
            counted_from=NOON,
            created=NOON,
        )
        for _ in range(4)
    ]
    made = await asyncio.gather(*(store.add_budget(budget) for budget in wanted))
    assert len({budget.id for budget in made}) == 1


async def test_rows_of_a_tenant_outside_the_transaction_are_not_there(store: Store, tenant: TenantId) -> None:
    stranger = TenantId(uuid4())
    hold = a_hold(10, tenant=tenant)
    await reserve(store, hold)
    async with store.begin((stranger,)) as work:
        book = await work.load(moving(hold, tenants=frozenset((stranger,))), now=NOON)
        with pytest.raises(HoldNotFound):
            book.release(tenant, hold.id, dispatched_unbilled=True)
    with pytest.raises(BudgetNotFound):
        await store.get(stranger, tenant_budget_id(tenant))
    assert await store.page(stranger, size=10, after=None) == []
    assert await store.entries(stranger) == []


async def test_what_was_seen_is_decided_and_written_without_loading_it_again(store: Store, tenant: TenantId) -> None:
    await reserve(store, a_hold(1, tenant=tenant))
    hold = a_hold(10, tenant=tenant)
    for step in (
        lambda book: book.reserve(hold),
        lambda book: book.dispatch(tenant, hold.id),
        lambda book: book.settle(tenant, hold.id, Usage(input=4), price_of),
    ):
        assert await write_seen(store, hold, step)
    budget = await own(store, tenant)
    assert (budget.spent, budget.held) == (4, 1)
    (entry,) = await store.entries(tenant)
    assert (entry.hold, entry.cost, entry.usage, entry.purpose) == (hold.id, 4, Usage(input=4), hold.purpose)
    assert (entry.price, entry.created) == (hold.price, NOON)


async def test_a_decision_on_a_budget_that_changed_meanwhile_writes_nothing(store: Store, tenant: TenantId) -> None:
    await reserve(store, a_hold(1, tenant=tenant))
    # A free call changes no budget, but its budget was asked whether it is overrun.
    for amount in (10, 0):
        hold = a_hold(amount, tenant=tenant)
        book = store.recall(reserving(hold), now=NOON)
        assert book is not None
        book.reserve(hold)
        await reserve(store, a_hold(2, tenant=tenant))
        held = (await own(store, tenant)).held
        assert not await store.write_if_unchanged((tenant,), book.changes())
        assert (await own(store, tenant)).held == held
        await reserve(store, hold)


async def test_a_decision_on_a_hold_that_changed_meanwhile_writes_nothing(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant)
    await reserve(store, hold)
    book = store.recall(moving(hold), now=NOON)
    assert book is not None
    book.dispatch(tenant, hold.id)
    assert await write_seen(store, hold, lambda other: other.dispatch(tenant, hold.id))
    assert not await store.write_if_unchanged((tenant,), book.changes())


async def test_a_request_that_was_made_before_is_noticed_when_it_is_written(store: Store, tenant: TenantId) -> None:
    first = a_hold(10, tenant=tenant)
    await reserve(store, first)
    again = a_hold(10, tenant=tenant, request_id=first.request_id)
    assert not await write_seen(store, again, lambda book: book.reserve(again))
    assert (await own(store, tenant)).held == 10


async def test_a_hold_that_a_repeat_took_over_meanwhile_is_not_freed(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant).dispatch(NOON)
    await reserve(store, hold)
    book = store.recall(moving(hold), now=NOON)
    assert book is not None
    book.abandon(hold)
    # As by another replica, whose memory is its own.
    async with store.begin((tenant,)) as work:
        locked = await work.load(reserving(replace(hold, id=HoldId(uuid4()))), now=NOON + MINUTE)
        locked.reserve(replace(hold, id=HoldId(uuid4())))
        await work.save(locked.changes())
        await work.commit()
    assert not await store.write_if_unchanged((tenant,), book.changes())
    assert (await own(store, tenant)).held == 10


async def test_what_was_seen_stands_until_it_changes(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant)
    await reserve(store, hold)
    book = store.recall(moving(hold), now=NOON)
    assert book is not None
    book.release(tenant, hold.id, dispatched_unbilled=True)
    assert store.stands(book.changes())
    assert await write_seen(store, hold, lambda book: book.dispatch(tenant, hold.id))
    assert not store.stands(book.changes())


async def test_what_is_being_written_is_recalled_as_if_it_were(store: Store, tenant: TenantId) -> None:
    first, second = a_hold(10, tenant=tenant), a_hold(7, tenant=tenant)
    await reserve(store, a_hold(1, tenant=tenant))
    book = store.recall(reserving(first), now=NOON)
    assert book is not None
    book.reserve(first)
    writing = asyncio.create_task(store.write_if_unchanged((tenant,), book.changes()))
    await asyncio.sleep(0)
    ahead = store.recall(reserving(second), now=NOON)
    assert ahead is not None
    ahead.reserve(second)
    assert await writing
    assert store.stands(ahead.changes())
    assert await store.write_if_unchanged((tenant,), ahead.changes())
    assert (await own(store, tenant)).held == 18


async def test_what_could_not_be_written_is_recalled_no_more(store: Store, tenant: TenantId) -> None:
    first, second = a_hold(10, tenant=tenant), a_hold(7, tenant=tenant)
    await reserve(store, a_hold(1, tenant=tenant))
    book = store.recall(reserving(first), now=NOON)
    assert book is not None
    book.reserve(first)
    changes = book.changes()
    # The same request again: its hold is there.
    assert await store.write_if_unchanged((tenant,), changes)
    assert not await store.write_if_unchanged((tenant,), replace(changes, seen_budgets=(), budgets=()))
    ahead = store.recall(reserving(second), now=NOON)
    assert ahead is None or await _held_by_all(store, ahead, second, tenant) == 18


async def _held_by_all(store: Store, book: SpendBook, hold: Hold, tenant: TenantId) -> int:
    book.reserve(hold)
    await store.write_if_unchanged((tenant,), book.changes())
    return (await own(store, tenant)).held


async def test_a_limit_is_written_on_the_budget_that_was_seen_and_on_no_other(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant)
    await reserve(store, hold)
    needs = moving(hold)
    first, second = (store.recall(needs, now=NOON) for _ in range(2))
    assert first is not None
    assert second is not None
    for book, limit in ((first, 700), (second, 800)):
        book.set_limit(tenant, tenant_budget_id(tenant), NanoUsd(limit))
    assert await store.limit_if_unchanged(first.changes())
    assert not await store.limit_if_unchanged(second.changes())
    budget = await own(store, tenant)
    assert (budget.limit, budget.held) == (700, 10)


async def test_only_open_holds_and_known_budgets_are_recalled(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant)
    assert store.recall(reserving(hold), now=NOON) is None
    assert store.recall(moving(hold), now=NOON) is None
    await reserve(store, hold)
    assert store.recall(moving(hold), now=NOON) is not None
    await settle(store, hold, 4)
    assert store.recall(moving(hold), now=NOON) is None


async def test_what_was_seen_of_another_tenant_is_not_found(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant)
    await reserve(store, hold)
    stranger = TenantId(uuid4())
    book = store.recall(moving(hold, tenants=frozenset((stranger,))), now=NOON)
    assert book is not None
    with pytest.raises(HoldNotFound):
        book.release(stranger, hold.id, dispatched_unbilled=True)
    book.release(tenant, hold.id, dispatched_unbilled=True)
    assert not await store.write_if_unchanged((stranger,), book.changes())
    assert (await own(store, tenant)).held == 10


async def test_an_alert_is_written_with_what_it_tells_of(
    store: Store, backend: DatabaseUrls | None, tenant: TenantId
) -> None:
    hold = a_hold(10, tenant=tenant).dispatch(NOON)
    await reserve(store, hold)
    assert await write_seen(store, hold, lambda book: book.settle(tenant, hold.id, Usage(input=2000), price_of))
    assert (await own(store, tenant)).overrun == 1000
    if backend is not None:
        query = text("SELECT subject FROM outbox WHERE tenant_id = :tenant")
        async with sql_engine(backend.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            subjects = (await scope.execute(query, {"tenant": tenant})).scalars().all()
        assert sorted(subjects) == [f"comitia.cost.budget.{cause}.v1.{tenant}" for cause in ("overrun", "warned")]


async def test_the_sweep_sees_holds_of_all_tenants_that_are_due_and_no_others(store: Store) -> None:
    anna, bert = TenantId(uuid4()), TenantId(uuid4())
    late = NOON + timedelta(days=30)
    holds = [a_hold(1, tenant=anna), a_hold(2, tenant=bert), a_hold(4, tenant=bert, expires=late)]
    await reserve(store, *holds)
    async with store.sweep() as sweep:
        assert await sweep.load_due(now=NOON, most=10) is None
    async with store.sweep() as sweep:
        book = await sweep.load_due(now=NOON + MINUTE, most=1000)
        assert book is not None
        book.expire_due()
        await sweep.save(book.changes())
        await sweep.commit()
    assert [(await own(store, tenant)).held for tenant in (anna, bert)] == [0, 4]


async def test_a_sweep_leaves_alone_those_it_is_told_to(store: Store) -> None:
    anna, bert = TenantId(uuid4()), TenantId(uuid4())
    await reserve(store, a_hold(1, tenant=anna), a_hold(2, tenant=bert))
    async with store.sweep() as sweep:
        book = await sweep.load_due(now=NOON + MINUTE, most=1000, without={anna})
        assert book is not None
        swept = {hold.tenant for hold in book.holds}
    assert (anna in swept, bert in swept) == (False, True)


async def test_a_sweep_is_bounded_and_begins_with_the_oldest(store: Store, tenant: TenantId) -> None:
    old = NOON - timedelta(days=300)
    await reserve(store, a_hold(1, tenant=tenant, expires=old), a_hold(2, tenant=tenant, expires=old + MINUTE))
    async with store.sweep() as sweep:
        book = await sweep.load_due(now=old + 2 * MINUTE, most=1)
        assert book is not None
        assert [hold.amount for hold in book.expire_due()] == [1]


async def test_budgets_are_paged_newest_first(store: Store, tenant: TenantId) -> None:
    for number in range(5):
        await store.add_budget(
            Budget(
                id=BudgetId(UUID(int=tenant.int ^ number)),
                tenant=tenant,
                scope=BudgetScope.RUN,
                run_id=f"run_{number}",
                limit=NanoUsd(1),
                created=NOON + number // 2 * MINUTE,
            )
        )
    first = await store.page(tenant, size=3, after=None)
    rest = await store.page(tenant, size=3, after=(first[-1].created, first[-1].id))
    whole = [(budget.created, budget.id) for budget in (*first, *rest)]
    assert len(whole) == 5
    assert whole == sorted(whole, reverse=True)


async def test_every_table_is_guarded_and_described(urls: DatabaseUrls) -> None:
    async with sql_engine(urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        guards = await audit_catalogue(scope)
    assert [guard for guard in guards if guard.faults] == []
    assert {guard.name for guard in guards if guard.untenanted is None} == {
        "audit_entry",
        "budget",
        "budget_alert",
        "hold",
        "cost_day",
        "cost_event",
        "cost_hour",
        "cost_run_hour",
        "cost_use_day",
        "outbox",
        "request_id",
        "spend_alert",
        "spike_rule",
        "unknown_price",
    }
    assert await drift("services.cost", urls.migrator, METADATA) == []


async def test_migrations_go_back_and_forth(postgres: str) -> None:
    made = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", made.migrator)
    await migrate("services.cost", made.migrator, to="base", back=True)
    await migrate("services.cost", made.migrator)


async def test_budgets_of_the_release_before_warn_and_keep_what_was_set(postgres: str) -> None:
    made = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", made.migrator, to="0012")
    tenants = [uuid4() for _ in range(4)]
    limits, quotas = (500, 100, 10**12, 70), (500, 500, 500, 0)
    connection = await asyncpg.connect(made.migrator)
    try:
        await connection.executemany(
            """INSERT INTO budget (id, tenant_id, scope, limit_nano_usd, spent_nano_usd, held_nano_usd,
                                   overrun_nano_usd, exhausted, created_time, period, zone, turn_time)
               VALUES ($1, $1, 1, $2, 0, 0, 0, false, $3, 0, 'UTC', NULL)""",
            [(tenant, limit, NOON) for tenant, limit in zip(tenants, limits, strict=True)],
        )
        await connection.executemany(
            "INSERT INTO tenant_quota VALUES ($1, $2)", list(zip(tenants, quotas, strict=True))
        )
        await migrate("services.cost", made.migrator)
        rows = await connection.fetch("SELECT * FROM budget ORDER BY array_position($1::uuid[], id)", tenants)
    finally:
        await connection.close()
    kept = [(row["quota_nano_usd"], row["own_limit_nano_usd"], row["warn_at"], row["counted_from"]) for row in rows]
    own = (None, 100, None, 70)
    assert kept == [(quota, limit, 80, NOON) for quota, limit in zip(quotas, own, strict=True)]


ATHENA = NodeKey(BudgetScope.AGENT, "Athena")


async def define(store: Store, tenant: TenantId, key: NodeKey = ATHENA, **terms: Any) -> Budget:
    needs = SpendNeeds(
        tenants=frozenset((tenant,)),
        spenders=frozenset((tenant,)),
        budgets=frozenset((tenant_budget_id(tenant),)),
        nodes=frozenset(((tenant, key),)),
    )
    async with store.begin((tenant,)) as work:
        book = await work.load(needs, now=NOON)
        values: dict[str, Any] = {"limit": NanoUsd(100), **terms}
        budget = book.define(tenant, key, TermsChange.whole(Terms(**values)), charged=NONE)
        await work.save(book.changes())
        await work.commit()
    return budget


def calling(hold: Hold) -> SpendNeeds:
    return replace(reserving(hold), calls=((hold.tenant, hold.purpose.context),))


async def test_a_node_comes_back_as_it_was_defined(store: Store, tenant: TenantId) -> None:
    terms = Terms(
        limit=NanoUsd(7),
        tokens=8,
        calls=9,
        wall_ms=10,
        mode=BudgetMode.DEGRADE,
        warn_at=55,
        period=Period.MONTH,
        zone="Europe/Berlin",
    )
    made = await define(store, tenant, **{name: getattr(terms, name) for name in Terms.__slots__})
    found = await store.find(tenant, ATHENA)
    assert (found.id, found.terms, found.turn, found.created) == (made.id, terms, made.turn, NOON)
    assert found == await store.get(tenant, made.id)
    again = await define(store, tenant, limit=NanoUsd(70))
    assert again.id == made.id
    assert (await store.find(tenant, ATHENA)).terms == Terms(limit=NanoUsd(70))
    assert (await own(store, tenant)).tree == 1


async def test_a_call_is_held_in_the_nodes_that_stand_beside_it(store: Store, tenant: TenantId) -> None:
    node = await define(store, tenant)
    await define(store, tenant, NodeKey(BudgetScope.AGENT, "Apollo"))
    hold = a_hold(10, tenant=tenant)
    async with store.begin((tenant,)) as work:
        book = await work.load(calling(hold), now=NOON)
        assert book.reserve(hold).budgets == tuple(sorted((tenant_budget_id(tenant), node.id)))
        await work.save(book.changes())
        await work.commit()
    found = await store.find(tenant, ATHENA)
    assert (found.held, found.tokens.held, found.calls.held, found.wall.held) == (10, 10, 1, 60_000)
    async with store.begin((tenant,)) as work:
        assert await work.nodes(tenant) == 2


async def test_what_was_decided_on_an_older_tree_is_not_written(store: Store, tenant: TenantId) -> None:
    await define(store, tenant, NodeKey(BudgetScope.PROJECT, "other"))
    first, second = a_hold(1, tenant=tenant), a_hold(2, tenant=tenant)
    book = store.recall(calling(first), now=NOON)
    if book is None:
        async with store.begin((tenant,)) as work:
            locked = await work.load(calling(first), now=NOON)
            locked.reserve(first)
            await work.save(locked.changes())
            await work.commit()
        book = store.recall(calling(second), now=NOON)
    assert book is not None, "a tree that was read is known"
    book.reserve(second)
    node = await define(store, tenant)
    assert not await store.write_if_unchanged((tenant,), book.changes())
    again = store.recall(calling(second), now=NOON)
    assert again is None or node.id in again.reserve(second).budgets


async def test_a_removed_node_is_nowhere_until_one_of_its_name_is_made_which_is_the_same(
    store: Store, tenant: TenantId
) -> None:
    node = await define(store, tenant)
    needs = SpendNeeds(
        tenants=frozenset((tenant,)),
        spenders=frozenset((tenant,)),
        budgets=frozenset((tenant_budget_id(tenant), node.id)),
    )
    async with store.begin((tenant,)) as work:
        book = await work.load(needs, now=NOON)
        book.remove(tenant, node.id)
        await work.save(book.changes())
        await work.commit()
    with pytest.raises(NodeNotFound):
        await store.find(tenant, ATHENA)
    with pytest.raises(BudgetNotFound):
        await store.get(tenant, node.id)
    assert [budget.id for budget in (await store.tree(tenant, most_runs=5)).budgets] == [tenant_budget_id(tenant)]
    again = await define(store, tenant, limit=NanoUsd(7))
    assert (again.id, again.limit) == (node.id, 7)
    assert (await store.find(tenant, ATHENA)).id == node.id
    assert (await own(store, tenant)).tree == 3


async def test_budgets_are_listed_by_scope_and_as_a_tree(store: Store, tenant: TenantId) -> None:
    await define(store, tenant)
    for number in range(3):
        wanted = Budget(
            id=BudgetId(uuid4()),
            tenant=tenant,
            scope=BudgetScope.RUN,
            run_id=f"run_{number}",
            limit=NanoUsd(1),
            created=NOON + number * MINUTE,
        )
        await store.add_budget(wanted)
    runs = await store.page(tenant, size=9, after=None, scope=BudgetScope.RUN)
    assert [budget.run_id for budget in runs] == ["run_2", "run_1", "run_0"]
    assert [budget.name for budget in await store.page(tenant, size=9, after=None, scope=BudgetScope.AGENT)] == [
        "Athena"
    ]
    await define(store, tenant, NodeKey(BudgetScope.STEP, "run_0/rounds"))
    await define(store, tenant, NodeKey(BudgetScope.STEP, "run_2/rounds"))
    await define(store, tenant, NodeKey(BudgetScope.STEP, "run_9/rounds"))
    tree = await store.tree(tenant, most_runs=2)
    assert (tree.more_runs, tree.steps_left_out) == (True, 1)
    assert {(budget.scope, budget.name or budget.run_id) for budget in tree.budgets} == {
        (BudgetScope.STEP, "run_2/rounds"),
        # Its run has no budget that could be shown.
        (BudgetScope.STEP, "run_9/rounds"),
        (BudgetScope.TENANT, None),
        (BudgetScope.AGENT, "Athena"),
        (BudgetScope.RUN, "run_2"),
        (BudgetScope.RUN, "run_1"),
    }
    assert (await store.find(tenant, NodeKey(BudgetScope.RUN, "run_1"))).id == runs[1].id
    stranger = TenantId(uuid4())
    assert (await store.tree(stranger, most_runs=5)).budgets == []
    with pytest.raises(NodeNotFound):
        await store.find(stranger, ATHENA)


async def test_a_life_that_is_longer_and_a_fence_are_kept(store: Store, tenant: TenantId) -> None:
    hold = a_hold(10, tenant=tenant)
    await reserve(store, hold)
    assert await write_seen(store, hold, lambda book: book.extend(tenant, hold.id, timedelta(hours=2), fence=3))
    async with store.begin((tenant,)) as work:
        book = await work.load(moving(hold), now=NOON)
        with pytest.raises(HoldFenced):
            book.dispatch(tenant, hold.id, fence=2)
        found = book.dispatch(tenant, hold.id)
    assert (found.expires, found.fence, found.dispatched) == (NOON + timedelta(hours=2), 3, NOON)
    assert (await own(store, tenant)).wall.held == 7_200_000


async def test_the_sweep_may_tell_of_a_budget_that_warns(store: Store, tenant: TenantId) -> None:
    await define(store, tenant, limit=NanoUsd(10), mode=BudgetMode.SOFT)
    hold = replace(a_hold(10, tenant=tenant, expires=NOON - timedelta(days=400)), created=NOON - timedelta(days=401))
    hold = hold.dispatch(NOON - timedelta(days=401))
    async with store.begin((tenant,)) as work:
        book = await work.load(calling(hold), now=NOON)
        book.reserve(hold)
        await work.save(book.changes())
        await work.commit()
    async with store.sweep() as sweep:
        due = await sweep.load_due(now=NOON - timedelta(days=399), most=10)
        assert due is not None
        due.expire_due()
        changes = due.changes()
        assert [alert.cause for alert in changes.alerts] == [AlertCause.WARNED]
        await sweep.save(changes)
        await sweep.commit()
    assert (await store.find(tenant, ATHENA)).warned is Warned.FULL
    (kept,) = await store.alerts.page(tenant, size=10, after=None)
    assert (kept.id, told(kept).run_id) == (changes.alerts[0].id, hold.run_id)


def told(alert: KeptAlert) -> cost_pb2.BudgetAlert:
    return cost_pb2.BudgetAlert.FromString(alert.body)


async def overrun(store: Store, tenant: TenantId, *, at: datetime = NOON, run: Budget | None = None) -> None:
    """Has a call of a run take budgets beyond their limits: each tells that it overran, and that it warns."""
    named = () if run is None else (run.id,)
    hold = replace(a_hold(10, tenant=tenant, budgets=named, expires=at + MINUTE), created=at)
    await reserve(store, hold)
    async with store.begin((tenant,)) as work:
        book = await work.load(moving(hold), now=at)
        book.dispatch(tenant, hold.id)
        book.settle(tenant, hold.id, Usage(input=2000), lambda _: a_price())
        await work.save(book.changes())
        await work.commit()


async def test_alerts_are_kept_with_what_they_are_about_and_paged_newest_first(store: Store, tenant: TenantId) -> None:
    run = await store.add_budget(
        Budget(
            id=BudgetId(uuid4()),
            tenant=tenant,
            scope=BudgetScope.RUN,
            run_id="run_1",
            limit=NanoUsd(500),
            created=NOON,
        )
    )
    await overrun(store, tenant, run=run)
    first = await store.alerts.page(tenant, size=3, after=None)
    rest = await store.alerts.page(tenant, size=3, after=(first[-1].at, first[-1].id))
    places = [(alert.at, alert.id) for alert in (*first, *rest)]
    assert (len(places), places) == (4, sorted(places, reverse=True))
    own, of_run = cost_pb2.BUDGET_SCOPE_TENANT, cost_pb2.BUDGET_SCOPE_RUN
    warned, overran = cost_pb2.BUDGET_ALERT_CAUSE_WARNED, cost_pb2.BUDGET_ALERT_CAUSE_OVERRUN
    found = [told(alert) for alert in (*first, *rest)]
    assert {(one.budget.scope, one.cause) for one in found} == {
        (scope, cause) for scope in (own, of_run) for cause in (warned, overran)
    }
    assert {(one.run_id, one.measure) for one in found} == {("run_1", cost_pb2.BUDGET_MEASURE_MONEY)}
    assert {one.budget.overrun_nano_usd for one in found} == {1000, 1500}
    for_run = await store.alerts.page(tenant, size=10, after=None, budget=run.id)
    assert {told(one).budget.budget_id for one in for_run} == {from_uuid("budget", run.id)}
    assert len(for_run) == 2


async def test_alerts_are_of_their_tenant_alone(store: Store, tenant: TenantId) -> None:
    await overrun(store, tenant)
    other = TenantId(uuid4())
    assert await store.alerts.page(other, size=10, after=None) == []
    assert await store.alerts.page(other, size=10, after=None, budget=tenant_budget_id(tenant)) == []
    assert len(await store.alerts.page(tenant, size=10, after=None, budget=tenant_budget_id(tenant))) == 2


async def test_a_transaction_that_is_not_committed_tells_of_nothing(store: Store, tenant: TenantId) -> None:
    async with store.begin((tenant,)) as work:
        needs = SpendNeeds(tenants=frozenset((tenant,)), spenders=frozenset((tenant,)))
        book = await work.load(replace(needs, budgets=frozenset((tenant_budget_id(tenant),))), now=NOON)
        hold = a_hold(10, tenant=tenant)
        book.reserve(hold)
        book.set_limit(tenant, tenant_budget_id(tenant), NanoUsd(5))
        changes = book.changes()
        assert [alert.cause for alert in changes.alerts] == [AlertCause.OVERRUN]
        await work.save(changes)
    assert await store.alerts.page(tenant, size=10, after=None) == []


async def test_old_alerts_go_and_a_clock_that_runs_ahead_makes_none_old(urls: DatabaseUrls) -> None:
    tenant, later = TenantId(uuid4()), TenantId(uuid4())
    long_ago, to_come = NOON.replace(year=2020), NOON.replace(year=2200)
    async with postgres_store(urls) as store, sql_engine(urls.maintenance, pool_size=1) as maintenance:
        await overrun(store, tenant, at=long_ago)
        await overrun(store, later, at=to_come)
        forget = AlertRetention(maintenance).forget
        await forget(long_ago + 2 * MINUTE, keep=3 * MINUTE, most=1000)
        assert len(await store.alerts.page(tenant, size=10, after=None)) == 2
        await forget(long_ago + 2 * MINUTE, keep=MINUTE, most=1000)
        assert await store.alerts.page(tenant, size=10, after=None) == []
        await forget(to_come + 2 * MINUTE, keep=MINUTE, most=1000)
        assert len(await store.alerts.page(later, size=10, after=None)) == 2
