"""An Envoy on Kubernetes: what stands beside it in its pod, whichever of the two it is.

`edge_pod` and `east_west_pod` render its configuration once, before it starts, and keep it until SIGTERM: they answer
the kubelet's probes, show Envoy's figures without the rest of its admin page, and drain it when SIGTERM comes. The
admin page itself stays on the loopback of the pod, and what is asked from outside of it can begin nothing.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from services.launcher.edge import Address, MeshTlsFiles, render_mesh_secrets
from services.launcher.layout import write_private
from services.launcher.ports import PREFERRED
from services.launcher.services import SERVICES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError

#: Where the pod mounts things; the same in all of its containers.
MOUNTS: Final = Path("/etc/comitia")
STATE: Final = Path("/var/lib/comitia")
#: What the kubelet asks, and what Prometheus reads; apart, since only the second has readers in the cluster.
KEEPER_PORT: Final = 7498
METRICS_PORT: Final = 7410
#: The pod's own address.
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # who may reach it, a NetworkPolicy says
_LOOK_SECONDS: Final = 0.5
#: How long others may go on sending calls after a pod was taken from the list: an idle Envoy is not yet an unused one.
_NOTICE_SECONDS: Final = 5.0
_ADMIN_SECONDS: Final = 2.0
#: Failures in a row after which Envoy counts as gone.
_FAILURES: Final = 5


class EnvoyWishes(BaseModel):
    """What the chart says of an Envoy, whichever of the two it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: `host:port` of the seven services.
    services: dict[str, str]
    #: Longest time that calls have to end.
    drain_seconds: float
    max_connections: int

    @classmethod
    def mounted(cls, mounts: Path, part: str) -> Self:
        """Reads them from `<part>/<part>.json`."""
        return cls.model_validate_json((mounts / part / f"{part}.json").read_bytes())

    def members(self) -> dict[str, list[Address]]:
        """Gives where each of the seven is called: by a name that resolves to all of its replicas."""
        return {service: [Address.parse(self.services[service])] for service in SERVICES}


def own_addresses(port: str) -> tuple[Address, Address]:
    """Gives where an Envoy listens in a pod: for all who may reach it, and its admin page for the pod alone."""
    return Address(EVERYWHERE, PREFERRED[port]), Address("127.0.0.1", PREFERRED[f"{port}_admin"])


def mounted_mesh_tls(mounts: Path, state: Path) -> MeshTlsFiles:
    """Says where the certificate lies that an Envoy shows to services."""
    shown = mounts / "mesh-tls"
    return MeshTlsFiles(
        secrets=state / "secrets",
        certificate_chain=shown / "tls.crt",
        private_key=shown / "tls.key",
        authorities=shown / "ca.crt",
    )


def write_mesh_secrets(files: MeshTlsFiles) -> None:
    """Writes what leads Envoy to that certificate."""
    for name, text in render_mesh_secrets(files).items():
        write_private(files.secrets / name, text.encode())


