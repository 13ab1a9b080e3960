"""The wrapped data keys of tenants. Stores for `meshkit.crypto.KeyRing`."""

from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Uuid, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.rls import tenant_table
from services.meshkit.sql.scope import tenant_scope

if TYPE_CHECKING:
    # Only migrations have it at hand; a service does without its 9 MB.
    from alembic.operations import Operations

DATA_KEYS: Final = "data_key"


def data_key_table(metadata: MetaData) -> Table:
    """Describes the table of data keys for a service's `tables.py`."""
    return Table(
        DATA_KEYS,
        metadata,
        Column("tenant_id", Uuid, nullable=False),
        # UUIDv7: the newest key is the one to seal with.
        Column("key_id", Uuid, nullable=False),
        # The key, sealed by the key-encryption key; null once destroyed.
        Column("wrapped", LargeBinary),
        Column("created_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("destroyed_time", DateTime(timezone=True)),
        PrimaryKeyConstraint("tenant_id", "key_id", name="pk_data_key"),
    )


def create_data_keys(op: "Operations") -> None:
    """Makes the table in a migration. Keys are destroyed, never deleted: what they sealed stays provably sealed."""
    op.execute(
        "CREATE TABLE data_key (tenant_id uuid NOT NULL, key_id uuid NOT NULL, wrapped bytea,"
        " created_time timestamptz NOT NULL DEFAULT now(), destroyed_time timestamptz,"
        " CONSTRAINT pk_data_key PRIMARY KEY (tenant_id, key_id),"
        " CONSTRAINT ck_data_key_destroyed CHECK ((wrapped IS NULL) = (destroyed_time IS NOT NULL)))"
    )
    tenant_table(op, DATA_KEYS, app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "UPDATE"))


_TABLE: Final = data_key_table(MetaData())


class SqlDataKeys:
    """Keeps wrapped data keys in the service's own database; the app role sees its tenant's only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def newest(self, tenant: TenantId) -> tuple[UUID, bytes] | None:
        """Gives the id and the wrapped form of the newest key that is not destroyed."""
        statement = (
            select(_TABLE.c.key_id, _TABLE.c.wrapped)
            .where(_TABLE.c.tenant_id == tenant, _TABLE.c.wrapped.isnot(None))
            .order_by(_TABLE.c.key_id.desc())
            .limit(1)
        )
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            row = (await scope.execute(statement)).one_or_none()
        return None if row is None else (row.key_id, bytes(row.wrapped))

    async def find(self, tenant: TenantId, key_id: UUID) -> bytes | None:
        """Gives the wrapped form of a key; None when it is destroyed or was never the tenant's."""
        statement = select(_TABLE.c.wrapped).where(_TABLE.c.tenant_id == tenant, _TABLE.c.key_id == key_id)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            wrapped = (await scope.execute(statement)).scalar_one_or_none()
        return None if wrapped is None else bytes(wrapped)

    async def add(self, tenant: TenantId, key_id: UUID, wrapped: bytes) -> None:
        """Stores a new key."""
        async with tenant_scope(self._engine, tenant) as scope:
            await scope.execute(_TABLE.insert().values(tenant_id=tenant, key_id=key_id, wrapped=wrapped))
            await scope.commit()

    async def destroy_all(self, tenant: TenantId) -> int:
        """Destroys every key of a tenant; returns how many. What they sealed can never be opened again."""
        statement = (
            update(_TABLE)
            .where(_TABLE.c.tenant_id == tenant, _TABLE.c.wrapped.isnot(None))
            .values(wrapped=None, destroyed_time=func.now())
        )
        async with tenant_scope(self._engine, tenant) as scope:
            done = await scope.execute(statement)
            await scope.commit()
        return done.rowcount
