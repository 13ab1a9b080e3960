"""Looks across tenants, as role `maintenance`, which may read and nothing else."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.grant import Grant, Standing
from services.gateway.domain.service_account import SERVICE_ACCOUNT_PREFIX, ServiceAccount
from services.gateway.domain.tenant import Tenant
from services.gateway.domain.user import USER_PREFIX
from services.gateway.storage.one_trips import FIND_API_KEY, FIND_GRANT
from services.gateway.storage.people_tables import PERSON
from services.gateway.storage.people_work import user_of
from services.gateway.storage.rows import Row, account_of, grant_of, key_of, tenant_of
from services.gateway.storage.tables import SERVICE_ACCOUNT, TENANT
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.key_secret import KEY_PREFIX
from services.meshkit.core.tenant import TenantState
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import maintenance_scope


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

    async def grant(self, grant: UUID) -> tuple[Grant, Standing, TenantState] | None:
        """See `IdentityDirectory.grant`."""
        rows = await one_trip(self._engine, None, FIND_GRANT, grant)
        if not rows:
            return None
        row = dict(rows[0])
        read = grant_of(row)
        state = TenantState.DELETED if row["tenant_state"] is None else TenantState(row["tenant_state"])
        standing = await self._standing(read, row)
        return None if standing is None else (read, standing, state)

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

    async def _standing(self, grant: Grant, row: Row) -> Standing | None:
        """Finds who stands behind a grant now; None when there is nobody of that name. `row` is of `FIND_GRANT`."""
        prefix = grant.subject.partition("_")[0]
        if prefix == KEY_PREFIX:
            return _of_key(grant.subject, row)
        if prefix == SERVICE_ACCOUNT_PREFIX:
            account = await self._account(grant)
            if account is None:
                return None
            if grant.api_key is None:
                return Standing(subject=grant.subject, roles=account.roles, ended=not account.works)
            return _of_key(grant.subject, row) if account.works else None
        if prefix == USER_PREFIX:
            return await self._user(grant)
        return None

    async def _account(self, grant: Grant) -> ServiceAccount | None:
        account = to_uuid(grant.subject, SERVICE_ACCOUNT_PREFIX)
        columns = SERVICE_ACCOUNT.c
        statement = select(SERVICE_ACCOUNT).where(columns.tenant_id == grant.tenant, columns.id == account)
        async with maintenance_scope(self._engine, read_only=True) as scope:
            row = (await scope.execute(statement)).mappings().one_or_none()
        return None if row is None else account_of(row)

    async def _user(self, grant: Grant) -> Standing | None:
        user = to_uuid(grant.subject, USER_PREFIX)
        statement = select(PERSON).where(PERSON.c.tenant_id == grant.tenant, PERSON.c.id == user)
        async with maintenance_scope(self._engine, read_only=True) as scope:
            row = (await scope.execute(statement)).mappings().one_or_none()
        if row is None:
            return None
        found = user_of(row)
        return Standing(
            subject=grant.subject,
            roles=found.roles,
            ended=not found.works,
            email=found.email,
            roles_time=found.roles_time,
        )


def _of_key(subject: str, row: Row) -> Standing | None:
    """Gives the key of a row of `FIND_GRANT`, None if there is none."""
    if row["key_roles"] is None:
        return None
    return Standing(
        subject=subject,
        roles=frozenset(Role(role) for role in row["key_roles"]),
        ended=row["key_revoke_time"] is not None,
        expire_time=row["key_expire_time"],
        secret_time=row["key_secret_time"],
    )
