"""The one place where sockets to providers open."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import aiohttp

from services.inference.providers import failures
from services.inference.providers.sse import EventTooLarge, NotAnEvent, SseEvent, SseParser
from services.meshkit.calls.ports import Clearance
from services.meshkit.outward.addresses import AddressRefused, AddressRule, checked_connector, system_lookup

#: Names the hold that pays for a call to whoever is asked, so that their bill can be put beside the ledger. OpenAI
#: documents the header (ASCII, at most 512 characters), Claude Code sends it to Anthropic, and other servers pass over
#: what they do not know (RFC 9110, section 5.1).
HOLD_HEADER: Final = "x-client-request-id"
#: Longest body of an error or of a whole answer, bytes; a stream may be longer in all.
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
#: What an error says beside its status is not worth a longer wait.
_ERROR_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 10.0
_KEEP_ALIVE_SECONDS: Final = 60.0


class ProviderHttp:
    """Posts JSON to providers over pooled connections. Nothing is followed, retried or read from the environment.

    Each request says which hold pays for it.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def events(
        self,
        deployment: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        clearance: Clearance,
        *,
        seconds: float,
    ) -> AsyncGenerator[SseEvent]:
        """Posts and gives the events of the answering stream. Closing the generator closes the socket.

        Raises: ProviderFailure; at once when what comes is no event, and a stream that ends inside an event is cut off.
        """
        parser = SseParser()
        try:
            async with (
                asyncio.timeout(seconds),
                self._post(url, headers, body, clearance) as response,
            ):
                await _raise_for_status(deployment, response)
                received = 0
                async for chunk in response.content.iter_any():
                    received += len(chunk)
                    if received > MAX_BODY_BYTES:
                        raise failures.garbage(deployment)
                    for event in parser.feed(chunk):
                        yield event
        except (aiohttp.ClientConnectorError, AddressRefused) as cause:
            raise failures.unreachable(deployment) from cause
        except TimeoutError as cause:
            raise failures.timed_out(deployment) from cause
        except (aiohttp.ClientError, ConnectionError) as cause:
            raise failures.cut_off(deployment) from cause
        except (EventTooLarge, NotAnEvent) as cause:
            raise failures.garbage(deployment) from cause
        if not parser.clean:
            raise failures.cut_off(deployment)

    async def body(
        self,
        deployment: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        clearance: Clearance,
        *,
        seconds: float,
    ) -> bytes:
        """Posts and gives the whole answer.

        Raises: ProviderFailure.
        """
        try:
            async with (
                asyncio.timeout(seconds),
                self._post(url, headers, body, clearance) as response,
            ):
                await _raise_for_status(deployment, response)
                return await _read(response, MAX_BODY_BYTES)
        except (aiohttp.ClientConnectorError, AddressRefused) as cause:
            raise failures.unreachable(deployment) from cause
        except TimeoutError as cause:
            raise failures.timed_out(deployment) from cause
        except (aiohttp.ClientError, ConnectionError, ValueError) as cause:
            raise failures.cut_off(deployment) from cause

    def _post(
        self, url: str, headers: Mapping[str, str], body: bytes, clearance: Clearance
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        ours = {"content-type": "application/json", "user-agent": "comitia-inference", HOLD_HEADER: clearance.hold.id}
        return self._session.post(url, data=body, headers={**headers, **ours}, allow_redirects=False)


@asynccontextmanager
async def provider_http(*, connections: int, rule: AddressRule | None = None) -> AsyncGenerator[ProviderHttp]:
    """Opens the pool of connections to providers and closes it after the block.

    Args:
        connections: most sockets at any time over all providers.
        rule: which addresses may be connected to; None: any, for addresses that the installation itself names.
    """
    if rule is None:
        connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=_KEEP_ALIVE_SECONDS, ttl_dns_cache=60)
    else:
        connector = checked_connector(rule, system_lookup, limit=connections, keepalive_timeout=_KEEP_ALIVE_SECONDS)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=True,
    ) as session:
        yield ProviderHttp(session)


async def _raise_for_status(deployment: str, response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    try:
        async with asyncio.timeout(_ERROR_SECONDS):
            body = await _read(response, _MAX_ERROR_BYTES)
    except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError):
        body = b""
    raise failures.status_failure(deployment, response.status, response.headers, body)


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    read = bytearray()
    async for chunk in response.content.iter_any():
        read += chunk
        if len(read) > most:
            raise ValueError(f"the body is longer than {most} bytes")
    return bytes(read)