class Envoy:
    """The Envoy of this pod, asked at its admin page."""

    def __init__(self, session: aiohttp.ClientSession, *, listener: str, drain_seconds: float, clock: Clock) -> None:
        self._session = session
        self._active_calls = f"http.{listener}.downstream_rq_active"
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._drain_began = False
        self._drain_ended = asyncio.Event()

    async def ready(self) -> bool:
        """Tells whether it takes calls now."""
        if self._drain_began:
            return False
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.get("/ready") as answer:
                return answer.status == 200
        return False

    async def figures(self) -> bytes:
        """Gives its figures as Prometheus reads them. Raises: aiohttp.ClientError, TimeoutError: it does not answer."""
        async with self._session.get("/stats/prometheus") as answer:
            return await answer.read()

    async def drained(self) -> None:
        """Waits until a drain has ended, and begins none."""
        await self._drain_ended.wait()

    async def drain(self) -> None:
        """Has it take no new call, once callers had time to go elsewhere, and waits until the others have ended."""
        self._drain_began = True
        end = self._clock.monotonic() + self._drain_seconds
        # Without an answer there is no Envoy that could be drained.
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            for told in ("/healthcheck/fail", "/drain_listeners?graceful&skip_exit"):
                await self._asked("POST", told, end=end)
            await self._clock.sleep(min(_NOTICE_SECONDS, self._drain_seconds))
            while self._clock.monotonic() < end and await self._active(end) > 0:
                await self._clock.sleep(_LOOK_SECONDS)
        self._drain_ended.set()

    async def _active(self, end: float) -> int:
        said = await self._asked("GET", f"/stats?filter=^{self._active_calls}$", end=end)
        return int(said.partition(":")[2] or 0)

    async def _asked(self, method: str, path: str, *, end: float) -> str:
        """Asks until there is an answer: one that is late or wrong may be the next time neither.

        Raises: aiohttp.ClientError, TimeoutError: nobody listens there, or it failed too often in a row.
        """
        failures = 0
        while True:
            try:
                async with self._session.request(method, path, raise_for_status=True) as answer:
                    return await answer.text()
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ClientError, TimeoutError):
                failures += 1
                if failures == _FAILURES or self._clock.monotonic() >= end:
                    raise
            await self._clock.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def kept(
    envoy: Envoy, *, heard: Callable[[], bool], keeper: tuple[str, int], metrics: tuple[str, int]
) -> AsyncGenerator[None]:
    """Answers the kubelet and Prometheus while the block runs.

    Args:
        heard: whether Envoy knows all that it has to; before, callers are not sent here.
    """

    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=200 if heard() and await envoy.ready() else 503)

    async def live(_: web.Request) -> web.Response:
        return web.Response()

    async def drained(_: web.Request) -> web.Response:
        await envoy.drained()
        return web.Response()

    async def figures(_: web.Request) -> web.Response:
        try:
            return web.Response(body=await envoy.figures(), content_type="text/plain")
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=503)

    pages = ({"/ready": ready, "/live": live, "/drained": drained}, keeper), ({"/metrics": figures}, metrics)
    async with contextlib.AsyncExitStack() as stack:
        for paths, (host, port) in pages:
            await stack.enter_async_context(_served(paths, host, port))
        yield


async def keep_envoy(
    admin: Address,
    *,
    listener: str,
    drain_seconds: float,
    clock: Clock,
    heard: Callable[[], bool] = lambda: True,
    beside: Sequence[Coroutine[Any, Any, None]] = (),
) -> None:
    """Keeps the Envoy of this pod until SIGTERM, and returns when it is drained.

    Args:
        listener: by whose name Envoy counts its calls.
        heard: as `kept`.
        beside: runs meanwhile.
    """
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    page = f"http://{admin.host}:{admin.port}"
    async with aiohttp.ClientSession(page, timeout=aiohttp.ClientTimeout(total=_ADMIN_SECONDS)) as session:
        envoy = Envoy(session, listener=listener, drain_seconds=drain_seconds, clock=clock)
        async with kept(envoy, heard=heard, keeper=(EVERYWHERE, KEEPER_PORT), metrics=(EVERYWHERE, METRICS_PORT)):
            running = [asyncio.create_task(work) for work in beside]
            await told.wait()
            await envoy.drain()
            for task in running:
                task.cancel()


@asynccontextmanager
async def _served(
    paths: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]], host: str, port: int
) -> AsyncGenerator[None]:
    application = web.Application()
    for path, answer in paths.items():
        application.router.add_get(path, answer)
    # Who has hung up is not waited for: a hook of the kubelet may wait for a drain, and be given up.
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def run_pod(
    arguments: list[str],
    *,
    usage: str | None,
    render: Callable[[], object],
    keep: Callable[[], Coroutine[Any, Any, None]],
) -> int:
    """Runs from the command line: renders, or keeps. Returns the exit code."""
    try:
        if arguments == ["render"]:
            render()
        elif arguments == ["keep"]:
            asyncio.run(keep())
        else:
            print(usage, file=sys.stderr)
            return 2
    except (MeshError, OSError, ValueError) as failure:
        print(f"Envoy cannot be kept: {failure}", file=sys.stderr)
        return 1
    return 0
