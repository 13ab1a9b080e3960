"""Keeps which budgets unusual spend degrades."""

from typing import Final
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.errors import TooManySpikeRules
from services.cost.storage.tables import SPIKE_RULE
from services.cost.usecases.forecast_ports import SpikeRule
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope, tenant_scope

_MOST_RULES: Final = 1_000


class SpikeRuleStore:
    """A `SpikeRules` of Postgres."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def put(self, tenant: TenantId, rule: SpikeRule) -> SpikeRule:
        """See `SpikeRules.put`."""
        async with tenant_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            if rule.degrade_seconds:
                await _upsert(scope, tenant, rule)
            else:
                mine = (SPIKE_RULE.c.tenant_id == tenant, SPIKE_RULE.c.budget_id == rule.budget)
                await scope.execute(delete(SPIKE_RULE).where(*mine))
            await keep_once(scope, rule)
            await scope.commit()
        return rule

    async def page(self, tenant: TenantId, *, size: int, after: UUID | None) -> list[SpikeRule]:
        """See `SpikeRules.page`."""
        query = select(SPIKE_RULE).where(SPIKE_RULE.c.tenant_id == tenant)
        if after is not None:
            query = query.where(SPIKE_RULE.c.budget_id > after)
        query = query.order_by(SPIKE_RULE.c.budget_id).limit(size)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = await scope.execute(query)
            return [SpikeRule(budget=row.budget_id, degrade_seconds=row.degrade_seconds) for row in rows]


async def _upsert(scope: Scope, tenant: TenantId, rule: SpikeRule) -> None:
    others = select(func.count()).where(SPIKE_RULE.c.tenant_id == tenant, SPIKE_RULE.c.budget_id != rule.budget)
    if (await scope.execute(others)).scalar_one() >= _MOST_RULES:
        raise TooManySpikeRules(most=_MOST_RULES)
    values = {"budget_id": rule.budget, "tenant_id": tenant, "degrade_seconds": rule.degrade_seconds}
    changed = {"degrade_seconds": rule.degrade_seconds}
    added = insert(SPIKE_RULE).values(values)
    await scope.execute(added.on_conflict_do_update(index_elements=[SPIKE_RULE.c.budget_id], set_=changed))
