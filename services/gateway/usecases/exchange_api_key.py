"""Exchanges an API key for an access token."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.usecases.ports import IdentityDirectory, TokenSigner
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.key_secret import NO_SECRET, ApiKeyInvalid, KeySecrets, PresentedKey
from services.meshkit.core.tenant import TenantState
from services.meshkit.guard.errors import TenantSuspended

#: Life of a token for a key.
TOKEN_LIFE: Final = timedelta(minutes=15)
_NO_SECRETS: Final = KeySecrets(NO_SECRET)


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

    The edge asks for every request that carries a key, so an answer is remembered for `seconds` (at most 5), or until
    `forget` is told that something about the tenant changed.

    Args:
        remember: most answers kept; the oldest is forgotten first.
        used: told of every use of a key.
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
        used: Callable[[TenantId, UUID], None] = lambda _tenant, _key: None,
    ) -> None:
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._ids = ids
        self._seconds = min(seconds, 5.0)
        self._remember = remember
        self._used = used
        #: By hash of the key's text, so that no secret stays in memory.
        self._known: dict[bytes, _Known] = {}

    async def __call__(self, text: str) -> AccessToken:
        """Gives a token with the tenant, roles, scopes and project of the key.

        Raises: ApiKeyInvalid: unknown, wrong, expired or revoked. TenantSuspended.
        """
        digest = sha256(text.encode()).digest()
        known = self._known.get(digest)
        if known is not None and self._clock.monotonic() < known.until and known.key.works(self._clock.now()):
            self._used(known.key.tenant, known.key.id)
            return known.token
        self._known.pop(digest, None)
        key = await self._verified(text)
        token = self._token(key)
        self._used(key.tenant, key.id)
        if len(self._known) >= self._remember:
            del self._known[next(iter(self._known))]
        self._known[digest] = _Known(key=key, token=token, until=self._clock.monotonic() + self._seconds)
        return token

    def forget(self, tenant: TenantId | None) -> None:
        """Remembers nothing about the keys of a tenant any more, None for all; called when something of it changed."""
        for digest in [digest for digest, known in self._known.items() if tenant in (None, known.key.tenant)]:
            del self._known[digest]

    async def _verified(self, text: str) -> ApiKey:
        presented = PresentedKey.parse(text)
        found = await self._directory.key(presented.id)
        key, state = (None, TenantState.ACTIVE) if found is None else found
        now = self._clock.now()
        stored = _NO_SECRETS if key is None else key.secrets
        if not stored.fit(presented.secret, now=now) or key is None or not key.works(now):
            raise ApiKeyInvalid
        if state is not TenantState.ACTIVE:
            raise TenantSuspended
        return key

    def _token(self, key: ApiKey) -> AccessToken:
        now = self._clock.now()
        ends = now + TOKEN_LIFE if key.expire_time is None else min(now + TOKEN_LIFE, key.expire_time)
        signed = self._signer.sign(key.principal(), life=ends - now, token_id=self._ids.uuid().hex)
        return AccessToken(token=signed, expire_time=ends)
