"""Signing keys outside of a caller's transaction, as role `maintenance`."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.signing_key import INSTALLATION, signing_key_id
from services.gateway.storage.rows import signing_key_of
from services.gateway.storage.tables import SIGNING_KEY
from services.gateway.usecases.identity_ports import StoredSigningKey
from services.meshkit.crypto.ports import WrappedKey
from services.meshkit.sql.scope import maintenance_scope


class SqlSigningKeyStore:
    """Implements `usecases.identity_ports.SigningKeyStore`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def all(self) -> Sequence[StoredSigningKey]:
        """See `SigningKeyStore.all`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return [signing_key_of(row) for row in (await scope.execute(select(SIGNING_KEY))).mappings()]

    async def add_first(self, key: StoredSigningKey) -> None:
        """See `SigningKeyStore.add_first`. Replicas that start together bring the same key, from the same file."""
        values = select(literal(key.kid), literal(key.public), literal(key.sealed), literal(key.sign_time))
        statement = insert(SIGNING_KEY).from_select(
            ["kid", "public", "sealed", "sign_time"], values.where(~exists(select(SIGNING_KEY.c.kid)))
        )
        async with maintenance_scope(self._engine) as scope:
            # Of two that see none yet, the second finds the key of the first.
            await scope.execute(statement.on_conflict_do_nothing())
            await scope.commit()


class SqlWrappedSigningKeys:
    """Implements `meshkit.crypto.ports.WrappedKeys`: signing keys follow the key-encryption key as data keys do."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def count_otherwise(self, mark: bytes) -> int:
        """See `WrappedKeys.count_otherwise`."""
        statement = select(func.count()).select_from(SIGNING_KEY).where(_otherwise(mark))
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return (await scope.execute(statement)).scalar_one()

    async def otherwise(self, mark: bytes, *, after: WrappedKey | None, most: int) -> Sequence[WrappedKey]:
        """See `WrappedKeys.otherwise`. There are never more than fit into one answer."""
        if after is not None:
            return ()
        statement = select(SIGNING_KEY.c.kid, SIGNING_KEY.c.sealed).where(_otherwise(mark)).limit(most)
        async with maintenance_scope(self._engine, read_only=True) as scope:
            rows = (await scope.execute(statement)).all()
        return [WrappedKey(tenant=INSTALLATION, id=signing_key_id(row.kid), wrapped=row.sealed) for row in rows]

    async def replace(self, key: WrappedKey, wrapped: bytes) -> bool:
        """See `WrappedKeys.replace`. A wrapping is random, so it stands for its key."""
        statement = update(SIGNING_KEY).where(SIGNING_KEY.c.sealed == key.wrapped).values(sealed=wrapped)
        async with maintenance_scope(self._engine) as scope:
            done = await scope.execute(statement)
            await scope.commit()
        return done.rowcount == 1


def _otherwise(mark: bytes) -> ColumnElement[bool]:
    return func.substring(SIGNING_KEY.c.sealed, 1, len(mark)) != mark
