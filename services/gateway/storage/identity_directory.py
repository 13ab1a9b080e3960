"""Looks across tenants, as role `maintenance`, which may read and nothing else."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.grant import Grant, Standing
from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX
from services.gateway.domain.tenant import Tenant
from services.gateway.domain.user import USER_PREFIX
from services.gateway.storage.one_trips import FIND_API_KEY
from services.gateway.storage.people_tables import PERSON
from services.gateway.storage.people_work import user_of
from services.gateway.storage.rows import account_of, grant_of, key_of, tenant_of
from services.gateway.storage.tables import API_KEY, GRANT, SERVICE_ACCOUNT, TENANT
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.key_secret import KEY_PREFIX
from services.meshkit.core.tenant import TenantState
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import Scope, maintenance_scope


class SqlIdentityDirectory:
    """Implements `usecases.ports.IdentityDirectory` and `TenantReader`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def key(self, key: UUID) -> tuple[ApiKey, TenantState] | None:
        """See `IdentityDirectory.key`."""
        rows = await one_trip(self._engine, None, FIND_API_KEY, key)
        [row] = rows
        # Read even if there is no such key, so that the time does not tell.
        found = key_of(dict(row)), TenantState(row["tenant_state"])
        return None if row["id"] is None else found

    async def tenant_state(self, tenant: TenantId) -> TenantState:
        """See `IdentityDirectory.tenant_state`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            state = (
                await scope.execute(select(TENANT.c.state).where(TENANT.c.tenant_id == tenant))
            ).scalar_one_or_none()
        return TenantState.DELETED if state is None else TenantState(state)

    async def grant(self, grant: UUID) -> tuple[Grant, Standing] | None:
        """See `IdentityDirectory.grant`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            found = (await scope.execute(select(GRANT).where(GRANT.c.id == grant))).mappings().one_or_none()
            if found is None:
                return None
            read = grant_of(found)
            standing = await _standing(scope, read)
        return None if standing is None else (read, standing)

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


async def _standing(scope: Scope, grant: Grant) -> Standing | None:
    """Finds who stands behind a grant now; None when there is nobody of that name."""
    tenant, subject = grant.tenant, grant.subject
    prefix = subject.partition("_")[0]
    if prefix == KEY_PREFIX:
        key = await _key(scope, tenant, subject)
        return None if key is None else _of_key(subject, key)
    if prefix == SERVICE_ACCOUNT_PREFIX:
        account_id = to_uuid(subject, SERVICE_ACCOUNT_PREFIX)
        account = select(SERVICE_ACCOUNT).where(
            SERVICE_ACCOUNT.c.tenant_id == tenant, SERVICE_ACCOUNT.c.id == account_id
        )
        row = (await scope.execute(account)).mappings().one_or_none()
        if row is None:
            return None
        found = account_of(row)
        if grant.api_key is None:
            return Standing(subject=subject, roles=found.roles, ended=not found.works)
        key = await _key(scope, tenant, grant.api_key)
        return None if key is None or not found.works else _of_key(subject, key)
    if prefix == USER_PREFIX:
        statement = select(PERSON).where(PERSON.c.tenant_id == tenant, PERSON.c.id == to_uuid(subject, USER_PREFIX))
        row = (await scope.execute(statement)).mappings().one_or_none()
        if row is None:
            return None
        user = user_of(row)
        return Standing(
            subject=subject, roles=user.roles, ended=not user.works, email=user.email, roles_time=user.roles_time
        )
    return None


async def _key(scope: Scope, tenant: TenantId, name: str) -> ApiKey | None:
    statement = select(API_KEY).where(API_KEY.c.tenant_id == tenant, API_KEY.c.id == to_uuid(name, KEY_PREFIX))
    row = (await scope.execute(statement)).mappings().one_or_none()
    return None if row is None else key_of(row)


def _of_key(subject: str, key: ApiKey) -> Standing:
    return Standing(
        subject=subject,
        roles=key.roles,
        ended=key.revoke_time is not None,
        expire_time=key.expire_time,
        secret_time=key.secret_time,
    )
