"""Fetches JSON from addresses that tenants name, without being led astray.

No redirect is followed. Answers are bounded in bytes and time. What is not on the public internet is out of reach,
looked at when the connection is made, so that a name cannot resolve to one address for the check and another for the
connection; only where the installation says so (`reach_local`) may an issuer lie on this machine or in its network.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import aiohttp
from yarl import URL

from services.gateway.domain.oidc_issuer import is_loopback_http
from services.meshkit.outward.addresses import (
    AddressRefused,
    AddressRule,
    Lookup,
    checked_connector,
    system_lookup,
)
from services.meshkit.telemetry.logs import logger

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5, connect=3)
_MAX_CONNECTIONS: Final = 32
_MAX_PER_HOST: Final = 4
#: By whether this machine and its network may be reached.
_RULES: Final = {local: AddressRule(allow_private=local) for local in (False, True)}
#: One sentence for whatever keeps us from an answer: what listens where inside is not for tenants to find out.
_UNREACHED: Final = (
    "it cannot be reached: it does not answer by TLS, or it lies on this machine or in a private network"
)

log = logger(__name__)


class OutOfReach(Exception):
    """An address gave no JSON object; the sentence says why and may be shown to an administrator."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class OutwardJson:
    """Asks for JSON objects."""

    def __init__(self, public: aiohttp.ClientSession, anywhere: aiohttp.ClientSession) -> None:
        self._public = public
        self._anywhere = anywhere

    async def get(self, url: str, *, most_bytes: int, reach_local: bool) -> dict[str, Any]:
        """Fetches one object.

        Args:
            url: `https://…`, or `http://` on this machine with `reach_local`.
            reach_local: whether it may lie on this machine or in a private network.
        Raises: OutOfReach.
        """
        place = checked_url(url, reach_local=reach_local)
        session = self._anywhere if reach_local else self._public
        try:
            async with session.get(place, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise OutOfReach(f"it answered with HTTP status {answer.status}")
                body = await _read(answer.content, most_bytes)
        except (aiohttp.ClientError, AddressRefused, TimeoutError, OSError, ValueError) as error:
            log.info("an address that a tenant named was not reached", host=place.raw_host, error=repr(error))
            raise OutOfReach(_UNREACHED) from error
        try:
            value: object = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise OutOfReach("its answer is no JSON") from error
        if not isinstance(value, dict):
            raise OutOfReach("its answer is no JSON object")
        return cast(dict[str, Any], value)


@asynccontextmanager
async def outward_json(*, lookup: Lookup = system_lookup) -> AsyncGenerator[OutwardJson]:
    """Opens connections of its own, without cookies and without the proxies of the environment for this machine."""
    options: dict[str, Any] = {
        "timeout": _TIMEOUT,
        "cookie_jar": aiohttp.DummyCookieJar(),
        "headers": {"accept": "application/json", "user-agent": "comitia-gateway"},
    }
    limits: dict[str, Any] = {"limit": _MAX_CONNECTIONS, "limit_per_host": _MAX_PER_HOST}
    public, anywhere = (checked_connector(_RULES[local], lookup, **limits) for local in (False, True))
    async with (
        aiohttp.ClientSession(connector=public, **options) as to_public,
        aiohttp.ClientSession(connector=anywhere, **options) as to_anywhere,
    ):
        yield OutwardJson(to_public, to_anywhere)


def checked_url(url: str, *, reach_local: bool) -> URL:
    """Gives the address as it is asked. Raises: OutOfReach: it is none, or one that is never asked."""
    try:
        place = URL(url)
        host, port = place.raw_host, place.port
    except ValueError as error:
        raise OutOfReach("it is no address") from error
    if place.user is not None or place.password is not None or not host or port == 0:
        raise OutOfReach("it is no address without a user")
    if place.scheme != "https" and not (reach_local and is_loopback_http(url)):
        raise OutOfReach("it must be https; http is for this machine only")
    try:
        _RULES[reach_local].check_url(place)
    except AddressRefused as error:
        raise OutOfReach(_UNREACHED) from error
    return place


async def _read(content: aiohttp.StreamReader, most_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in content.iter_chunked(16 * 1024):
        body += chunk
        if len(body) > most_bytes:
            raise OutOfReach(f"its answer is longer than {most_bytes} bytes")
    return bytes(body)
