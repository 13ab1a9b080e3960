"""Transactions over tenants and their erasure."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.erasure import Erasure
from services.gateway.domain.tenant import TENANT_PREFIX, Tenant
from services.gateway.storage.rows import tenant_of
from services.gateway.storage.tables import ERASURE, TENANT
from services.gateway.storage.tenant_rows import erasure_of, policy_to_json, progress_to_json, quotas_to_json
from services.gateway.storage.work import SqlWork
from services.meshkit.core.errors import NotFound
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope

#: An erasure that a gateway works on is left to it so long after its last word.
_LEASE: Final = timedelta(seconds=120)


class SqlTenantWork(SqlWork):
    """Implements `usecases.tenant_ports.TenantWork`."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.tenants = SqlChangingTenants(scope)
        self.erasures = SqlErasures(scope)


class SqlBeginTenantWork:
    """Implements `usecases.tenant_ports.BeginTenantWork`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def __call__(self, *tenants: TenantId) -> AsyncGenerator[SqlTenantWork]:
        """See `BeginTenantWork`."""
        async with tenant_scope(self._engine, tenants) as scope:
            yield SqlTenantWork(scope)


class SqlChangingTenants:
    """Implements `usecases.tenant_ports.ChangingTenants`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def lock(self, tenant: TenantId) -> Tenant:
        """See `ChangingTenants.lock`."""
        statement = select(TENANT).where(TENANT.c.tenant_id == tenant).with_for_update()
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("tenant", from_uuid(TENANT_PREFIX, tenant))
        return tenant_of(row)

    async def replace(self, tenant: Tenant) -> None:
        """See `ChangingTenants.replace`. A trigger tells the guard feed with the commit."""
        statement = (
            update(TENANT)
            .where(TENANT.c.tenant_id == tenant.id)
            .values(
                state=tenant.state.value,
                residency_region=tenant.residency_region,
                quotas=quotas_to_json(tenant.quotas),
                security_policy=policy_to_json(tenant.security_policy),
                revision=tenant.revision,
            )
        )
        await self._scope.execute(statement)


class SqlErasures:
    """Implements `usecases.tenant_ports.Erasures`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def begin(self, tenant: TenantId, now: datetime, services: Sequence[str]) -> None:
        """See `Erasures.begin`."""
        begun = Erasure(tenant=tenant, start_time=now, pending=frozenset(services))
        statement = upsert(ERASURE).values(
            tenant_id=tenant, start_time=now, progress=progress_to_json(begun), lease_until=func.now()
        )
        await self._scope.execute(statement.on_conflict_do_nothing())

    async def get(self, tenant: TenantId) -> Erasure:
        """See `Erasures.get`."""
        statement = select(ERASURE).where(ERASURE.c.tenant_id == tenant)
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("erasure of tenant", from_uuid(TENANT_PREFIX, tenant))
        return erasure_of(row)


class SqlTenantReader:
    """Implements `usecases.tenant_ports.TenantLookup`, and reads erasures."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, tenant: TenantId) -> Tenant:
        """See `TenantLookup.get`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            statement = select(TENANT).where(TENANT.c.tenant_id == tenant)
            row = (await scope.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("tenant", from_uuid(TENANT_PREFIX, tenant))
        return tenant_of(row)

    async def erasure(self, tenant: TenantId) -> Erasure:
        """Raises: NotFound: there is no such tenant, or it is not being erased."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return await SqlErasures(scope).get(tenant)


class SqlErasureBook:
    """Implements `usecases.tenant_ports.ErasureBook`.

    Args:
        maintenance: engine of the `maintenance` role.
    """

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def take(self) -> Erasure | None:
        """See `ErasureBook.take`."""
        free = (
            select(ERASURE.c.tenant_id)
            .where(ERASURE.c.end_time.is_(None), ERASURE.c.lease_until <= func.now())
            .order_by(ERASURE.c.lease_until)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(ERASURE)
            .where(ERASURE.c.tenant_id.in_(free))
            .values(lease_until=func.now() + _LEASE)
            .returning(ERASURE)
        )
        async with maintenance_scope(self._engine) as scope:
            row = (await scope.execute(statement)).mappings().one_or_none()
            await scope.commit()
        return None if row is None else erasure_of(row)

    async def note(self, erasure: Erasure, *, hold: bool) -> None:
        """See `ErasureBook.note`."""
        values = {"progress": progress_to_json(erasure), "end_time": erasure.end_time}
        statement = update(ERASURE).where(ERASURE.c.tenant_id == erasure.tenant).values(values)
        until = func.now() + _LEASE if hold else func.now()
        statement = statement.values(lease_until=until)
        async with maintenance_scope(self._engine) as scope:
            await scope.execute(statement)
            await scope.commit()
