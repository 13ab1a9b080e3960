"""Gives an API key a new secret."""

from datetime import timedelta
from uuid import UUID

from services.gateway.usecases.create_api_key import KeyMaker, NewKey
from services.gateway.usecases.identity_ports import BeginIdentityWork
from services.gateway.usecases.revoke_api_key import Changed
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller


class RotateApiKey:
    """Gives a key a new secret; the old one works for a while longer. The new one is in the first answer only.

    Without an overlap the tokens that were given for the old secret end with it.
    """

    def __init__(self, *, begin: BeginIdentityWork, maker: KeyMaker, clock: Clock, changed: Changed) -> None:
        self._begin = begin
        self._maker = maker
        self._clock = clock
        self._changed = changed

    async def __call__(self, caller: Caller, key_id: UUID, *, overlap: timedelta) -> NewKey:
        """Raises: NotFound, Invalid, RoleNotHeld, ApiKeyEnded; as `once`."""
        principal = caller.principal
        tenant = principal.tenant
        async with self._begin(tenant) as work:
            await work.claim_once()
            key = await work.keys.locked(tenant, key_id)
            presented, secret = self._maker.secret(key_id)
            rotated = key.rotated(secret, by=principal, now=self._clock.now(), overlap=overlap)
            await work.keys.rotate(rotated)
            if not overlap:
                # Tokens say since when their key has had its secret, so those of before are told by that.
                await work.revocations.add(tenant, key.subject, rotated.secret_time)
            note(target=key.subject)
            made = NewKey(rotated, presented)
            await work.keep_once(made)
            await work.commit()
        self._changed(tenant)
        return made
