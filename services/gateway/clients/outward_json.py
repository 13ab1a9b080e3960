"""Fetches JSON from addresses that tenants name, without being led astray.

No redirect is followed. Answers are bounded in bytes and time. What is not on the public internet is out of reach,
looked at when the connection is made, so that a name cannot resolve to one address for the check and another for the
connection; only where the installation says so (`reach_local`) may an issuer lie on this machine or in its network.
"""

import ipaddress
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from services.gateway.domain.oidc_issuer import is_loopback_http

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5, connect=3)
_MAX_CONNECTIONS: Final = 32
_MAX_PER_HOST: Final = 4
#: IPv4 behind a translator (RFC 6052).
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")


class OutOfReach(Exception):
    """An address gave no JSON object; the sentence says why and may be shown to an administrator."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class _PublicOnly(AbstractResolver):
    """Resolves names to public addresses only."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Gives public addresses. Raises: OSError: there is none."""
        found = [one for one in await self._resolver.resolve(host, port, family) if is_public(one["host"])]
        if not found:
            raise OSError("resolves to no public address")
        return found

    async def close(self) -> None:
        """Ends it."""
        await self._resolver.close()


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
        check_address(url, reach_local=reach_local)
        session = self._anywhere if reach_local else self._public
        try:
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise OutOfReach(f"it answered with HTTP status {answer.status}")
                body = await _read(answer.content, most_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise OutOfReach(f"it does not answer ({type(error).__name__})") from error
        try:
            value: object = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise OutOfReach("its answer is no JSON") from error
        if not isinstance(value, dict):
            raise OutOfReach("its answer is no JSON object")
        return cast(dict[str, Any], value)


@asynccontextmanager
async def outward_json() -> AsyncGenerator[OutwardJson]:
    """Opens connections of its own, without cookies and without the proxies of the environment for this machine."""
    options: dict[str, Any] = {
        "timeout": _TIMEOUT,
        "cookie_jar": aiohttp.DummyCookieJar(),
        "headers": {"accept": "application/json", "user-agent": "comitia-gateway"},
    }
    limits: dict[str, Any] = {"limit": _MAX_CONNECTIONS, "limit_per_host": _MAX_PER_HOST}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=_PublicOnly(), **limits), **options) as public,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(**limits), **options) as anywhere,
    ):
        yield OutwardJson(public, anywhere)


def check_address(url: str, *, reach_local: bool) -> None:
    """Refuses what is never asked. Raises: OutOfReach."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise OutOfReach("it is no address") from error
    if "@" in parts.netloc or not host or port == 0:
        raise OutOfReach("it is no address without a user")
    if parts.scheme != "https" and not (reach_local and is_loopback_http(url)):
        raise OutOfReach("it must be https; http is for this machine only")
    if not reach_local and not _may_be_public(host):
        raise OutOfReach("it lies on this machine or in a private network")


def is_public(address: str) -> bool:
    """Tells whether an IP address is one of the public internet; ways through which others are reached are not."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.sixtofour is not None or found.teredo is not None or found in _TRANSLATED:
            return False
    return found.is_global and not found.is_multicast


def _may_be_public(host: str) -> bool:
    """Tells whether a host is a public address, or a name, which the resolver looks into."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")
    return is_public(host)


async def _read(content: aiohttp.StreamReader, most_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in content.iter_chunked(16 * 1024):
        body += chunk
        if len(body) > most_bytes:
            raise OutOfReach(f"its answer is longer than {most_bytes} bytes")
    return bytes(body)
