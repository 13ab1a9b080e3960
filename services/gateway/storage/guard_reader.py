"""Reads what other services have to know of all tenants, as role `maintenance`."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, delete, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.tenant import Tenant
from services.gateway.storage.one_trips import GUARD_CHANGES
from services.gateway.storage.people_tables import REVOKED_SUBJECT
from services.gateway.storage.rows import key_of, tenant_of
from services.gateway.storage.tables import API_KEY, GUARD_CHANGE, GUARD_VERSION, TENANT
from services.gateway.usecases.identity_ports import GuardChange, GuardNoun, RevokedSubject
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import maintenance_scope


class SqlGuardReader:
    """Implements `usecases.identity_ports.GuardReader`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def version(self) -> int:
        """See `GuardReader.version`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return (await scope.execute(select(GUARD_VERSION.c.version))).scalar_one()

    async def changes(self, *, after: int, most: int) -> list[GuardChange]:
        """See `GuardReader.changes`."""
        return [
            GuardChange(
                version=row["version"],
                noun=GuardNoun(row["noun"]),
                about=row["about"],
                tenant=row["changed_tenant"],
            )
            for row in await one_trip(self._engine, None, GUARD_CHANGES, after, most)
        ]

    async def keys(self, ids: Iterable[UUID]) -> list[ApiKey]:
        """See `GuardReader.keys`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            rows = (await scope.execute(select(API_KEY).where(API_KEY.c.id.in_(tuple(ids))))).mappings()
            return [key_of(row) for row in rows]

    async def tenants(self, ids: Iterable[UUID]) -> list[Tenant]:
        """See `GuardReader.tenants`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            rows = (await scope.execute(select(TENANT).where(TENANT.c.tenant_id.in_(tuple(ids))))).mappings()
            return [tenant_of(row) for row in rows]

    async def revoked(self, subjects: Iterable[tuple[TenantId, str]]) -> list[RevokedSubject]:
        """See `GuardReader.revoked`."""
        named = tuple_(REVOKED_SUBJECT.c.tenant_id, REVOKED_SUBJECT.c.subject).in_(tuple(subjects))
        async with maintenance_scope(self._engine, read_only=True) as scope:
            rows = (await scope.execute(select(REVOKED_SUBJECT).where(named))).all()
            return [RevokedSubject(tenant=row[0], subject=row[1], revoke_time=row[2]) for row in rows]

    async def revoked_after(
        self, since: datetime, *, after: tuple[UUID, str] | None, most: int
    ) -> list[RevokedSubject]:
        """See `GuardReader.revoked_after`."""
        table = REVOKED_SUBJECT.c
        statement = select(table.tenant_id, table.subject, table.revoke_time).where(table.revoke_time > since)
        if after is not None:
            tenant, subject = after
            statement = statement.where(
                or_(table.tenant_id > tenant, and_(table.tenant_id == tenant, table.subject > subject))
            )
        async with maintenance_scope(self._engine, read_only=True) as scope:
            rows = (await scope.execute(statement.order_by(table.tenant_id, table.subject).limit(most))).all()
            return [RevokedSubject(tenant=row[0], subject=row[1], revoke_time=row[2]) for row in rows]

    async def working_keys(self, now: datetime, *, after: UUID | None, most: int) -> list[ApiKey]:
        """See `GuardReader.working_keys`."""
        statement = select(API_KEY).where(
            API_KEY.c.revoke_time.is_(None), or_(API_KEY.c.expire_time.is_(None), API_KEY.c.expire_time > now)
        )
        if after is not None:
            statement = statement.where(API_KEY.c.id > after)
        async with maintenance_scope(self._engine, read_only=True) as scope:
            rows = (await scope.execute(statement.order_by(API_KEY.c.id).limit(most))).mappings()
            return [key_of(row) for row in rows]

    async def all_tenants(self, *, after: UUID | None, most: int) -> list[Tenant]:
        """See `GuardReader.all_tenants`."""
        statement = select(TENANT).order_by(TENANT.c.tenant_id).limit(most)
        if after is not None:
            statement = statement.where(TENANT.c.tenant_id > after)
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return [tenant_of(row) for row in (await scope.execute(statement)).mappings()]

    async def forget_changes(self, before: datetime) -> None:
        """See `GuardReader.forget_changes`."""
        async with maintenance_scope(self._engine) as scope:
            await scope.execute(delete(GUARD_CHANGE).where(GUARD_CHANGE.c.change_time < before))
            await scope.commit()
