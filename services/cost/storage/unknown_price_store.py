"""Keeps what tenants have done with calls whose price is unknown."""

from collections.abc import Iterable

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.unknown_price import UnknownPrice, UnknownPriceRule
from services.cost.storage.tables import UNKNOWN_PRICE
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import driver_scope, tenant_scope

_RULES = "SELECT tenant_id, rule, ceiling_nano_usd_per_million FROM unknown_price WHERE tenant_id = ANY($1::uuid[])"


class UnknownPriceStore:
    """An `UnknownPriceRules` of Postgres."""

    def __init__(self, app: AsyncEngine) -> None:
        self._engine = app

    async def of(self, tenants: Iterable[TenantId]) -> dict[TenantId, UnknownPrice]:
        """See `UnknownPriceRules.of`."""
        some = sorted(tenants)
        async with driver_scope(self._engine, some, read_only=True) as scope:
            rows = await scope.driver.fetch(_RULES, some)
        return {
            TenantId(row["tenant_id"]): UnknownPrice(
                rule=UnknownPriceRule(row["rule"]), ceiling=row["ceiling_nano_usd_per_million"]
            )
            for row in rows
        }

    async def put(self, tenant: TenantId, rule: UnknownPrice) -> UnknownPrice:
        """See `UnknownPriceRules.put`."""
        values = {"rule": int(rule.rule), "ceiling_nano_usd_per_million": rule.ceiling}
        added = insert(UNKNOWN_PRICE).values(tenant_id=tenant, **values)
        async with tenant_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            await scope.execute(added.on_conflict_do_update(index_elements=[UNKNOWN_PRICE.c.tenant_id], set_=values))
            await keep_once(scope, rule)
            await scope.commit()
        return rule
