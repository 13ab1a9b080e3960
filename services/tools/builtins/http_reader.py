"""The one place where sockets to the outside open: to allowed hosts at public addresses, to read a page."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from services.meshkit.calls.ports import Clearance
from services.meshkit.core.hosts import is_allowed
from services.meshkit.outward.addresses import (
    AddressRefused,
    AddressRule,
    Lookup,
    checked_connector,
    system_lookup,
)
from services.tools.builtins.http_text import TextReader, is_text
from services.tools.domain.invocation import ToolOutput
from services.tools.domain.tool import HttpGetSettings
from services.tools.usecases.ports import Show

MAX_REDIRECTS: Final = 5
_MAX_URL: Final = 8_192
_CONNECT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 16_384
#: What is told of the body of an answer that is an error, characters.
_MAX_EXCERPT: Final = 500
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {
    "user-agent": "comitia-tools",
    "accept": "text/*, application/json, application/xml;q=0.9, */*;q=0.1",
    "accept-encoding": "identity",
}


class _Refused(Exception):
    """A request that is not made. The model reads why."""


class HttpReader:
    """Gets pages. Redirects are followed by hand, each one checked like the first; no proxy, cookie or credential."""

    def __init__(self, session: aiohttp.ClientSession, rule: AddressRule) -> None:
        self._session = session
        self._rule = rule

    async def read(
        self, address: str, http: HttpGetSettings, clearance: Clearance, *, show: Show | None, encoded: bool = False
    ) -> ToolOutput:
        """Gives the text of a page, or as a failed result why there is none. The caller limits its time.

        Args:
            encoded: True when the address is percent-encoded already and must stay as it is.
        """
        sent = False
        try:
            url = self._checked(_parsed(address, encoded=encoded), http, clearance)
            for _ in range(MAX_REDIRECTS + 1):
                async with self._session.get(url, headers=_HEADERS, allow_redirects=False) as response:
                    sent = True
                    location = response.headers.get("location")
                    if response.status not in _REDIRECTS or location is None:
                        return await _output(response, http, show)
                    url = self._checked(_followed(url, location), http, clearance)
            raise _Refused(f"the page redirects more than {MAX_REDIRECTS} times")
        except (_Refused, AddressRefused) as refusal:
            return ToolOutput(text=str(refusal), failed=True, sent=sent)
        except aiohttp.ClientError as error:
            return ToolOutput(text=_sentence(error), failed=True, sent=sent or _may_have_left(error))
        except (ConnectionError, ValueError):
            return ToolOutput(text="the server's answer cannot be read", failed=True)

    def _checked(self, url: URL, http: HttpGetSettings, clearance: Clearance) -> URL:
        """Gives the URL back if it may be asked. Raises: _Refused, AddressRefused."""
        if url.scheme not in ("http", "https"):
            raise _Refused("only http:// and https:// can be fetched")
        host = url.raw_host
        if not host:
            raise _Refused("the URL names no host")
        if url.user is not None or url.password is not None:
            raise _Refused("a URL must not hold a user or password")
        if not is_allowed(host, http.allowed_hosts):
            raise _Refused(f"the host {host[:100]!r} is not among those that this tool may ask")
        if clearance.allowed_hosts and not is_allowed(host, clearance.allowed_hosts):
            raise _Refused(f"the security policy of the tenant does not allow the host {host[:100]!r}")
        self._rule.check_url(url)
        return url


@asynccontextmanager
async def http_reader(
    *, connections: int, allow_private: bool, lookup: Lookup = system_lookup
) -> AsyncGenerator[HttpReader]:
    """Opens what reads pages and closes it after the block.

    Args:
        connections: most sockets at any time.
        allow_private: see `AddressRule`.
    """
    rule = AddressRule(allow_private=allow_private)
    # Every request looks up and checks anew, and no two tenants share a connection.
    connector = checked_connector(rule, lookup, limit=connections, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        yield HttpReader(session, rule)


def _parsed(address: str, *, encoded: bool) -> URL:
    if len(address) > _MAX_URL or any(sign <= " " or sign in "\\\x7f" for sign in address):
        raise _Refused("the URL is too long or holds white space, a backslash or control characters")
    try:
        url = URL(address, encoded=encoded)
        _ = url.port, url.raw_host
    except ValueError as cause:
        raise _Refused("the URL cannot be read") from cause
    return url.with_fragment(None)


def _followed(url: URL, location: str) -> URL:
    target = _parsed(location, encoded=False)
    return target if target.absolute else url.join(target)


async def _output(response: aiohttp.ClientResponse, http: HttpGetSettings, show: Show | None) -> ToolOutput:
    host = response.url.raw_host
    good = 200 <= response.status < 300
    media_type = response.content_type if "content-type" in response.headers else ""
    if not is_text(media_type):
        if not good:
            return ToolOutput(text=f"{host} answered {response.status}", failed=True)
        return ToolOutput(text=f"{host} answered with {media_type[:100]}, which is no text", failed=True)
    reader = TextReader(charset=response.charset, most_bytes=http.max_response_bytes)
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        piece = reader.feed(chunk)
        if good and piece and show is not None:
            await show(piece)
        if reader.is_cut:
            break
    if good:
        return ToolOutput(text=reader.text())
    said = reader.text().strip()[:_MAX_EXCERPT]
    return ToolOutput(text=f"{host} answered {response.status}" + (f": {said}" if said else ""), failed=True)


def _sentence(error: aiohttp.ClientError) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the host has no address"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "the host cannot prove who it is: its certificate is not valid"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "the host cannot be reached"
        case _:
            return "the server broke off or its answer cannot be read"


def _may_have_left(error: aiohttp.ClientError) -> bool:
    return not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
