"""Exchanges an API key for an access token."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, TypeVar
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.usecases.ports import IdentityDirectory, TokenSigner
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.key_secret import NO_SECRET, ApiKeyInvalid, KeySecrets, PresentedKey
from services.meshkit.core.tenant import TenantState
from services.meshkit.guard.errors import TenantSuspended
from services.meshkit.telemetry import metrics

#: Life of a token for a key.
TOKEN_LIFE: Final = timedelta(minutes=15)
_NO_SECRETS: Final = KeySecrets(NO_SECRET)
_Kept = TypeVar("_Kept")


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
    `forget` is told that something about the tenant changed. A no may be remembered as well: secrets are random and
    made here, so nobody can have sent the text of a key before there was the key, and what ended never works again.

    Args:
        remember: most answers kept of each kind; the oldest is forgotten first.
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
        #: Until when texts count as wrong, of the monotonic clock.
        self._wrong: dict[bytes, float] = {}
        metrics.show_size("gateway.api_keys", self._known)
        metrics.show_size("gateway.wrong_api_keys", self._wrong)

    async def __call__(self, text: str) -> AccessToken:
        """Gives a token with the tenant, roles, scopes and project of the key.

        Raises: ApiKeyInvalid: unknown, wrong, expired or revoked. TenantSuspended.
        """
        presented, digest = PresentedKey.parse(text), _digest(text)
        known = self._fresh(digest)
        if known is not None:
            self._used(known.key.tenant, known.key.id)
            return known.token
        self._known.pop(digest, None)
        if self._is_wrong(digest):
            raise ApiKeyInvalid
        try:
            key = await self._verified(presented)
        except ApiKeyInvalid:
            _put(self._wrong, digest, self._clock.monotonic() + self._seconds, most=self._remember)
            raise
        token = self._token(key)
        self._used(key.tenant, key.id)
        answer = _Known(key=key, token=token, until=self._clock.monotonic() + self._seconds)
        _put(self._known, digest, answer, most=self._remember)
        return token

    def is_known(self, text: str) -> bool:
        """True for a key that was verified a moment ago, whose token costs no round trip."""
        return self._fresh(_digest(text)) is not None

    def is_wrong(self, text: str) -> bool:
        """True for what cannot be a key, and for what was found to be none a moment ago."""
        try:
            PresentedKey.parse(text)
        except ApiKeyInvalid:
            return True
        return self._is_wrong(_digest(text))

    def forget(self, tenant: TenantId | None) -> None:
        """Remembers nothing about the keys of a tenant any more, None for all; called when something of it changed."""
        for digest in [digest for digest, known in self._known.items() if tenant in (None, known.key.tenant)]:
            del self._known[digest]
        self._wrong.clear()

    def _fresh(self, digest: bytes) -> _Known | None:
        known = self._known.get(digest)
        if known is None or self._clock.monotonic() >= known.until or not known.key.works(self._clock.now()):
            return None
        return known

    def _is_wrong(self, digest: bytes) -> bool:
        return self._clock.monotonic() < self._wrong.get(digest, 0.0)

    async def _verified(self, presented: PresentedKey) -> ApiKey:
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


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _put(kept: dict[bytes, _Kept], digest: bytes, value: _Kept, *, most: int) -> None:
    if digest not in kept and len(kept) >= most:
        del kept[next(iter(kept))]
    kept[digest] = value
