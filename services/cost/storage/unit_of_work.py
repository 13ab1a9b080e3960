"""Transactions of spending: lock rows, give them as a book, write back what the book changed; or skip the locking."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.amounts import Amounts
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.changes import Changes
from services.cost.domain.hold import Hold
from services.cost.domain.node import NodeKey, Tree, nodes_beside
from services.cost.domain.spend_book import Recount, SpendBook
from services.cost.storage import statements as sql
from services.cost.storage.one_trips import ADD_RUN_BUDGET, LIMIT_BUDGET, WRITE_SPENDING
from services.cost.storage.rows import EncodeAlert, arrays_of, budget_of, definition_of, hold_of, limit_values
from services.cost.storage.seen_rows import SeenRows
from services.cost.usecases.ports import SpendNeeds, Sweep, UnitOfWork
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.recorded_trip import recorded_trip
from services.meshkit.sql.scope import DriverScope, driver_scope, listed_tenants

#: Entries of the ledger that are counted at once: about a second.
_MOST_COUNTED: Final = 200_000
#: Tenants whose budget is known to exist, per process.
_MOST_KNOWN: Final = 100_000
#: The setting of a transaction of the maintenance role, which sees all tenants by its own policies.
_NO_TENANT: Final = "{}"


class SpendStore:
    """Opens transactions of spending, and remembers the rows of the last ones: a `LastSeen` and `RunBudgets`.

    Args:
        app: engine of the `app` role.
        hasty: another one of that role, whose statements wait for locks for a moment only.
        maintenance: engine of the `maintenance` role, for the sweep.
        tenant_limit: limit of a tenant's own budget when it is made.
        published: called after a commit that wrote an alert, to wake the relay.
        moved: called after a commit with the budgets that it changed.
    """

    def __init__(
        self,
        *,
        app: AsyncEngine,
        hasty: AsyncEngine,
        maintenance: AsyncEngine,
        ids: IdSource,
        tenant_limit: NanoUsd,
        encode: EncodeAlert,
        published: Callable[[], None],
        moved: Callable[[Iterable[Budget]], None],
    ) -> None:
        self._app = app
        self._hasty = hasty
        self._maintenance = maintenance
        self._ids = ids
        self._tenant_limit = tenant_limit
        self._encode = encode
        self._published = published
        self._moved = moved
        self._known: set[TenantId] = set()
        self._seen = SeenRows()

    @asynccontextmanager
    async def begin(self, tenants: Iterable[TenantId], /) -> AsyncGenerator[UnitOfWork]:
        """See `BeginWork`."""
        async with self._begin(self._app, tuple(tenants)) as work:
            yield work

    @asynccontextmanager
    async def begin_hastily(self, tenants: Iterable[TenantId], /) -> AsyncGenerator[UnitOfWork]:
        """See `BeginWork`; gives up on locked rows after a moment."""
        async with self._begin(self._hasty, tuple(tenants)) as work:
            yield work

    @asynccontextmanager
    async def _begin(self, engine: AsyncEngine, tenants: Sequence[TenantId]) -> AsyncGenerator[UnitOfWork]:
        async with driver_scope(engine, tenants) as scope:
            yield _Work(self, scope, listed_tenants(tenants))

    async def unlocked(self, tenants: Collection[TenantId], /) -> Collection[TenantId]:
        """See `Unlocked`."""
        own = {tenant_budget_id(tenant): tenant for tenant in tenants}
        async with driver_scope(self._hasty, tenants) as scope:
            rows = await scope.driver.fetch(sql.UNLOCKED_BUDGETS, list(own))
        return {own[row["id"]] for row in rows}

    @asynccontextmanager
    async def sweep(self) -> AsyncGenerator[Sweep]:
        """See `BeginSweep`."""
        async with driver_scope(self._maintenance, None) as scope:
            yield _Work(self, scope, _NO_TENANT)

    async def limited(self) -> list[TenantId]:
        """Lists the tenants whose own budget is limited to a quota."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            return [TenantId(row["tenant_id"]) for row in await scope.driver.fetch(sql.QUOTAS)]

    def recall(self, needs: SpendNeeds, *, now: datetime) -> SpendBook | None:
        """See `LastSeen.recall`."""
        rows = self._seen.recall(needs)
        return None if rows is None else self.book(*rows, now)

    def stands(self, changes: Changes) -> bool:
        """See `LastSeen.stands`."""
        return self._seen.has(changes.seen_budgets, changes.seen_holds)

    async def write_if_unchanged(self, tenants: Iterable[TenantId], changes: Changes) -> bool:
        """See `LastSeen.write_if_unchanged`."""
        return await self._written(self._write(tenants, changes), changes)

    async def limit_if_unchanged(self, changes: Changes) -> bool:
        """See `LastSeen.limit_if_unchanged`."""
        (seen,), (changed,) = changes.seen_budgets, changes.budgets
        trip = recorded_trip(self._app, changed.tenant, LIMIT_BUDGET, *limit_values(seen, changed), made=changed)
        return await self._written(trip, changes)

    async def add_budget(self, budget: Budget) -> Budget:
        """See `RunBudgets.add_budget`."""
        values = (budget.id, budget.tenant, budget.run_id, budget.limit, budget.created, budget.project)
        if await recorded_trip(self._app, budget.tenant, ADD_RUN_BUDGET, *values, made=budget):
            # What is held next is held of it.
            self._seen.know(budget)
            return budget
        async with driver_scope(self._app, budget.tenant, read_only=True) as scope:
            row = await scope.driver.fetchrow(sql.RUN_BUDGET, budget.tenant, budget.run_id)
        if row is None:
            raise Internal("a budget is missing that was there a moment ago")
        return budget_of(row)

    async def _write(self, tenants: Iterable[TenantId], changes: Changes) -> bool:
        ((written,),) = await one_trip(self._hasty, tenants, WRITE_SPENDING, *self.values(changes))
        return bool(written)

    async def _written(self, trip: Awaitable[bool], changes: Changes) -> bool:
        """Learns whether rows were as they were last seen."""
        # What is decided next is decided on these rows; it is written only if they are committed by then.
        self._seen.learn(changes)
        written = False
        try:
            written = await trip
        finally:
            if not written:
                self._seen.forget(changes)
        self._tell(changes)
        return written

    def book(self, budgets: Iterable[Budget], holds: Iterable[Hold], now: datetime) -> SpendBook:
        """Makes a book of rows."""
        return SpendBook(budgets, holds, now=now, new_id=self._ids.uuid)

    def values(self, changes: Changes) -> list[list[object]]:
        """Writes changes as the arguments of `WRITE_SPENDING`."""
        return arrays_of(changes, self._encode)

    def unknown(self, tenants: Iterable[TenantId]) -> list[TenantId]:
        """Gives those whose own budget may not exist yet, in order."""
        return sorted(tenant for tenant in tenants if tenant not in self._known)

    @property
    def seen(self) -> SeenRows:
        """What is remembered of committed rows."""
        return self._seen

    @property
    def tenant_limit(self) -> NanoUsd:
        """Limit of a tenant's own budget when it is made."""
        return self._tenant_limit

    def committed(self, tenants: Sequence[TenantId], changes: Changes | None) -> None:
        """Learns from a commit: tenants whose budget it made or found, and what it saw and changed."""
        if len(self._known) + len(tenants) > _MOST_KNOWN:
            self._known.clear()
        self._known.update(tenants)
        if changes is None:
            return
        self._seen.learn(changes)
        self._tell(changes)

    def _tell(self, changes: Changes) -> None:
        self._moved((*changes.budgets, *changes.defined))
        if changes.alerts:
            self._published()


