"""Looks across tenants, as role `maintenance`, which may read and nothing else."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.grant import Grant
from services.gateway.domain.tenant import Tenant
from services.gateway.storage.rows import grant_of, key_of, tenant_of
from services.gateway.storage.tables import API_KEY, GRANT, TENANT
from services.meshkit.sql.scope import maintenance_scope


class SqlIdentityDirectory:
    """Implements `usecases.ports.IdentityDirectory` and `TenantReader`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def key(self, key: UUID) -> ApiKey | None:
        """See `IdentityDirectory.key`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            row = (await scope.execute(select(API_KEY).where(API_KEY.c.id == key))).mappings().one_or_none()
        return None if row is None else key_of(row)

    async def grant(self, grant: UUID) -> tuple[Grant, ApiKey] | None:
        """See `IdentityDirectory.grant`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            found = (await scope.execute(select(GRANT).where(GRANT.c.id == grant))).mappings().one_or_none()
            if found is None:
                return None
            behind = select(API_KEY).where(
                API_KEY.c.id == found["api_key_id"], API_KEY.c.tenant_id == found["tenant_id"]
            )
            key = (await scope.execute(behind)).mappings().one_or_none()
        return None if key is None else (grant_of(found), key_of(key))

    async def tenant_named(self, name: str) -> Tenant | None:
        """See `IdentityDirectory.tenant_named`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            row = (await scope.execute(select(TENANT).where(TENANT.c.name == name))).mappings().one_or_none()
        return None if row is None else tenant_of(row)

    async def tenants(self, *, after: str | None, most: int) -> list[Tenant]:
        """See `TenantReader.tenants`."""
        statement = select(TENANT).order_by(TENANT.c.name).limit(most)
        if after is not None:
            statement = statement.where(TENANT.c.name > after)
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return [tenant_of(row) for row in (await scope.execute(statement)).mappings()]
