"""The page `/metrics`, served from the loop of the service."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import REGISTRY as PROCESS_REGISTRY

from services.meshkit.telemetry.logs import logger

#: Longest time a client may take to send its request, and largest request head, bytes.
_READ_SECONDS: Final = 5.0
_HEAD_BYTES: Final = 8192

log = logger(__name__)


@asynccontextmanager
async def metrics_page(
    listen: str | None, registry: CollectorRegistry = PROCESS_REGISTRY
) -> AsyncGenerator[int | None]:
    """Serves the metrics at `listen` (host:port) while the block runs; gives the port, None without an address.

    Raises: OSError: the address is taken.
    """
    if listen is None:
        yield None
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_page(head, registry))
            await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("metrics client went away", error=repr(error))
        finally:
            writer.close()

    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(answer, host.strip("[]"), int(port), limit=_HEAD_BYTES)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _page(head: bytes, registry: CollectorRegistry) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
    if method != b"GET" or path != b"/metrics":
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    body = generate_latest(registry)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        % (CONTENT_TYPE_LATEST.encode(), len(body))
    ) + body
