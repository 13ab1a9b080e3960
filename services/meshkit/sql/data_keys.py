"""The wrapped data keys of tenants. Stores for `meshkit.crypto.KeyRing`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Uuid,
    and_,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.ports import StoredKey, WrappedKey
from services.meshkit.sql.rls import tenant_table
from services.meshkit.sql.scope import maintenance_scope, tenant_scope

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
        # Allotted to processes that seal with the key; at 2**31 there is another key.
        Column("messages", BigInteger, nullable=False, server_default="0"),
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


def count_messages(op: "Operations") -> None:
    """Adds to the table, in a later migration, how many messages were allotted of a key."""
    op.execute("ALTER TABLE data_key ADD COLUMN messages bigint NOT NULL DEFAULT 0")


def count_no_messages(op: "Operations") -> None:
    """Takes `count_messages` back."""
    op.execute("ALTER TABLE data_key DROP COLUMN messages")


_TABLE: Final = data_key_table(MetaData())


class SqlDataKeys:
    """Keeps wrapped data keys in the service's own database; the app role sees its tenant's only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def newest(self, tenant: TenantId) -> StoredKey | None:
        """See `DataKeys.newest`."""
        statement = (
            select(_TABLE.c.key_id, _TABLE.c.wrapped, (func.now() - _TABLE.c.created_time).label("age"))
            .where(_TABLE.c.tenant_id == tenant, _TABLE.c.wrapped.isnot(None))
            .order_by(_TABLE.c.key_id.desc())
            .limit(1)
        )
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            row = (await scope.execute(statement)).one_or_none()
        return None if row is None else StoredKey(id=row.key_id, wrapped=bytes(row.wrapped), age=row.age)

    async def find(self, tenant: TenantId, key_id: UUID) -> bytes | None:
        """Gives the wrapped form of a key; None when it is destroyed or was never the tenant's."""
        statement = select(_TABLE.c.wrapped).where(_TABLE.c.tenant_id == tenant, _TABLE.c.key_id == key_id)
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            wrapped = (await scope.execute(statement)).scalar_one_or_none()
        return None if wrapped is None else bytes(wrapped)

    async def add(self, tenant: TenantId, key_id: UUID, wrapped: bytes, *, messages: int) -> None:
        """See `DataKeys.add`."""
        statement = _TABLE.insert().values(tenant_id=tenant, key_id=key_id, wrapped=wrapped, messages=messages)
        async with tenant_scope(self._engine, tenant, audited=False) as scope:
            await scope.execute(statement)
            await scope.commit()

    async def allot(self, tenant: TenantId, key_id: UUID, messages: int) -> int | None:
        """See `DataKeys.allot`."""
        statement = (
            update(_TABLE)
            .where(_TABLE.c.tenant_id == tenant, _TABLE.c.key_id == key_id, _TABLE.c.wrapped.isnot(None))
            .values(messages=_TABLE.c.messages + messages)
            .returning(_TABLE.c.messages)
        )
        async with tenant_scope(self._engine, tenant, audited=False) as scope:
            allotted = (await scope.execute(statement)).scalar_one_or_none()
            await scope.commit()
        return allotted


class SqlWrappedKeys:
    """The wrapped data keys of all tenants, for background work.

    Args:
        engine: of the `maintenance` role.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def count_otherwise(self, mark: bytes) -> int:
        """See `WrappedKeys.count_otherwise`."""
        statement = select(func.count()).select_from(_TABLE).where(_otherwise(mark))
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return (await scope.execute(statement)).scalar_one()

    async def otherwise(self, mark: bytes, *, after: WrappedKey | None, most: int) -> Sequence[WrappedKey]:
        """See `WrappedKeys.otherwise`."""
        place = tuple_(_TABLE.c.tenant_id, _TABLE.c.key_id)
        statement = select(_TABLE.c.tenant_id, _TABLE.c.key_id, _TABLE.c.wrapped).where(_otherwise(mark))
        if after is not None:
            statement = statement.where(place > tuple_(after.tenant, after.id))
        async with maintenance_scope(self._engine, read_only=True) as scope:
            rows = (await scope.execute(statement.order_by(place).limit(most))).all()
        return [WrappedKey(tenant=TenantId(row.tenant_id), id=row.key_id, wrapped=bytes(row.wrapped)) for row in rows]

    async def replace(self, key: WrappedKey, wrapped: bytes) -> bool:
        """See `WrappedKeys.replace`."""
        statement = (
            update(_TABLE)
            .where(_TABLE.c.tenant_id == key.tenant, _TABLE.c.key_id == key.id, _TABLE.c.wrapped == key.wrapped)
            .values(wrapped=wrapped)
        )
        async with maintenance_scope(self._engine) as scope:
            done = await scope.execute(statement)
            await scope.commit()
        return done.rowcount == 1


def _otherwise(mark: bytes) -> ColumnElement[bool]:
    return and_(_TABLE.c.wrapped.isnot(None), func.substring(_TABLE.c.wrapped, 1, len(mark)) != mark)
