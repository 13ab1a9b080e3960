"""Asks whether a child is ready, each kind in its own way. A probe answers True or False and never raises."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

#: Tells whether the child serves now.
Probe = Callable[[], Awaitable[bool]]

_PROBE_SECONDS: Final = 2.0
_MAX_ANSWER_BYTES: Final = 64 * 1024
#: `grpc.health.v1.HealthCheckResponse{status: SERVING}` on the wire.
_SERVING: Final = b"\x08\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """How a probe gets to a service that speaks TLS. The files are read at each probe, since they are renewed."""

    #: DNS name that the service's certificate has to show.
    name: str
    #: Private key and certificate of the probe, PEM.
    shown: Path
    authorities: Path


async def always() -> bool:
    """Probe of a child that nobody waits for."""
    return True


def both(first: Probe, second: Probe) -> Probe:
    """Probes one, and when that is well, the other."""

    async def probe() -> bool:
        return await first() and await second()

    return probe


def grpc_serving(port: int, *, host: str = "127.0.0.1", certified: Certified | None = None) -> Probe:
    """Probes `grpc.health.v1.Health/Check` of the whole server; without `certified`, in plain text."""

    async def probe() -> bool:
        import grpc.aio  # the probes of Postgres and NATS need not wait for it

        target = f"{host}:{port}"
        # A pool of its own per probe: a shared one would back off after the first refusal, for a second and more.
        options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        if certified is None:
            opened = grpc.aio.insecure_channel(target, options=options)
        else:
            shown = certified.shown.read_bytes()
            credentials = grpc.ssl_channel_credentials(certified.authorities.read_bytes(), shown, shown)
            options.append(("grpc.ssl_target_name_override", certified.name))
            opened = grpc.aio.secure_channel(target, credentials, options=options)
        async with opened as channel:
            check = cast(Any, channel).unary_unary(
                "/grpc.health.v1.Health/Check"
            )  # bytes both ways; grpc types it for messages
            try:
                return await check(b"", timeout=_PROBE_SECONDS) == _SERVING
            except grpc.aio.AioRpcError:
                return False

    return both(listening(port, host=host), probe)


def listening(port: int, *, host: str = "127.0.0.1") -> Probe:
    """Probes that something accepts connections."""

    async def probe() -> bool:
        return await _say(host, port, b"") is not None

    return probe


def http_ok(port: int, path: str, *, host: str = "127.0.0.1") -> Probe:
    """Probes that a GET answers 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()

    async def probe() -> bool:
        answer = await _say(host, port, request)
        return answer is not None and answer.split(b"\r\n", 1)[0].endswith(b" 200 OK")

    return probe


def http_says(port: int, path: str, expected: Callable[[str], bool], *, host: str = "127.0.0.1") -> Probe:
    """Probes that a GET answers with a text that is as expected."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()

    async def probe() -> bool:
        answer = await _say(host, port, request)
        return answer is not None and expected(answer.decode(errors="replace"))

    return probe


async def _say(host: str, port: int, request: bytes) -> bytes | None:
    """Connects, says something if there is something to say, and gives the answer up to a bound; None: nobody."""
    loop = asyncio.get_running_loop()
    # A bare socket, since it is closed at once: a stream would linger until the loop finds time for it.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        client.setblocking(False)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await loop.sock_connect(client, (host, port))
                if not request:
                    return b""
                await loop.sock_sendall(client, request)
                answer = b""
                while len(answer) < _MAX_ANSWER_BYTES and (piece := await loop.sock_recv(client, 4096)):
                    answer += piece
                return answer
        except (OSError, TimeoutError):
            return None


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
