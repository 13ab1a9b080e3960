"""Lists the keys of one tenant."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.api_key import ApiKey
from services.gateway.storage.rows import key_of
from services.gateway.storage.tables import API_KEY
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import tenant_scope


class SqlApiKeyReader:
    """Implements `usecases.ports.ApiKeyReader`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(self, tenant: TenantId, *, project: str | None, after: UUID | None, most: int) -> list[ApiKey]:
        """See `ApiKeyReader.page`; ids sort by time."""
        statement = select(API_KEY).where(API_KEY.c.tenant_id == tenant).order_by(API_KEY.c.id.desc()).limit(most)
        if project is not None:
            statement = statement.where(API_KEY.c.project == project)
        if after is not None:
            statement = statement.where(API_KEY.c.id < after)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [key_of(row) for row in (await scope.execute(statement)).mappings()]
