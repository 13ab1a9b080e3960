"""Reads budgets."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.budget import Budget, BudgetId, BudgetScope
from services.cost.domain.budget_tree import run_of
from services.cost.domain.errors import BudgetNotFound, NodeNotFound
from services.cost.domain.node import NodeKey
from services.cost.storage.rows import budget_of
from services.cost.storage.tables import BUDGET
from services.cost.usecases.ports import TreeRows
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import tenant_scope


class BudgetRepository:
    """Budgets of one tenant at a time. Writing is the unit of work's."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, tenant: TenantId, budget: BudgetId) -> Budget:
        """See `BudgetReader.get`."""
        query = select(BUDGET).where(BUDGET.c.tenant_id == tenant, BUDGET.c.id == budget, ~BUDGET.c.removed)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            row = (await scope.execute(query)).mappings().one_or_none()
        if row is None:
            raise BudgetNotFound(budget)
        return budget_of(row)

    async def find(self, tenant: TenantId, key: NodeKey) -> Budget:
        """See `BudgetReader.find`."""
        query = select(BUDGET).where(BUDGET.c.tenant_id == tenant, BUDGET.c.scope == int(key.scope), ~BUDGET.c.removed)
        query = query.where((BUDGET.c.run_id if key.scope is BudgetScope.RUN else BUDGET.c.name) == key.name)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            row = (await scope.execute(query)).mappings().one_or_none()
        if row is None:
            raise NodeNotFound(key.full_name)
        return budget_of(row)

    async def page(
        self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None, scope: BudgetScope | None = None
    ) -> list[Budget]:
        """See `BudgetReader.page`."""
        place = (BUDGET.c.created_time, BUDGET.c.id)
        query = select(BUDGET).where(BUDGET.c.tenant_id == tenant, ~BUDGET.c.removed)
        if after is not None:
            query = query.where(tuple_(*place) < tuple_(*after))
        if scope is not None:
            query = query.where(BUDGET.c.scope == int(scope))
        query = query.order_by(*(column.desc() for column in place)).limit(size)
        return await self._read(tenant, query)

    async def tree(self, tenant: TenantId, *, most_runs: int) -> TreeRows:
        """See `BudgetReader.tree`."""
        mine = select(BUDGET).where(BUDGET.c.tenant_id == tenant)
        newest = mine.where(BUDGET.c.scope == int(BudgetScope.RUN)).order_by(BUDGET.c.created_time.desc(), BUDGET.c.id)
        runs = await self._read(tenant, newest.limit(most_runs + 1))
        shown = runs[:most_runs]
        nodes = await self._read(tenant, mine.where(BUDGET.c.name != "", ~BUDGET.c.removed))
        above = {run_of(node) for node in nodes if node.scope is BudgetScope.STEP} - {run.run_id for run in shown}
        older = {run.run_id for run in await self._read(tenant, mine.where(BUDGET.c.run_id.in_(above)))}
        kept = [node for node in nodes if node.scope is not BudgetScope.STEP or run_of(node) not in older]
        own = await self._read(tenant, mine.where(BUDGET.c.id == tenant))
        return TreeRows([*own, *kept, *shown], len(runs) > len(shown), len(nodes) - len(kept))

    # Any: the rows of any selection.
    async def _read(self, tenant: TenantId, query: Select[Any]) -> list[Budget]:
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [budget_of(row) for row in (await scope.execute(query)).mappings()]
