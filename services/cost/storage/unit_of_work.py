"""One transaction of spending: locks rows, gives them as a book, writes back what the book changed."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.budget import Budget
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.hold import Hold, Purpose
from services.cost.domain.spend_book import BudgetAlert, Changes, SpendBook
from services.cost.storage import statements as sql
from services.cost.storage.rows import budget_of, counts_of, hold_of
from services.cost.usecases.ports import SpendNeeds, Sweep, UnitOfWork
from services.meshkit.content import Usage
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.outbox import OutboxEntry, add_entries
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope

#: Tenants whose budget is known to exist, per process.
_MOST_KNOWN: Final = 100_000

#: Gives subject and body of the message that tells of an alert.
EncodeAlert = Callable[[BudgetAlert], tuple[str, bytes]]


class SpendStore:
    """Opens transactions of spending.

    Args:
        app: engine of the `app` role.
        maintenance: engine of the `maintenance` role, for the sweep.
        tenant_limit: limit of a tenant's own budget when it is made.
        published: called after a commit that wrote an alert, to wake the relay.
    """

    def __init__(
        self,
        *,
        app: AsyncEngine,
        maintenance: AsyncEngine,
        ids: IdSource,
        tenant_limit: NanoUsd,
        encode: EncodeAlert,
        published: Callable[[], None],
    ) -> None:
        self._app = app
        self._maintenance = maintenance
        self._ids = ids
        self._tenant_limit = tenant_limit
        self._encode = encode
        self._published = published
        self._known: set[TenantId] = set()

    @asynccontextmanager
    async def begin(self, tenants: Iterable[TenantId], /) -> AsyncGenerator[UnitOfWork]:
        """See `BeginWork`."""
        async with tenant_scope(self._app, tenants) as scope:
            yield _Work(self, scope)

    @asynccontextmanager
    async def sweep(self) -> AsyncGenerator[Sweep]:
        """See `BeginSweep`."""
        async with maintenance_scope(self._maintenance) as scope:
            yield _Work(self, scope)

    def book(self, budgets: Iterable[Budget], holds: Iterable[Hold], now: datetime) -> SpendBook:
        """Makes a book of locked rows."""
        return SpendBook(budgets, holds, now=now, new_id=self._ids.uuid)

    def outbox_entry(self, alert: BudgetAlert) -> OutboxEntry:
        """Writes the message of an alert."""
        subject, body = self._encode(alert)
        return OutboxEntry(id=self._ids.uuid(), tenant=alert.budget.tenant, subject=subject, body=body)

    async def ensure_tenant_budgets(self, scope: Scope, tenants: frozenset[TenantId], now: datetime) -> set[TenantId]:
        """Makes the budgets of tenants that spend for the first time; gives those to remember after the commit."""
        new = {tenant for tenant in tenants if tenant not in self._known}
        if new:
            values = {"tenants": sorted(new), "most": self._tenant_limit, "now": now}
            await scope.execute(sql.ADD_TENANT_BUDGETS, values)
        return new

    def committed(self, known: set[TenantId], *, alerts: bool) -> None:
        """Learns from a commit."""
        if len(self._known) + len(known) > _MOST_KNOWN:
            self._known.clear()
        self._known |= known
        if alerts:
            self._published()


class _Work:
    """A transaction of a request or of the sweep."""

    def __init__(self, store: SpendStore, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self._known: set[TenantId] = set()
        self._alerts = False

    async def load(self, needs: SpendNeeds, *, now: datetime) -> SpendBook:
        """See `UnitOfWork.load`."""
        self._known = await self._store.ensure_tenant_budgets(self._scope, needs.spenders, now)
        budgets = await self._lock_budgets(needs.budgets, needs.moved)
        holds = await self._lock_holds(needs.moved | needs.marked)
        if needs.requests:
            holds += await self._holds_of(sorted(needs.requests))
        return self._store.book(budgets, holds, now)

    async def load_due(self, *, now: datetime, most: int) -> SpendBook | None:
        """See `Sweep.load_due`."""
        due = (await self._scope.execute(sql.DUE_HOLDS, {"now": now, "most": most})).scalars().all()
        if not due:
            return None
        budgets = await self._lock_budgets((), due)
        rows = (await self._scope.execute(sql.LOCK_DUE_HOLDS, {"holds": list(due), "now": now})).mappings()
        return self._store.book(budgets, [hold_of(row) for row in rows], now)

    async def add_budget(self, budget: Budget) -> Budget:
        """See `UnitOfWork.add_budget`."""
        key = {"tenant": budget.tenant, "run_id": budget.run_id}
        values = {**key, "id": budget.id, "most": budget.limit, "now": budget.created}
        await self._scope.execute(sql.ADD_RUN_BUDGET, values)
        return budget_of((await self._scope.execute(sql.RUN_BUDGET, key)).mappings().one())

    async def save(self, changes: Changes) -> None:
        """See `UnitOfWork.save`."""
        if changes.budgets:
            await self._scope.execute(sql.UPDATE_BUDGETS, _budget_arrays(changes.budgets))
        if changes.new_holds:
            rows = [_hold_row(hold) for hold in changes.new_holds]
            await self._scope.execute(sql.INSERT_HOLDS, _arrays(sql.HOLD_COLUMNS, rows))
        if changes.holds:
            await self._scope.execute(sql.UPDATE_HOLDS, _hold_arrays(changes.holds))
        if changes.entries:
            rows = [_entry_row(entry) for entry in changes.entries]
            await self._scope.execute(sql.INSERT_ENTRIES, _arrays(sql.ENTRY_COLUMNS, rows))
        if changes.alerts:
            self._alerts = True
            await add_entries(self._scope, [self._store.outbox_entry(alert) for alert in changes.alerts])

    async def commit(self) -> None:
        """See `UnitOfWork.commit`."""
        await self._scope.commit()
        self._store.committed(self._known, alerts=self._alerts)

    async def _lock_budgets(self, budgets: Iterable[UUID], holds: Iterable[UUID]) -> list[Budget]:
        values = {"budgets": sorted(budgets), "holds": list(holds)}
        if not (values["budgets"] or values["holds"]):
            return []
        statement = sql.LOCK_BUDGETS_OF_HOLDS if values["holds"] else sql.LOCK_BUDGETS
        if not values["holds"]:
            del values["holds"]
        rows = (await self._scope.execute(statement, values)).mappings()
        return [budget_of(row) for row in rows]

    async def _lock_holds(self, holds: Iterable[UUID]) -> list[Hold]:
        wanted = list(holds)
        if not wanted:
            return []
        return [hold_of(row) for row in (await self._scope.execute(sql.LOCK_HOLDS, {"holds": wanted})).mappings()]

    async def _holds_of(self, requests: Sequence[tuple[UUID, UUID]]) -> list[Hold]:
        values = {"tenants": [tenant for tenant, _ in requests], "requests": [request for _, request in requests]}
        return [hold_of(row) for row in (await self._scope.execute(sql.HOLDS_OF_REQUESTS, values)).mappings()]


def _arrays(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Turns rows into one array per column."""
    return {name: list(values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}


def _budget_arrays(budgets: Sequence[Budget]) -> dict[str, list[Any]]:
    return {
        "id": [budget.id for budget in budgets],
        "most": [budget.limit for budget in budgets],
        "spent": [budget.spent for budget in budgets],
        "held": [budget.held for budget in budgets],
        "overrun": [budget.overrun for budget in budgets],
        "exhausted": [budget.exhausted for budget in budgets],
    }


def _hold_arrays(holds: Sequence[Hold]) -> dict[str, list[Any]]:
    return {
        "id": [hold.id for hold in holds],
        "state": [int(hold.state) for hold in holds],
        "charged": [hold.charged for hold in holds],
        "usage": [_usage_literal(hold.usage) for hold in holds],
    }


def _hold_row(hold: Hold) -> tuple[Any, ...]:
    """Writes a hold in the order of `HOLD_COLUMNS`."""
    return (
        hold.id,
        hold.tenant,
        hold.request_id,
        hold.request_digest,
        int(hold.state),
        f"{{{','.join(map(str, hold.budgets))}}}",
        *_purpose_row(hold.purpose),
        _usage_literal(hold.bound),
        _usage_literal(hold.usage),
        hold.amount,
        hold.charged,
        hold.price,
        hold.expires,
        hold.created,
    )


def _entry_row(entry: CostEvent) -> tuple[Any, ...]:
    """Writes an entry in the order of `ENTRY_COLUMNS`."""
    return (
        entry.id,
        entry.tenant,
        entry.hold,
        *_purpose_row(entry.purpose),
        *counts_of(entry.usage),
        entry.cost,
        entry.assumed,
        entry.reversal,
        entry.price,
        entry.created,
    )


def _purpose_row(purpose: Purpose) -> tuple[Any, ...]:
    context = purpose.context
    call = context.call_id
    return (
        int(purpose.kind),
        purpose.provider,
        purpose.model,
        call.run_id,
        call.path,
        call.attempt_group,
        call.index,
        context.agent_name,
        context.agent_version,
        context.project,
    )


def _usage_literal(usage: Usage | None) -> str | None:
    """Writes token counts as the literal of an array of integers."""
    return None if usage is None else f"{{{','.join(map(str, counts_of(usage)))}}}"
