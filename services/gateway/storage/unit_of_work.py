"""One transaction of the gateway."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.service_account import ServiceAccount
from services.gateway.domain.tenant import TENANT_PREFIX, Tenant
from services.gateway.storage.alone import alone
from services.gateway.storage.rows import key_of, tenant_of
from services.gateway.storage.tables import API_KEY, PK_API_KEY, TENANT, UQ_TENANT_NAME
from services.gateway.storage.work import SqlWork
from services.meshkit.core.errors import AlreadyExists, NotFound
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.key_secret import KEY_PREFIX
from services.meshkit.sql.errors import violates
from services.meshkit.sql.scope import Scope, tenant_scope


class SqlUnitOfWork(SqlWork):
    """Implements `usecases.ports.UnitOfWork`."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.keys = SqlApiKeys(scope)
        self.tenants = SqlTenants(scope)


class SqlBeginWork:
    """Implements `usecases.ports.BeginWork`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def __call__(self, *tenants: TenantId) -> AsyncGenerator[SqlUnitOfWork]:
        """See `BeginWork`."""
        async with tenant_scope(self._engine, tenants) as scope:
            yield SqlUnitOfWork(scope)


class SqlApiKeys:
    """Implements `usecases.ports.ApiKeys`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, key: ApiKey) -> None:
        """See `ApiKeys.add`. Raises: AlreadyExists: only for a bootstrap key, whose id comes from a file."""
        values = {
            "id": key.id,
            "tenant_id": key.tenant,
            "display_name": key.display_name,
            "roles": sorted(key.roles),
            "project": key.project,
            "scopes": None if key.scopes is None else sorted(key.scopes),
            "service_account_id": key.service_account,
            "create_time": key.create_time,
            "expire_time": key.expire_time,
            "revoke_time": key.revoke_time,
            **_secrets(key),
        }
        try:
            await self._scope.execute(insert(API_KEY).values(values))
        except IntegrityError as error:
            if violates(error, PK_API_KEY):
                raise AlreadyExists("API key", key.subject) from error
            raise

    async def get(self, tenant: TenantId, key: UUID) -> ApiKey:
        """See `ApiKeys.get`."""
        statement = select(API_KEY).where(API_KEY.c.tenant_id == tenant, API_KEY.c.id == key)
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("API key", from_uuid(KEY_PREFIX, key))
        return key_of(row)

    async def locked(self, tenant: TenantId, key: UUID) -> ApiKey:
        """See `ChangingKeys.locked`."""
        statement = select(API_KEY).where(API_KEY.c.tenant_id == tenant, API_KEY.c.id == key).with_for_update()
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("API key", from_uuid(KEY_PREFIX, key))
        return key_of(row)

    async def count(self, tenant: TenantId, now: datetime) -> int:
        """See `ChangingKeys.count`."""
        await alone(self._scope, "api_key", tenant)
        works = (API_KEY.c.revoke_time.is_(None), or_(API_KEY.c.expire_time.is_(None), API_KEY.c.expire_time > now))
        statement = select(func.count()).select_from(API_KEY).where(API_KEY.c.tenant_id == tenant, *works)
        return (await self._scope.execute(statement)).scalar_one()

    async def revoke(self, key: ApiKey) -> None:
        """See `ChangingKeys.revoke`."""
        statement = update(API_KEY).where(API_KEY.c.tenant_id == key.tenant, API_KEY.c.id == key.id)
        await self._scope.execute(statement.values(revoke_time=key.revoke_time))

    async def rotate(self, key: ApiKey) -> None:
        """See `ChangingKeys.rotate`."""
        statement = update(API_KEY).where(API_KEY.c.tenant_id == key.tenant, API_KEY.c.id == key.id)
        await self._scope.execute(statement.values(rotate_time=key.rotate_time, **_secrets(key)))

    async def revoke_of(self, account: ServiceAccount, now: datetime) -> Sequence[ApiKey]:
        """See `ChangingKeys.revoke_of`."""
        statement = (
            update(API_KEY)
            .where(
                API_KEY.c.tenant_id == account.tenant,
                API_KEY.c.service_account_id == account.id,
                API_KEY.c.revoke_time.is_(None),
            )
            .values(revoke_time=now)
            .returning(API_KEY)
        )
        return [key_of(row) for row in (await self._scope.execute(statement)).mappings()]


def _secrets(key: ApiKey) -> dict[str, Any]:
    secrets = key.secrets
    return {
        "salt": secrets.current.salt,
        "digest": secrets.current.digest,
        "previous_salt": None if secrets.previous is None else secrets.previous.salt,
        "previous_digest": None if secrets.previous is None else secrets.previous.digest,
        "previous_expire_time": secrets.previous_until,
    }


class SqlTenants:
    """Implements `usecases.ports.Tenants`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, tenant: Tenant) -> None:
        """See `Tenants.add`."""
        values = {
            "tenant_id": tenant.id,
            "name": tenant.name,
            "residency_region": tenant.residency_region,
            "state": tenant.state.value,
            "create_time": tenant.create_time,
        }
        try:
            await self._scope.execute(insert(TENANT).values(values))
        except IntegrityError as error:
            if violates(error, UQ_TENANT_NAME):
                raise AlreadyExists("tenant", tenant.name) from error
            raise

    async def get(self, tenant: TenantId) -> Tenant:
        """See `Tenants.get`."""
        statement = select(TENANT).where(TENANT.c.tenant_id == tenant)
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("tenant", from_uuid(TENANT_PREFIX, tenant))
        return tenant_of(row)
