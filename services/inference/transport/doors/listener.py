"""Serves the doors over HTTP/1.1, for the edge.

aiohttp's bare server: measured against what else serves HTTP in Python in docs/decisions/0018-doors.md.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from services.inference.transport.doors.bodies import MAX_REQUEST_BYTES
from services.meshkit.grpc.server import AddressTaken
from services.meshkit.grpc.tls import MeshTls
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Longer than the edge keeps a connection, so that it never sends a request over one that is being closed, seconds.
_KEEP_ALIVE_SECONDS: Final = 75.0
#: As much as the edge lets through.
_MAX_HEADER_BYTES: Final = 32 * 1024

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(handle: Handle, *, listen: str, tls: MeshTls | None, drain_seconds: float) -> AsyncGenerator[int]:
    """Serves while the block runs, and gives the port. Then no request is taken, and running ones have the drain.

    Raises: AddressTaken.
    """
    server = web.Server(
        handle,
        request_factory=_request,
        # Whoever hangs up does not want the answer.
        handler_cancellation=True,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        access_log=None,
        auto_decompress=False,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
    )
    runner = web.ServerRunner(server, shutdown_timeout=drain_seconds)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    context = None if tls is None else tls.server_context()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context).start()
        except OSError as error:
            raise AddressTaken(
                f"the doors cannot listen on {listen}; stop what uses it or choose another address", listen=listen
            ) from error
        bound: int = runner.addresses[0][1]
        log.info("doors opened", listen=listen, port=bound)
        yield bound
    finally:
        await runner.cleanup()


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: "asyncio.Task[None]") -> web.BaseRequest:
    """Makes a request of what aiohttp has parsed."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_REQUEST_BYTES)
