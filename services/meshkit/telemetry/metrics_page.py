"""The page `/metrics`, served from the loop of the service, and beside it what probes ask that have no certificate.

`/live` is 200 as long as the loop answers; `/ready` is 200 while health says SERVING, 503 otherwise.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import REGISTRY as PROCESS_REGISTRY

from services.meshkit.telemetry.logs import logger

#: Longest time a client may take to send its request, and largest request head, bytes.
_READ_SECONDS: Final = 5.0
_HEAD_BYTES: Final = 8192
_TEXT: Final = "text/plain; charset=utf-8"
_UNAVAILABLE: Final = b"503 Service Unavailable"

log = logger(__name__)


@asynccontextmanager
async def metrics_page(
    listen: str | None, registry: CollectorRegistry = PROCESS_REGISTRY, *, ready: Callable[[], bool] = lambda: True
) -> AsyncGenerator[int | None]:
    """Serves the metrics at `listen` (host:port) while the block runs; gives the port, None without an address.

    Args:
        ready: what `/ready` answers by.
    Raises: OSError: the address is taken.
    """
    if listen is None:
        yield None
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_page(head, registry, ready))
            await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("metrics client went away", error=repr(error))
        finally:
            writer.close()

    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(answer, host.strip("[]"), int(port), limit=_HEAD_BYTES)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _page(head: bytes, registry: CollectorRegistry, ready: Callable[[], bool]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
    if method == b"GET" and path == b"/metrics":
        return _answer(b"200 OK", CONTENT_TYPE_LATEST, generate_latest(registry))
    if method == b"GET" and path == b"/live":
        return _answer(b"200 OK", _TEXT, b"live\n")
    if method == b"GET" and path == b"/ready":
        return _answer(b"200 OK", _TEXT, b"ready\n") if ready() else _answer(_UNAVAILABLE, _TEXT, b"not ready\n")
    return _answer(b"404 Not Found", _TEXT, b"")


def _answer(status: bytes, kind: str, body: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, kind.encode(), len(body)) + body
