"""Lists the service accounts of one tenant."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.service_account import ServiceAccount
from services.gateway.storage.rows import account_of
from services.gateway.storage.tables import SERVICE_ACCOUNT
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import tenant_scope


class SqlServiceAccountReader:
    """Implements `usecases.identity_ports.ServiceAccountReader`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(
        self, tenant: TenantId, *, project: str | None, after: UUID | None, most: int
    ) -> list[ServiceAccount]:
        """See `ServiceAccountReader.page`; ids sort by time."""
        table = SERVICE_ACCOUNT
        statement = select(table).where(table.c.tenant_id == tenant).order_by(table.c.id.desc()).limit(most)
        if project is not None:
            statement = statement.where(table.c.project == project)
        if after is not None:
            statement = statement.where(table.c.id < after)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [account_of(row) for row in (await scope.execute(statement)).mappings()]
