"""Keeps alerts on spend."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.amounts import Measure
from services.cost.domain.baseline import Basis
from services.cost.domain.budget import Budget, BudgetScope
from services.cost.domain.budget_alert import AlertCause, BudgetAlert, BudgetAlertId
from services.cost.domain.spend_alert import AlertState, Cause, Causes, SpendAlert, SpendAlertId
from services.cost.storage.budget_alert_store import add_alerts
from services.cost.storage.rows import EncodeAlert, budget_of
from services.cost.storage.tables import CAUSES, SPEND_ALERT
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.outbox import OutboxEntry, add_entries
from services.meshkit.sql.scope import Scope, tenant_scope

#: Gives subject and body of the message that tells of an alert.
EncodeSpendAlert = Callable[[SpendAlert], tuple[str, bytes]]

# Locks in id order, as everywhere. The revision grows, so that nothing is held by what was seen before.
_DEGRADE: Final = text(f"""
    WITH chosen AS (
        SELECT budget.id, rule.degrade_seconds
        FROM budget JOIN spike_rule AS rule ON rule.budget_id = budget.id
        WHERE budget.tenant_id = :tenant AND rule.tenant_id = :tenant AND NOT budget.removed AND (
            budget.scope = {BudgetScope.TENANT:d}
            OR budget.scope = {BudgetScope.RUN:d} AND budget.run_id = :run
            OR budget.scope = {BudgetScope.PROJECT:d} AND budget.name = :project
            OR budget.scope = {BudgetScope.AGENT:d} AND budget.name = :agent)
        ORDER BY budget.id FOR UPDATE OF budget
    )
    UPDATE budget SET
        degraded_until = greatest(budget.degraded_until, CAST(:now AS timestamptz) + degrade_seconds * interval '1 s'),
        revision = budget.revision + 1
    FROM chosen WHERE budget.id = chosen.id RETURNING budget.*""")  # noqa: S608 - scopes are constants


class SpendAlertStore:
    """A `SpendAlerts` of Postgres; each method is one transaction that sees one tenant.

    Args:
        encode_budget: for the alert that a budget was degraded.
        published: called after a commit that wrote a message, to wake the relay.
    """

    def __init__(
        self,
        app: AsyncEngine,
        *,
        ids: IdSource,
        encode: EncodeSpendAlert,
        encode_budget: EncodeAlert,
        published: Callable[[], None],
    ) -> None:
        self._engine = app
        self._ids = ids
        self._encode = encode
        self._encode_budget = encode_budget
        self._published = published

    async def last(self, tenant: TenantId) -> SpendAlert | None:
        """See `SpendAlerts.last`."""
        found = await self.page(tenant, size=1, after=None)
        return found[0] if found else None

    async def page(self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None) -> list[SpendAlert]:
        """See `SpendAlerts.page`."""
        place = (SPEND_ALERT.c.opened_time, SPEND_ALERT.c.id)
        query = select(SPEND_ALERT).where(SPEND_ALERT.c.tenant_id == tenant)
        if after is not None:
            query = query.where(tuple_(*place) < tuple_(*after))
        query = query.order_by(*(column.desc() for column in place)).limit(size)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [_alert_of(row) for row in (await scope.execute(query)).mappings()]

    async def open(self, alert: SpendAlert, *, now: datetime) -> SpendAlert | None:
        """See `SpendAlerts.open`."""
        async with tenant_scope(self._engine, alert.tenant, audited=False) as scope:
            degraded = await _degrade(scope, alert, now)
            opened = replace(alert, degraded=_ids_of(degraded))
            written = await scope.execute(
                insert(SPEND_ALERT).values(_values_of(opened)).on_conflict_do_nothing().returning(SPEND_ALERT.c.id)
            )
            if written.first() is None:
                return None
            await self._tell(scope, opened)
            await self._tell_degraded(scope, opened, degraded, now)
            await scope.commit()
        self._published()
        return opened

    async def rise(self, alert: SpendAlert, *, now: datetime) -> SpendAlert | None:
        """See `SpendAlerts.rise`."""
        async with tenant_scope(self._engine, alert.tenant, audited=False) as scope:
            degraded = await _degrade(scope, alert, now)
            risen = replace(alert, degraded=tuple(sorted({*alert.degraded, *_ids_of(degraded)})))
            if not await _changed(scope, risen):
                return None
            # Who was told that a budget is degraded knows it of the rest of the spike.
            await self._tell_degraded(
                scope, risen, [budget for budget in degraded if budget.id not in alert.degraded], now
            )
            await scope.commit()
        self._published()
        return risen

    async def close(self, alert: SpendAlert) -> SpendAlert | None:
        """See `SpendAlerts.close`."""
        async with tenant_scope(self._engine, alert.tenant, audited=False) as scope:
            if not await _changed(scope, alert):
                return None
            await self._tell(scope, alert)
            await scope.commit()
        self._published()
        return alert

    async def _tell(self, scope: Scope, alert: SpendAlert) -> None:
        subject, body = self._encode(alert)
        entry = OutboxEntry(id=self._ids.uuid(), tenant=alert.tenant, subject=subject, body=body)
        await add_entries(scope, [entry])

    async def _tell_degraded(self, scope: Scope, alert: SpendAlert, budgets: Sequence[Budget], now: datetime) -> None:
        told = [
            BudgetAlert(
                id=BudgetAlertId(self._ids.uuid()),
                budget=budget.at(now),
                cause=AlertCause.DEGRADED,
                measure=Measure.MONEY,
                at=now,
                run_id=alert.causes.run.name,
            )
            for budget in budgets
        ]
        await add_alerts(scope, told, self._encode_budget)


async def _degrade(scope: Scope, alert: SpendAlert, now: datetime) -> list[Budget]:
    """Degrades the budgets whose rules say so: those of the tenant, and of the run, project and agent behind it."""
    causes = alert.causes
    values = {
        "tenant": alert.tenant,
        "now": now,
        "run": causes.run.name,
        "project": causes.project.name,
        "agent": causes.agent.name,
    }
    rows = (await scope.execute(_DEGRADE, values)).mappings()
    return sorted((budget_of(row) for row in rows), key=lambda budget: budget.id)


def _ids_of(budgets: Sequence[Budget]) -> tuple[UUID, ...]:
    return tuple(budget.id for budget in budgets)


async def _changed(scope: Scope, alert: SpendAlert) -> bool:
    """Writes a change if the alert is as it was seen."""
    seen = (
        SPEND_ALERT.c.tenant_id == alert.tenant,
        SPEND_ALERT.c.id == alert.id,
        SPEND_ALERT.c.revision == alert.revision - 1,
    )
    changed = update(SPEND_ALERT).where(*seen).values(_values_of(alert)).returning(SPEND_ALERT.c.id)
    return (await scope.execute(changed)).first() is not None


def _values_of(alert: SpendAlert) -> dict[str, Any]:  # the types of columns differ
    values: dict[str, Any] = {
        "id": alert.id,
        "tenant_id": alert.tenant,
        "state": int(alert.state),
        "opened_time": alert.opened,
        "closed_time": alert.closed,
        "hour_time": alert.hour,
        "spent_nano_usd": alert.spent,
        "expected_nano_usd": alert.expected,
        "high_nano_usd": alert.high,
        "basis": int(alert.basis),
        "degraded_ids": list(alert.degraded),
        "revision": alert.revision,
    }
    for name in CAUSES:
        cause: Cause = getattr(alert.causes, name)
        values[f"{name}_name"] = cause.name
        values[f"{name}_spent_nano_usd"] = cause.spent
        values[f"{name}_usual_nano_usd"] = cause.usual
    return values


def _alert_of(row: RowMapping) -> SpendAlert:
    causes = {
        name: Cause(row[f"{name}_name"], NanoUsd(row[f"{name}_spent_nano_usd"]), NanoUsd(row[f"{name}_usual_nano_usd"]))
        for name in CAUSES
    }
    return SpendAlert(
        id=SpendAlertId(row["id"]),
        tenant=TenantId(row["tenant_id"]),
        state=AlertState(row["state"]),
        opened=row["opened_time"],
        closed=row["closed_time"],
        hour=row["hour_time"],
        spent=NanoUsd(row["spent_nano_usd"]),
        expected=NanoUsd(row["expected_nano_usd"]),
        high=NanoUsd(row["high_nano_usd"]),
        basis=Basis(row["basis"]),
        causes=Causes(**causes),
        degraded=tuple(row["degraded_ids"]),
        revision=row["revision"],
    )
