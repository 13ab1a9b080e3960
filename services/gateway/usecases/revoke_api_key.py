"""Ends an API key."""

from collections.abc import Callable
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.usecases.ports import BeginWork
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller


class RevokeApiKey:
    """Makes a key worthless; one that is already stays as it is.

    Args:
        forget: told about the key, so that this replica remembers nothing of it.
    """

    def __init__(self, *, begin: BeginWork, clock: Clock, forget: Callable[[UUID], None]) -> None:
        self._begin = begin
        self._clock = clock
        self._forget = forget

    async def __call__(self, caller: Caller, key_id: UUID) -> ApiKey:
        """Raises: NotFound: no such key in the caller's tenant."""
        tenant = caller.principal.tenant
        async with self._begin(tenant) as work:
            key = await work.keys.revoke(tenant, key_id, self._clock.now())
            await work.audit.add("api_key.revoked", key.subject, by=caller.principal.subject, tenant=tenant)
            await work.commit()
        self._forget(key_id)
        return key
