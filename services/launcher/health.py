"""Asks whether a child is ready, each kind in its own way. A probe answers True or False and never raises."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

#: Tells whether the child serves now.
Probe = Callable[[], Awaitable[bool]]

_PROBE_SECONDS: Final = 2.0
#: `grpc.health.v1.HealthCheckResponse{status: SERVING}` on the wire.
_SERVING: Final = b"\x08\x01"


async def always() -> bool:
    """Probe of a child that nobody waits for."""
    return True


def grpc_serving(port: int, *, host: str = "127.0.0.1") -> Probe:
    """Probes `grpc.health.v1.Health/Check` of the whole server."""

    async def probe() -> bool:
        import grpc.aio  # the probes of Postgres and NATS need not wait for it

        target = f"{host}:{port}"
        # A pool of its own per probe: a shared one would back off after the first refusal, for a second and more.
        async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            check = cast(Any, channel).unary_unary(
                "/grpc.health.v1.Health/Check"
            )  # bytes both ways; grpc types it for messages
            try:
                return await check(b"", timeout=_PROBE_SECONDS) == _SERVING
            except grpc.aio.AioRpcError:
                return False

    async def probe_listening() -> bool:
        return await listening(port, host=host)() and await probe()

    return probe_listening


def listening(port: int, *, host: str = "127.0.0.1") -> Probe:
    """Probes that something accepts connections."""

    async def probe() -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return probe


def http_ok(port: int, path: str, *, host: str = "127.0.0.1") -> Probe:
    """Probes that a GET answers 200."""

    async def probe() -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
        except (OSError, TimeoutError):
            return False
        writer.close()
        return b" 200 " in line

    return probe


def file_says(path: Path, line: int, word: str) -> Probe:
    """Probes that a line of a small file (0 is the first) is `word`."""

    async def probe() -> bool:
        return _line(path, line) == word

    return probe


def _line(path: Path, number: int) -> str | None:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return lines[number].strip() if len(lines) > number else None
