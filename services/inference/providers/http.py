"""The one place where sockets to providers open."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from services.inference.providers import failures
from services.inference.providers.sse import EventTooLarge, NotAnEvent, SseEvent, SseParser
from services.meshkit.calls.ports import Clearance

#: Longest body of an error or of a whole answer, bytes; a stream may be longer in all.
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
#: What an error says beside its status is not worth a longer wait.
_ERROR_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 10.0
_KEEP_ALIVE_SECONDS: Final = 60.0


class ProviderHttp:
    """Posts JSON to providers over pooled connections. Nothing is followed, retried or read from the environment."""

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
        del clearance  # Asked for so that no socket opens without one.
        parser = SseParser()
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.post(url, data=body, headers=_headers(headers), allow_redirects=False) as response,
            ):
                await _raise_for_status(deployment, response)
                received = 0
                async for chunk in response.content.iter_any():
                    received += len(chunk)
                    if received > MAX_BODY_BYTES:
                        raise failures.garbage(deployment)
                    for event in parser.feed(chunk):
                        yield event
        except aiohttp.ClientConnectorError as cause:
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
        del clearance  # Asked for so that no socket opens without one.
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.post(url, data=body, headers=_headers(headers), allow_redirects=False) as response,
            ):
                await _raise_for_status(deployment, response)
                return await _read(response, MAX_BODY_BYTES)
        except aiohttp.ClientConnectorError as cause:
            raise failures.unreachable(deployment) from cause
        except TimeoutError as cause:
            raise failures.timed_out(deployment) from cause
        except (aiohttp.ClientError, ConnectionError, ValueError) as cause:
            raise failures.cut_off(deployment) from cause


@asynccontextmanager
async def provider_http(*, connections: int) -> AsyncGenerator[ProviderHttp]:
    """Opens the pool of connections to providers and closes it after the block.

    Args:
        connections: most sockets at any time over all providers.
    """
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=_KEEP_ALIVE_SECONDS, ttl_dns_cache=60)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=True,
    ) as session:
        yield ProviderHttp(session)


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {"content-type": "application/json", "user-agent": "comitia-inference", **headers}


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
