"""What a key ring needs from outside."""

from typing import Protocol
from uuid import UUID

from services.meshkit.core.identity import TenantId


class KeyWrapper(Protocol):
    """Seals data keys with a key-encryption key: a local file here, a key service elsewhere."""

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """Seals a key for this context."""
        ...

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Opens what `wrap` made with the same context.

        Raises: SealBroken: damaged, another context, or an unknown key-encryption key.
        """
        ...


class DataKeys(Protocol):
    """Stores wrapped data keys; `meshkit.sql.data_keys.SqlDataKeys` is one."""

    async def newest(self, tenant: TenantId) -> tuple[UUID, bytes] | None:
        """Gives the id and the wrapped form of the tenant's newest key that is not destroyed."""
        ...

    async def find(self, tenant: TenantId, key_id: UUID) -> bytes | None:
        """Gives the wrapped form of a key; None when it is destroyed or was never the tenant's."""
        ...

    async def add(self, tenant: TenantId, key_id: UUID, wrapped: bytes) -> None:
        """Stores a new key; returns once it is durable."""
        ...

    async def destroy_all(self, tenant: TenantId) -> int:
        """Destroys every key of the tenant; returns how many."""
        ...
