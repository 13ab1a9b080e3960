"""Stores when keys were last used, many in one statement."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import MAX_TENANTS, driver_scope

_KEEP: Final = """
    UPDATE api_key SET last_use_time = used.at
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS used (tenant, id, at)
    WHERE api_key.tenant_id = used.tenant AND api_key.id = used.id
      AND (api_key.last_use_time IS NULL OR api_key.last_use_time < used.at)"""


class SqlKeyUses:
    """Implements `usecases.identity_ports.KeyUseStore`. Writes in one order: two replicas never wait for each other."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def keep(self, uses: Mapping[tuple[TenantId, UUID], datetime]) -> None:
        """See `KeyUseStore.keep`."""
        ordered = sorted(uses.items())
        for start in range(0, len(ordered), MAX_TENANTS):
            some = ordered[start : start + MAX_TENANTS]
            tenants = [tenant for (tenant, _), _ in some]
            async with driver_scope(self._engine, set(tenants)) as scope:
                await scope.driver.execute(_KEEP, tenants, [key for (_, key), _ in some], [at for _, at in some])
                await scope.commit()
