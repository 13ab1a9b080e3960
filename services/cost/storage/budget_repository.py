"""Reads budgets."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.budget import Budget, BudgetId
from services.cost.domain.errors import BudgetNotFound
from services.cost.storage.rows import budget_of
from services.cost.storage.tables import BUDGET
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import tenant_scope


class BudgetRepository:
    """Budgets of one tenant at a time. Writing is the unit of work's."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, tenant: TenantId, budget: BudgetId) -> Budget:
        """See `BudgetReader.get`."""
        query = select(BUDGET).where(BUDGET.c.tenant_id == tenant, BUDGET.c.id == budget)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            row = (await scope.execute(query)).mappings().one_or_none()
        if row is None:
            raise BudgetNotFound(budget)
        return budget_of(row)

    async def page(self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None) -> list[Budget]:
        """See `BudgetReader.page`."""
        place = (BUDGET.c.created_time, BUDGET.c.id)
        query = select(BUDGET).where(BUDGET.c.tenant_id == tenant)
        if after is not None:
            query = query.where(tuple_(*place) < tuple_(*after))
        query = query.order_by(*(column.desc() for column in place)).limit(size)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [budget_of(row) for row in (await scope.execute(query)).mappings()]
