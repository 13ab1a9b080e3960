"""One transaction about keys, service accounts and signing keys."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX, ServiceAccount
from services.gateway.storage.alone import alone
from services.gateway.storage.people_work import SqlRevocations
from services.gateway.storage.rows import account_of, signing_key_of
from services.gateway.storage.tables import SERVICE_ACCOUNT, SIGNING_KEY
from services.gateway.storage.unit_of_work import SqlApiKeys
from services.gateway.storage.work import SqlWork
from services.gateway.usecases.identity_ports import StoredSigningKey
from services.meshkit.core.errors import NotFound
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.scope import Scope, tenant_scope

#: Of the advisory lock that lets one transaction at a time change the line of signing keys.
_SIGNING_KEYS = 0x5349_474E


class SqlIdentityWork(SqlWork):
    """Implements `usecases.identity_ports.IdentityWork`."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.keys = SqlApiKeys(scope)
        self.accounts = SqlServiceAccounts(scope)
        self.signing_keys = SqlSigningKeys(scope)
        self.revocations = SqlRevocations(scope)


class SqlBeginIdentityWork:
    """Implements `usecases.identity_ports.BeginIdentityWork`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def __call__(self, *tenants: TenantId) -> AsyncGenerator[SqlIdentityWork]:
        """See `BeginIdentityWork`."""
        async with tenant_scope(self._engine, tenants) as scope:
            yield SqlIdentityWork(scope)


class SqlServiceAccounts:
    """Implements `usecases.identity_ports.ServiceAccounts`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, account: ServiceAccount) -> None:
        """See `ServiceAccounts.add`."""
        values = {
            "id": account.id,
            "tenant_id": account.tenant,
            "display_name": account.display_name,
            "roles": sorted(account.roles),
            "project": account.project,
            "create_time": account.create_time,
        }
        await self._scope.execute(insert(SERVICE_ACCOUNT).values(values))

    async def get(self, tenant: TenantId, account: UUID) -> ServiceAccount:
        """See `ServiceAccounts.get`."""
        return await self._found(tenant, account, shared=True)

    async def locked(self, tenant: TenantId, account: UUID) -> ServiceAccount:
        """See `ServiceAccounts.locked`."""
        return await self._found(tenant, account, shared=False)

    async def count(self, tenant: TenantId) -> int:
        """See `ServiceAccounts.count`."""
        await alone(self._scope, "service_account", tenant)
        mine = (SERVICE_ACCOUNT.c.tenant_id == tenant, SERVICE_ACCOUNT.c.disable_time.is_(None))
        statement = select(func.count()).select_from(SERVICE_ACCOUNT).where(*mine)
        return (await self._scope.execute(statement)).scalar_one()

    async def disable(self, account: ServiceAccount) -> None:
        """See `ServiceAccounts.disable`."""
        mine = (SERVICE_ACCOUNT.c.tenant_id == account.tenant, SERVICE_ACCOUNT.c.id == account.id)
        await self._scope.execute(update(SERVICE_ACCOUNT).where(*mine).values(disable_time=account.disable_time))

    async def _found(self, tenant: TenantId, account: UUID, *, shared: bool) -> ServiceAccount:
        statement = (
            select(SERVICE_ACCOUNT)
            .where(SERVICE_ACCOUNT.c.tenant_id == tenant, SERVICE_ACCOUNT.c.id == account)
            .with_for_update(read=shared)
        )
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("service account", from_uuid(SERVICE_ACCOUNT_PREFIX, account))
        return account_of(row)


class SqlSigningKeys:
    """Implements `usecases.identity_ports.SigningKeys`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def locked(self) -> Sequence[StoredSigningKey]:
        """See `SigningKeys.locked`."""
        await self._scope.execute(select(func.pg_advisory_xact_lock(_SIGNING_KEYS)))
        return [signing_key_of(row) for row in (await self._scope.execute(select(SIGNING_KEY))).mappings()]

    async def add(self, key: StoredSigningKey) -> None:
        """See `SigningKeys.add`."""
        values = {"kid": key.kid, "public": key.public, "sealed": key.sealed, "sign_time": key.sign_time}
        await self._scope.execute(insert(SIGNING_KEY).values(values))

    async def forget(self, kids: Iterable[str]) -> None:
        """See `SigningKeys.forget`."""
        await self._scope.execute(delete(SIGNING_KEY).where(SIGNING_KEY.c.kid.in_(tuple(kids))))
