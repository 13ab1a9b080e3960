"""Makes a new key that signs access tokens."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.gateway.domain.signing_key import SigningKeyLife, SigningKeyLine
from services.gateway.usecases.identity_ports import BeginIdentityWork, IdentityWork, StoredSigningKey
from services.gateway.usecases.signing_key_ring import KeyBox
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSigningKey:
    """A signing key and when it begins to sign."""

    kid: str
    sign_time: datetime


class RotateSigningKey:
    """Publishes a new key at once and signs with it after `lead`, when everyone who verifies tokens knows it.

    Args:
        lead: longer than the slowest verifier takes to hear of a new key.
        read: has this replica read the keys again.
    """

    def __init__(
        self,
        *,
        begin: BeginIdentityWork,
        box: KeyBox,
        clock: Clock,
        ids: IdSource,
        lead: timedelta,
        read: Callable[[], Awaitable[None]],
    ) -> None:
        self._begin = begin
        self._box = box
        self._clock = clock
        self._ids = ids
        self._lead = lead
        self._read = read

    async def __call__(self, caller: Caller) -> NewSigningKey:
        """Raises: RotationInProgress; as `once`."""
        tenant = caller.principal.tenant
        async with self._begin(tenant) as work:
            await work.claim_once()
            stored = await work.signing_keys.locked()
            key = await self._add(work, stored, kid=f"access-{self._ids.uuid().hex}")
            note(target=key.kid)
            await work.keep_once(key)
            await work.commit()
        await self._read()
        return key

    async def _add(self, work: IdentityWork, stored: Sequence[StoredSigningKey], *, kid: str) -> NewSigningKey:
        now = self._clock.now()
        line = SigningKeyLine.of([SigningKeyLife(kid=key.kid, sign_time=key.sign_time) for key in stored])
        line.check_rotation(now)
        public, sealed = await self._box.make(kid)
        key = StoredSigningKey(kid=kid, public=public, sealed=sealed, sign_time=now + self._lead)
        await work.signing_keys.add(key)
        await work.signing_keys.forget(old.kid for old in line.forgettable(now))
        return NewSigningKey(kid=kid, sign_time=key.sign_time)
