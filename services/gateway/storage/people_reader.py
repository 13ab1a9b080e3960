"""Reads people and issuers."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.oidc_issuer import OidcIssuer
from services.gateway.domain.user import User
from services.gateway.storage.people_tables import OIDC_ISSUER, PERSON
from services.gateway.storage.people_work import issuer_of, user_of
from services.gateway.storage.tables import TENANT
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import maintenance_scope, tenant_scope


class SqlPeopleReader:
    """Implements `usecases.people_ports.PeopleReader`; ids sort by time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def users(self, tenant: TenantId, *, after: UUID | None, most: int) -> list[User]:
        """See `PeopleReader.users`."""
        statement = select(PERSON).where(PERSON.c.tenant_id == tenant).order_by(PERSON.c.id.desc()).limit(most)
        if after is not None:
            statement = statement.where(PERSON.c.id < after)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [user_of(row) for row in (await scope.execute(statement)).mappings()]

    async def issuers(self, tenant: TenantId, *, after: UUID | None, most: int) -> list[OidcIssuer]:
        """See `PeopleReader.issuers`."""
        statement = select(OIDC_ISSUER).where(OIDC_ISSUER.c.tenant_id == tenant)
        statement = statement.order_by(OIDC_ISSUER.c.id.desc()).limit(most)
        if after is not None:
            statement = statement.where(OIDC_ISSUER.c.id < after)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [issuer_of(row) for row in (await scope.execute(statement)).mappings()]


class SqlLoginDirectory:
    """Implements `usecases.people_ports.LoginDirectory`, as role `maintenance`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def issuers_of(self, tenant: str) -> list[OidcIssuer]:
        """See `LoginDirectory.issuers_of`."""
        if "\x00" in tenant:
            # Postgres takes no such text, and no tenant is called so.
            return []
        statement = (
            select(OIDC_ISSUER)
            .join(TENANT, TENANT.c.tenant_id == OIDC_ISSUER.c.tenant_id)
            .where(TENANT.c.name == tenant)
            .order_by(OIDC_ISSUER.c.id)
        )
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return [issuer_of(row) for row in (await scope.execute(statement)).mappings()]
