"""Keeps alerts of budgets. Those of spending are written with what is spent (`one_trips.py`)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.budget import BudgetId
from services.cost.domain.budget_alert import BudgetAlert, BudgetAlertId
from services.cost.storage.rows import EncodeAlert
from services.cost.storage.tables import BUDGET_ALERT
from services.cost.usecases.ports import KeptAlert
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.outbox import OutboxEntry, add_entries
from services.meshkit.sql.scope import Scope, tenant_scope


class BudgetAlertStore:
    """A `BudgetAlerts` of Postgres."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(
        self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None, budget: BudgetId | None = None
    ) -> list[KeptAlert]:
        """See `BudgetAlerts.page`."""
        place = (BUDGET_ALERT.c.created_time, BUDGET_ALERT.c.id)
        query = select(BUDGET_ALERT).where(BUDGET_ALERT.c.tenant_id == tenant)
        if after is not None:
            query = query.where(tuple_(*place) < tuple_(*after))
        if budget is not None:
            query = query.where(BUDGET_ALERT.c.budget_id == budget)
        query = query.order_by(*(column.desc() for column in place)).limit(size)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.execute(query)
            return [KeptAlert(BudgetAlertId(row.id), row.created_time, row.body) for row in rows]


async def add_alerts(scope: Scope, alerts: Sequence[BudgetAlert], encode: EncodeAlert) -> None:
    """Keeps alerts and tells of them, in the transaction of what they are about."""
    if not alerts:
        return
    told = [(alert, *encode(alert)) for alert in alerts]
    kept = [
        {
            "id": alert.id,
            "tenant_id": alert.budget.tenant,
            "budget_id": alert.budget.id,
            "created_time": alert.at,
            "body": body,
        }
        for alert, _, body in told
    ]
    await scope.execute(BUDGET_ALERT.insert(), kept)
    messages = [
        OutboxEntry(id=alert.id, tenant=alert.budget.tenant, subject=subject, body=body)
        for alert, subject, body in told
    ]
    await add_entries(scope, messages)