class _Work:
    """A transaction of a request or of the sweep."""

    def __init__(self, store: SpendStore, scope: DriverScope, tenants: str) -> None:
        self._store = store
        self._scope = scope
        self._tenants = tenants
        self._spenders: list[TenantId] = []
        self._changes: Changes | None = None

    async def load(self, needs: SpendNeeds, *, now: datetime) -> SpendBook:
        """See `UnitOfWork.load`."""
        for tenant in sorted({tenant for tenant, _ in needs.nodes}):
            await self._scope.driver.execute(sql.CHANGE_TREE, tenant)
        self._spenders = self._store.unknown(needs.spenders)
        if self._spenders:
            await self._scope.driver.execute(sql.ADD_TENANT_BUDGETS, self._spenders, self._store.tenant_limit, now)
        budgets = await self._lock_budgets(needs.budgets | await self._removed(needs), needs.moved, needs)
        await self._learn_trees(budgets, needs)
        holds = await self._holds(sql.LOCK_HOLDS, list(needs.moved | needs.marked))
        if needs.requests:
            requests = sorted(needs.requests)
            holds += await self._holds(sql.HOLDS_OF_REQUESTS, *map(list, zip(*requests, strict=True)))
        return self._store.book(budgets, holds, now)

    async def load_due(self, *, now: datetime, most: int, without: Collection[TenantId] = ()) -> SpendBook | None:
        """See `Sweep.load_due`."""
        due = [row["id"] for row in await self._scope.driver.fetch(sql.DUE_HOLDS, now, most, list(without))]
        if not due:
            return None
        budgets = await self._lock_budgets((), due)
        return self._store.book(budgets, await self._holds(sql.LOCK_DUE_HOLDS, due, now), now)

    async def charged(self, tenant: TenantId, recount: Recount) -> Amounts | None:
        """See `UnitOfWork.charged`."""
        row = await self._scope.driver.fetchrow(
            sql.CHARGED, tenant, recount.budget, recount.since, _MOST_COUNTED, recount.endless
        )
        if row is None or not row["all_counted"]:
            return None
        return Amounts(row["money"], row["tokens"], row["calls"], row["wall_ms"])

    async def save(self, changes: Changes) -> None:
        """See `UnitOfWork.save`."""
        if not await self._scope.driver.fetchval(WRITE_SPENDING.call, *self._store.values(changes), self._tenants):
            raise Internal("rows of the ledger changed while they were locked")
        for budget in changes.defined:
            await self._scope.driver.execute(sql.DEFINE_BUDGET, *definition_of(budget))
            if budget.removed:
                await self._scope.driver.execute(sql.DROP_SPIKE_RULE, budget.tenant, budget.id)
        self._changes = changes

    async def nodes(self, tenant: TenantId) -> int:
        """See `UnitOfWork.nodes`."""
        return int(await self._scope.driver.fetchval(sql.NODES, tenant))

    async def claim_once(self) -> None:
        """See `UnitOfWork.claim_once`."""
        await claim_once(self._scope)

    async def keep_once(self, budget: Budget, /) -> None:
        """See `UnitOfWork.keep_once`."""
        await keep_once(self._scope, budget)

    async def commit(self) -> None:
        """See `UnitOfWork.commit`."""
        await self._scope.commit()
        self._store.committed(self._spenders, self._changes)

    async def _lock_budgets(
        self, budgets: Iterable[UUID], holds: Iterable[UUID], needs: SpendNeeds | None = None
    ) -> list[Budget]:
        names, moved = list(budgets), list(holds)
        keys = set[tuple[TenantId, int, str]]()
        for tenant, context in () if needs is None else needs.calls:
            keys.update((tenant, int(key.scope), key.name) for key in nodes_beside(context))
        for tenant, key in () if needs is None else needs.nodes:
            keys.add((tenant, int(key.scope), key.name))
        if not (names or moved or keys):
            return []
        driver = self._scope.driver
        if not (moved or keys):
            return [budget_of(row) for row in await driver.fetch(sql.LOCK_BUDGETS, names)]
        tenants = sorted({tenant for tenant, _, _ in keys})
        columns: list[list[object]] = [list(column) for column in zip(*keys, strict=True)] or [[], [], []]
        rows = await driver.fetch(sql.LOCK_ALL_BUDGETS, names, moved, tenants, *columns)
        return [budget_of(row) for row in rows]

    async def _removed(self, needs: SpendNeeds) -> set[BudgetId]:
        """Finds nodes that were removed by the names that are to be locked: they come back when they are made again."""
        if not needs.nodes:
            return set()
        keys = [[tenant for tenant, _ in needs.nodes], *zip(*(key for _, key in needs.nodes), strict=True)]
        return {BudgetId(row["id"]) for row in await self._scope.driver.fetch(sql.REMOVED_NODES, *keys)}

    async def _learn_trees(self, budgets: Iterable[Budget], needs: SpendNeeds) -> None:
        """Reads trees that changed since they were seen. Their tenants' own budgets are locked, so they stay so."""
        own = {tenant_budget_id(tenant) for tenant in needs.spenders}
        grown = [budget for budget in budgets if budget.id in own and not self._store.seen.knows_tree(budget)]
        if not grown:
            return
        trees = {budget.tenant: Tree(budget.tree, {}) for budget in grown}
        for row in await self._scope.driver.fetch(sql.TREES, list(trees)):
            key = NodeKey(BudgetScope(row["scope"]), row["name"])
            trees[TenantId(row["tenant_id"])].ids[key] = BudgetId(row["id"])
        for tenant, tree in trees.items():
            self._store.seen.know_tree(tenant, tree)

    async def _holds(self, statement: str, wanted: Sequence[UUID], *values: object) -> list[Hold]:
        if not wanted:
            return []
        return [hold_of(row) for row in await self._scope.driver.fetch(statement, wanted, *values)]
