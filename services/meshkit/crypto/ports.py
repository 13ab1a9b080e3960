"""What a key ring needs from outside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from services.meshkit.core.identity import TenantId


class KeyWrapper(Protocol):
    """Seals data keys with a key-encryption key: a local file here, a key service elsewhere."""

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """Seals a key for this context, with the newest key-encryption key.

        Raises: KeyServiceAway: the key service does not answer.
        """
        ...

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Opens what `wrap` made with the same context.

        Raises: SealBroken: damaged, another context, or an unknown key-encryption key. KeyServiceAway: as `wrap`.
        """
        ...

    async def mark(self) -> bytes:
        """Gives the bytes that all begins with that is wrapped from now on. What begins otherwise is wrapped anew.

        Raises: KeyServiceAway: as `wrap`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A data key as its store gives it."""

    id: UUID
    wrapped: bytes = field(repr=False)
    #: Since it was made, by the clock of the store.
    age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A data key of any tenant, to be wrapped anew."""

    tenant: TenantId
    id: UUID
    wrapped: bytes = field(repr=False)


class DataKeys(Protocol):
    """Stores wrapped data keys; `meshkit.sql.data_keys.SqlDataKeys` is one."""

    async def newest(self, tenant: TenantId) -> StoredKey | None:
        """Gives the tenant's newest key that is not destroyed."""
        ...

    async def find(self, tenant: TenantId, key_id: UUID) -> bytes | None:
        """Gives the wrapped form of a key; None when it is destroyed or was never the tenant's."""
        ...

    async def add(self, tenant: TenantId, key_id: UUID, wrapped: bytes, *, messages: int) -> None:
        """Stores a new key of which `messages` are allotted; returns once it is durable."""
        ...

    async def allot(self, tenant: TenantId, key_id: UUID, messages: int) -> int | None:
        """Allots messages to a process that is about to seal them.

        Returns: all that were ever allotted of this key, these included; None when it is destroyed.
        """
        ...


class WrappedKeys(Protocol):
    """The data keys of all tenants, for background work; `meshkit.sql.data_keys.SqlWrappedKeys` is one."""

    async def count_otherwise(self, mark: bytes) -> int:
        """Counts the keys whose wrapped form does not begin with `mark`."""
        ...

    async def otherwise(self, mark: bytes, *, after: WrappedKey | None, most: int) -> Sequence[WrappedKey]:
        """Lists such keys in a fixed order, those that come after one of them."""
        ...

    async def replace(self, key: WrappedKey, wrapped: bytes) -> bool:
        """Stores another wrapping of a key, unless it was destroyed or wrapped anew meanwhile; tells whether it did."""
        ...
