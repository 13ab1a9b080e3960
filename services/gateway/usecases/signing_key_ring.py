"""The keys that sign access tokens, opened and ready, in this replica."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, Protocol

from services.gateway.domain.signing_key import SigningKeyLife, SigningKeyLine
from services.gateway.usecases.identity_ports import KeySetPublisher, SigningKeyStore, StoredSigningKey
from services.gateway.usecases.ports import TokenSigner
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal, MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.metrics import SIGNING_KEY_SINCE

#: How often the public keys are looked at again, seconds.
_LOOK_SECONDS: Final = 1.0
#: How often all keys are read again although nobody told of a change, in looks.
_READ_EVERY: Final = 30

log = logger(__name__)


class KeyBox(Protocol):
    """Makes, wraps and opens private keys."""

    async def make(self, kid: str) -> tuple[bytes, bytes]:
        """Gives the public half and the wrapped private half of a new key."""
        ...

    async def first(self) -> tuple[str, bytes, bytes]:
        """Gives id, public half and wrapped private half of the key that the installation was made with."""
        ...

    async def signer(self, kid: str, sealed: bytes) -> TokenSigner:
        """Opens a private key. Raises: SealBroken."""
        ...


class SigningKeyRing:
    """Signs with the key whose turn it is, and publishes the public halves of those that verify.

    Implements `usecases.ports.TokenSigner`. Background work besides.
    """

    def __init__(self, *, store: SigningKeyStore, box: KeyBox, publisher: KeySetPublisher, clock: Clock) -> None:
        self._store = store
        self._box = box
        self._publisher = publisher
        self._clock = clock
        self._line = SigningKeyLine(())
        self._public: dict[str, bytes] = {}
        self._signers: dict[str, TokenSigner] = {}
        self._published: dict[str, bytes] | None = None
        self._reading = asyncio.Lock()
        self._changed = False

    def sign(self, principal: Principal, *, life: timedelta, token_id: str, grant: str | None = None) -> str:
        """See `TokenSigner.sign`."""
        key = self._line.signer(self._clock.now())
        if key is None:
            raise Internal("there is no key to sign access tokens with")
        return self._signers[key.kid].sign(principal, life=life, token_id=token_id, grant=grant)

    def verifying(self) -> Mapping[str, bytes]:
        """Gives the public keys that verify tokens now, by their ids."""
        return {key.kid: self._public[key.kid] for key in self._line.verifying(self._clock.now())}

    def changed(self) -> None:
        """Has the keys read again soon."""
        self._changed = True

    async def open(self) -> None:
        """Reads the keys; stores the first one in a new installation. Raises: SealBroken, Unavailable."""
        if not await self._store.all():
            kid, public, sealed = await self._box.first()
            now = self._clock.now()
            await self._store.add_first(StoredSigningKey(kid=kid, public=public, sealed=sealed, sign_time=now))
        await self.read()

    async def read(self) -> None:
        """Takes in keys that were made or forgotten, and publishes them."""
        async with self._reading:
            self._changed = False
            stored = await self._store.all()
            for key in stored:
                if key.kid not in self._signers:
                    self._signers[key.kid] = await self._box.signer(key.kid, key.sealed)
            self._public = {key.kid: key.public for key in stored}
            self._line = SigningKeyLine.of([SigningKeyLife(kid=key.kid, sign_time=key.sign_time) for key in stored])
            for kid in self._signers.keys() - self._public.keys():
                del self._signers[kid]
        self._publish()

    async def __call__(self) -> None:
        """Follows changes, and takes retired keys out of what is published, until cancelled."""
        looks = 0
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            looks += 1
            if not self._changed and looks % _READ_EVERY:
                self._publish()
                continue
            try:
                await self.read()
            except MeshError as error:
                self._changed = True
                log.warning("signing keys cannot be read right now; those that are known stay", error=error.message)

    def _publish(self) -> None:
        signer = self._line.signer(self._clock.now())
        if signer is not None:
            SIGNING_KEY_SINCE.set(signer.sign_time.timestamp())
        keys = dict(self.verifying())
        if keys != self._published:
            self._publisher.publish(keys)
            self._published = keys
