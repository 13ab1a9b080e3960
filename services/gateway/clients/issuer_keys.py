"""The keys of OpenID Connect issuers: discovered, cached, and kept through an outage.

Keys are fetched anew after `fresh_seconds`, so a key that its issuer withdrew is refused by then. While an issuer does
not answer, its last good keys stay in use for `outage_seconds`. Whatever asks for them — stale keys, a key id that is
not known, an issuer that fails, somebody who wants to add it — an issuer is asked at most once in `_PAUSE_SECONDS`,
by one caller at a time; the others wait for that answer. A tenant has few such questions under way at any time, so that
issuers that hang take no connection from those of other tenants.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from services.gateway.clients.compact_jws import IssuerKey, ReadToken, fitting, read_key_set
from services.gateway.clients.outward_json import OutOfReach
from services.gateway.domain.oidc_issuer import OidcIssuer, is_loopback_http
from services.gateway.domain.user_errors import IssuerUnavailable, IssuerUnusable
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.metrics import ISSUER_KEY_FETCHES

#: An issuer is asked at most this often, seconds.
_PAUSE_SECONDS: Final = 10.0
#: Issuers that are asked at any time because of one tenant.
_TURNS: Final = 2
_MAX_DISCOVERY_BYTES: Final = 64 * 1024
_MAX_KEY_SET_BYTES: Final = 256 * 1024

log = logger(__name__)


class JsonSource(Protocol):
    """Fetches JSON objects from outside."""

    async def get(self, url: str, *, most_bytes: int, reach_local: bool) -> dict[str, Any]:
        """Raises: OutOfReach."""
        ...


@dataclass(slots=True)
class _Known:
    """What is known of one issuer. Times are of the monotonic clock."""

    keys: tuple[IssuerKey, ...] = ()
    fetched: float = float("-inf")
    asked: float = float("-inf")
    #: Why the last question to it gave no keys; empty when it did.
    failure: str = ""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class IssuerKeys:
    """Finds the keys that may have signed a token.

    Args:
        may_be_local: whose issuers may lie on this machine or in a private network.
        remember: most issuers whose keys are kept; the one unused for longest is forgotten first.
    """

    def __init__(
        self,
        source: JsonSource,
        *,
        clock: Clock,
        may_be_local: Literal["nobody", "operators", "everybody"],
        fresh_seconds: float,
        outage_seconds: float,
        remember: int = 1000,
    ) -> None:
        self._source = source
        self._clock = clock
        self._local = may_be_local
        self._fresh_seconds = fresh_seconds
        self._outage_seconds = max(outage_seconds, fresh_seconds)
        self._remember = remember
        #: By issuer, and by whether it may lie in a private network.
        self._known: OrderedDict[tuple[str, bool], _Known] = OrderedDict()
        self._turns: WeakValueDictionary[TenantId, asyncio.Semaphore] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    async def for_token(self, trusted: Sequence[OidcIssuer], token: ReadToken) -> list[IssuerKey]:
        """Gives the issuer's keys that fit a token; none when it names a key that the issuer does not have.

        Args:
            trusted: one issuer as a tenant trusts it, with one client id or several.
        Raises: IssuerUnavailable: no keys that are recent enough.
        """
        # An operator's word about where it lies is enough, whichever client id the token is for.
        issuer = max(trusted, key=self._may_be_local)
        known = self._remembered(issuer)
        if self._age(known) >= self._fresh_seconds or not fitting(token, known.keys):
            await self._ask(issuer, known, token)
        if self._age(known) >= self._outage_seconds:
            raise IssuerUnavailable(f"the issuer {issuer.issuer}")
        return fitting(token, known.keys)

    async def try_out(self, issuer: OidcIssuer) -> None:
        """Fetches the keys of an issuer that is to be trusted. Raises: IssuerUnusable."""
        known = self._remembered(issuer)
        async with known.asking:
            if self._clock.monotonic() - known.asked < _PAUSE_SECONDS:
                ISSUER_KEY_FETCHES.labels("spared").inc()
                if known.failure:
                    sentence = f"{known.failure}; it was asked a moment ago, try again in {_PAUSE_SECONDS:.0f} s"
                    raise IssuerUnusable(issuer.issuer, sentence)
                return
            try:
                await self._fetch(issuer, known)
            except OutOfReach as error:
                raise IssuerUnusable(issuer.issuer, error.sentence) from error

    async def _ask(self, issuer: OidcIssuer, known: _Known, token: ReadToken) -> None:
        async with known.asking:
            # Another caller's answer may be the one that was wanted.
            if self._age(known) < self._fresh_seconds and fitting(token, known.keys):
                return
            if self._clock.monotonic() - known.asked < _PAUSE_SECONDS:
                ISSUER_KEY_FETCHES.labels("spared").inc()
                return
            try:
                await self._fetch(issuer, known)
            except OutOfReach as error:
                log.warning("keys of an issuer not fetched", issuer=issuer.issuer, cause=error.sentence)

    async def _fetch(self, issuer: OidcIssuer, known: _Known) -> None:
        turns = self._turns.get(issuer.tenant)
        if turns is None:
            turns = self._turns[issuer.tenant] = asyncio.Semaphore(_TURNS)
        async with turns:
            known.asked = self._clock.monotonic()
            # Stays when the caller does not wait for the end.
            known.failure = "it did not answer in time"
            try:
                known.keys = await self._fetched(issuer.issuer, local=self._may_be_local(issuer))
            except OutOfReach as error:
                known.failure = error.sentence
                ISSUER_KEY_FETCHES.labels("failed").inc()
                raise
            known.fetched, known.failure = self._clock.monotonic(), ""
            ISSUER_KEY_FETCHES.labels("fetched").inc()

    async def _fetched(self, issuer: str, *, local: bool) -> tuple[IssuerKey, ...]:
        described = await self._source.get(
            f"{issuer.rstrip('/')}/.well-known/openid-configuration",
            most_bytes=_MAX_DISCOVERY_BYTES,
            reach_local=local,
        )
        if described.get("issuer") != issuer:
            raise OutOfReach("its discovery document is that of another issuer")
        place = described.get("jwks_uri")
        if not isinstance(place, str):
            raise OutOfReach("its discovery document names no jwks_uri")
        document = await self._source.get(
            place, most_bytes=_MAX_KEY_SET_BYTES, reach_local=local and _is_beside(place, issuer)
        )
        # Reading a hundred keys takes tens of milliseconds.
        keys = await asyncio.to_thread(read_key_set, document)
        if not keys:
            raise OutOfReach("its key set has no key for signatures that are taken (RS, PS, ES, EdDSA)")
        return keys

    def _remembered(self, issuer: OidcIssuer) -> _Known:
        name = issuer.issuer, self._may_be_local(issuer)
        known = self._known.get(name)
        if known is None:
            while len(self._known) >= self._remember:
                # Whoever names many issuers that are none pushes out no keys of others.
                useless = (name for name, one in self._known.items() if not one.keys)
                del self._known[next(useless, next(iter(self._known)))]
            known = self._known[name] = _Known()
        self._known.move_to_end(name)
        return known

    def _may_be_local(self, issuer: OidcIssuer) -> bool:
        return self._local == "everybody" or (self._local == "operators" and issuer.is_of_operator)

    def _age(self, known: _Known) -> float:
        return self._clock.monotonic() - known.fetched


def _is_beside(place: str, issuer: str) -> bool:
    """Tells whether a key set lies where its issuer does: only then may it lie where the public cannot reach."""
    try:
        return urlsplit(place).hostname == urlsplit(issuer).hostname or (
            is_loopback_http(place) and is_loopback_http(issuer)
        )
    except ValueError:
        return False
