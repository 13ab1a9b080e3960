"""Signing keys outside of a caller's transaction, as role `maintenance`."""

from collections.abc import Sequence

from sqlalchemy import exists, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.storage.rows import signing_key_of
from services.gateway.storage.tables import SIGNING_KEY
from services.gateway.usecases.identity_ports import StoredSigningKey
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
            await scope.execute(statement)
            await scope.commit()
