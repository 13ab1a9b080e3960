"""Ends an API key."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.usecases.identity_ports import BeginIdentityWork
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, TenantId

#: What ends for good is refused for tokens of this much later too: another replica may sign one more for a key that it
#: has just looked up, and its clock may be ahead.
FOR_GOOD: Final = timedelta(minutes=1)

#: Told of a tenant whose keys changed, so that this replica remembers nothing of them.
Changed = Callable[[TenantId], None]


class RevokeApiKey:
    """Makes a key worthless, and the tokens that were given for it; one that is already stays as it is."""

    def __init__(self, *, begin: BeginIdentityWork, clock: Clock, changed: Changed) -> None:
        self._begin = begin
        self._clock = clock
        self._changed = changed

    async def __call__(self, caller: Caller, key_id: UUID) -> ApiKey:
        """Raises: NotFound: no such key in the caller's tenant and project; as `once`."""
        tenant = caller.principal.tenant
        async with self._begin(tenant) as work:
            await work.claim_once()
            found = await work.keys.locked(tenant, key_id)
            note(target=found.subject)
            found.check_within(caller.principal)
            now = self._clock.now()
            key = found.revoked(now)
            if key != found:  # other services are told of what is written, changed or not
                await work.keys.revoke(key)
                await work.revocations.add(tenant, key.subject, now + FOR_GOOD)
            await work.keep_once(key)
            await work.commit()
        self._changed(tenant)
        return key
