"""A store of data keys in memory, and a key service that can go away."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.errors import KeyServiceAway
from services.meshkit.crypto.ports import KeyWrapper, StoredKey, WrappedKey


@dataclass
class Row:
    wrapped: bytes | None
    created: datetime
    messages: int


@dataclass
class MemoryDataKeys:
    """`DataKeys` and `WrappedKeys` in one."""

    now: Callable[[], datetime]
    rows: dict[tuple[TenantId, UUID], Row] = field(default_factory=dict[tuple[TenantId, UUID], Row])

    async def newest(self, tenant: TenantId) -> StoredKey | None:
        await asyncio.sleep(0)
        mine = [(key_id, row) for (owner, key_id), row in self.rows.items() if owner == tenant]
        live = [
            StoredKey(id=key_id, wrapped=row.wrapped, age=self.now() - row.created)
            for key_id, row in mine
            if row.wrapped is not None
        ]
        return max(live, key=lambda key: key.id, default=None)

    async def find(self, tenant: TenantId, key_id: UUID) -> bytes | None:
        await asyncio.sleep(0)
        row = self.rows.get((tenant, key_id))
        return None if row is None else row.wrapped

    async def add(self, tenant: TenantId, key_id: UUID, wrapped: bytes, *, messages: int) -> None:
        await asyncio.sleep(0)
        self.rows[tenant, key_id] = Row(wrapped, self.now(), messages)

    async def allot(self, tenant: TenantId, key_id: UUID, messages: int) -> int | None:
        await asyncio.sleep(0)
        row = self.rows.get((tenant, key_id))
        if row is None or row.wrapped is None:
            return None
        row.messages += messages
        return row.messages

    def erase(self, tenant: TenantId) -> None:
        """Destroys a tenant's keys as `TenantRows.destroy_keys` does in the database, beside the key rings."""
        for (owner, _), row in self.rows.items():
            if owner == tenant:
                row.wrapped = None

    async def count_otherwise(self, mark: bytes) -> int:
        return len(await self.otherwise(mark, after=None, most=len(self.rows)))

    async def otherwise(self, mark: bytes, *, after: WrappedKey | None, most: int) -> Sequence[WrappedKey]:
        await asyncio.sleep(0)
        found = [
            WrappedKey(tenant=tenant, id=key_id, wrapped=row.wrapped)
            for (tenant, key_id), row in sorted(self.rows.items())
            if row.wrapped is not None and not row.wrapped.startswith(mark)
        ]
        return [key for key in found if after is None or (key.tenant, key.id) > (after.tenant, after.id)][:most]

    async def replace(self, key: WrappedKey, wrapped: bytes) -> bool:
        await asyncio.sleep(0)
        row = self.rows[key.tenant, key.id]
        if row.wrapped != key.wrapped:
            return False
        row.wrapped = wrapped
        return True


@dataclass
class AwayWrapper:
    """A `KeyWrapper` that does not answer while `is_away`."""

    inner: KeyWrapper
    is_away: bool = False

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        self._answer()
        return await self.inner.wrap(key, context=context)

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        self._answer()
        return await self.inner.unwrap(wrapped, context=context)

    async def mark(self) -> bytes:
        self._answer()
        return await self.inner.mark()

    def _answer(self) -> None:
        if self.is_away:
            raise KeyServiceAway("key service of the test")
