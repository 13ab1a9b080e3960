"""Exchanges an API key for an access token."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.usecases.ports import IdentityDirectory, TokenSigner
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.core.key_secret import NO_SECRET, ApiKeyInvalid, PresentedKey

#: Life of a token for a key.
TOKEN_LIFE: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A signed token and when it ends."""

    token: str = field(repr=False)
    expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    key: ApiKey
    token: AccessToken
    #: Of the monotonic clock.
    until: float


class ExchangeApiKey:
    """Verifies a key and signs a token for its holder.

    The edge asks for every request that carries a key, so an answer is remembered for `seconds` (at most 5): that long
    a key revoked at another replica still gets tokens here.

    Args:
        remember: most answers kept; the oldest is forgotten first.
    """

    def __init__(
        self,
        *,
        directory: IdentityDirectory,
        signer: TokenSigner,
        clock: Clock,
        ids: IdSource,
        seconds: float = 5.0,
        remember: int = 4096,
    ) -> None:
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._ids = ids
        self._seconds = min(seconds, 5.0)
        self._remember = remember
        #: By hash of the key's text, so that no secret stays in memory.
        self._known: dict[bytes, _Known] = {}

    async def __call__(self, text: str) -> AccessToken:
        """Gives a token with the tenant, roles and project of the key.

        Raises: ApiKeyInvalid: unknown, wrong, expired or revoked.
        """
        digest = sha256(text.encode()).digest()
        known = self._known.get(digest)
        if known is not None and self._clock.monotonic() < known.until and known.key.works(self._clock.now()):
            return known.token
        self._known.pop(digest, None)
        key = await self._verified(text)
        token = self._token(key)
        if len(self._known) >= self._remember:
            del self._known[next(iter(self._known))]
        self._known[digest] = _Known(key=key, token=token, until=self._clock.monotonic() + self._seconds)
        return token

    def forget(self, key: UUID) -> None:
        """Remembers nothing about a key any more; called when it is revoked here."""
        for digest in [digest for digest, known in self._known.items() if known.key.id == key]:
            del self._known[digest]

    async def _verified(self, text: str) -> ApiKey:
        presented = PresentedKey.parse(text)
        key = await self._directory.key(presented.id)
        stored = NO_SECRET if key is None else key.hash
        if not stored.fits(presented.secret) or key is None or not key.works(self._clock.now()):
            raise ApiKeyInvalid
        return key

    def _token(self, key: ApiKey) -> AccessToken:
        now = self._clock.now()
        ends = now + TOKEN_LIFE if key.expire_time is None else min(now + TOKEN_LIFE, key.expire_time)
        signed = self._signer.sign(key.principal(), life=ends - now, token_id=self._ids.uuid().hex)
        return AccessToken(token=signed, expire_time=ends)
