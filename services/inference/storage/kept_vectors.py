"""Answers to requests for vectors, sealed: vectors tell a good part of what they stand for."""

from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.usecases.embed import Vectors
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import tenant_scope


class SqlKeptVectors:
    """Implements `usecases.embed_once.KeptVectors`."""

    def __init__(self, engine: AsyncEngine, *, keys: KeyRing) -> None:
        self._engine = engine
        self._keys = keys

    async def look(self, tenant: TenantId) -> None:
        """See `KeptVectors.look`."""
        async with tenant_scope(self._engine, tenant, audited=False) as scope:
            await claim_once(scope, keys=self._keys)

    async def keep(self, tenant: TenantId, made: Vectors) -> None:
        """See `KeptVectors.keep`."""
        async with tenant_scope(self._engine, tenant, audited=False) as scope:
            await claim_once(scope, keys=self._keys)
            await keep_once(scope, made, keys=self._keys)
            await scope.commit()
