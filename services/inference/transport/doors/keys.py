"""Who knocks at a door: API keys and access tokens, verified here without a round trip.

The gateway pushes the hashes of all keys that work, so a wrong or revoked one is known within a second. What law and
money need is an access token; that of a key is fetched once and kept while the key works.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final, Protocol, TypeVar
from uuid import UUID

from services.inference.usecases.ports import KeyExchange
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.key_secret import ApiKeyInvalid, PresentedKey
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.identity import TokenMissing, VerifiedToken
from services.meshkit.grpc.signed_token import TokenMalformed
from services.meshkit.telemetry import metrics

#: A token of 15 minutes is exchanged for a new one after so long, seconds.
RENEW_SECONDS: Final = 10 * 60.0
#: An answer of the gateway about a key that is not known here holds so long, seconds.
UNKNOWN_SECONDS: Final = 5.0
_MOST_KEPT: Final = 4096
#: How every JSON web token begins.
_TOKEN: Final = "ey"
_Value = TypeVar("_Value")

#: Counts a key that has to be looked up against the address that sent it. Raises: RateLimited.
HoldBack = Callable[[str], Awaitable[None]]


class KnownKey(Protocol):
    """A key that works, as the gateway told."""

    def fits(self, secret: str, *, now: datetime) -> bool:
        """True when the key works and this is its secret."""
        ...


class KnowsKeys(Protocol):
    """Knows the keys that work; the guard feed."""

    def key(self, api_key_id: UUID) -> KnownKey | None:
        """Gives a key that works; None for one that is not known here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    token: Secret = field(repr=False)
    tenant: TenantId
    #: Of the monotonic clock.
    since: float


def credential_of(headers: Mapping[str, str]) -> str:
    """Gives the key or token that a request shows: as OpenAI's clients send it, or as Anthropic's do.

    Raises: TokenMissing; TokenMalformed: it shows two that differ, and nobody can say which one counts.
    """
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    key = headers.get("x-api-key", "").strip()
    shown = bearer.strip() if scheme.lower() == "bearer" else ""
    if key and shown and key != shown:
        raise TokenMalformed("the request shows two different keys; send one, as `authorization` or as `x-api-key`")
    if not (key or shown):
        raise TokenMissing("send your API key as `authorization: Bearer ck_…` or as `x-api-key: ck_…`")
    return key or shown


class DoorKeys:
    """Gives the verified identity behind what a request shows.

    Args:
        verify: what an access token proves, if it still does.
        hold_back: counts keys of an address that have to be looked up. Raises: RateLimited.
    """

    def __init__(
        self,
        *,
        known: KnowsKeys,
        exchange: KeyExchange,
        verify: Callable[[str], VerifiedToken],
        hold_back: HoldBack,
        clock: Clock,
    ) -> None:
        self._known = known
        self._exchange = exchange
        self._verify = verify
        self._hold_back = hold_back
        self._clock = clock
        #: By hash of the key's text, so that no secret stays in memory.
        self._kept: dict[bytes, _Kept] = {}
        #: Until when texts count as wrong, of the monotonic clock.
        self._wrong: dict[bytes, float] = {}
        self._asking: dict[bytes, asyncio.Event] = {}
        metrics.show_size("inference.door_tokens", self._kept)
        metrics.show_size("inference.door_wrong_keys", self._wrong)

    async def __call__(self, shown: str, *, address: str) -> VerifiedToken:
        """Verifies a key or an access token.

        Raises: ApiKeyInvalid, TokenRevoked, TenantSuspended, TokenExpired, RateLimited; what the exchange raises.
        """
        if shown.startswith(_TOKEN):
            return self._verify(shown)
        presented, digest = PresentedKey.parse(shown), sha256(shown.encode()).digest()
        known = self._known.key(presented.id)
        if known is not None and not known.fits(presented.secret, now=self._clock.now()):
            raise ApiKeyInvalid
        kept = self._kept.get(digest)
        life = UNKNOWN_SECONDS if known is None else RENEW_SECONDS
        if kept is None or self._clock.monotonic() - kept.since >= life:
            former = None if known is None else kept
            kept = await self._exchanged(digest, shown, former, counted_for=address if known is None else None)
        return self._verify(kept.token.reveal())

    def forget(self, tenant: TenantId | None) -> None:
        """Keeps no token of a tenant any more, None for all; called when something of it changed."""
        for digest in [digest for digest, kept in self._kept.items() if tenant in (None, kept.tenant)]:
            del self._kept[digest]
        self._wrong.clear()

    async def _exchanged(self, digest: bytes, text: str, former: _Kept | None, *, counted_for: str | None) -> _Kept:
        """Fetches a token, once for all who ask at the same time.

        Args:
            former: what serves on while the gateway is away.
            counted_for: address that sent a key which is not known here.
        """
        while (asking := self._asking.get(digest)) is not None:
            await asking.wait()
            if (kept := self._kept.get(digest)) is not None and kept is not former:
                return kept
        if self._clock.monotonic() < self._wrong.get(digest, 0.0):
            raise ApiKeyInvalid
        asking = self._asking[digest] = asyncio.Event()
        try:
            if counted_for is not None:
                await self._hold_back(counted_for)
            return await self._ask(digest, text)
        except MeshError as error:
            if error.kind is ErrorKind.UNAUTHENTICATED:
                self._kept.pop(digest, None)
                _put(self._wrong, digest, self._clock.monotonic() + UNKNOWN_SECONDS)
            elif former is not None and error.kind in (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE):
                return former
            raise
        finally:
            del self._asking[digest]
            asking.set()

    async def _ask(self, digest: bytes, text: str) -> _Kept:
        token = await self._exchange.token(text)
        verified = self._verify(token.reveal())
        kept = _Kept(token=token, tenant=verified.principal.tenant, since=self._clock.monotonic())
        _put(self._kept, digest, kept)
        return kept


def _put(kept: dict[bytes, _Value], digest: bytes, value: _Value) -> None:
    if digest not in kept and len(kept) >= _MOST_KEPT:
        del kept[next(iter(kept))]
    kept[digest] = value
