"""The edge on Kubernetes: what stands beside Envoy in its pod.

    python -m services.launcher.edge_pod render     once, before Envoy starts: writes its configuration
    python -m services.launcher.edge_pod keep       beside it, until SIGTERM

The keeper copies the gateway's key set to where Envoy follows it, answers the kubelet's probes, shows Envoy's figures
without the rest of its admin page, and drains it when SIGTERM comes: the admin page itself stays on the loopback of the
pod, and what is asked from outside of it can begin nothing.
"""

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from services.launcher.edge import (
    DESCRIPTORS,
    Address,
    EdgeSettings,
    MeshTlsFiles,
    ServingCertificate,
    render_edge,
    render_mesh_secrets,
    render_serving_secret,
)
from services.launcher.edge_tokens import TokenCheck
from services.launcher.layout import write_private
from services.launcher.ports import PREFERRED
from services.launcher.services import SERVICES
from services.meshkit.core.clock import Clock, SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.channel import bare_channel
from services.meshkit.grpc.tls import MeshTls, TlsFiles
from services.meshkit.guard.key_set_mirror import KeySetMirror

#: Where the pod mounts things; the same in all of its containers.
MOUNTS: Final = Path("/etc/comitia")
STATE: Final = Path("/var/lib/comitia")
#: What the kubelet asks, and what Prometheus reads; apart, since only the second has readers in the cluster.
KEEPER_PORT: Final = 7498
METRICS_PORT: Final = 7410
_LOOK_SECONDS: Final = 0.5
#: How long others may go on sending calls after a pod was taken from the list: an idle edge is not yet an unused one.
_NOTICE_SECONDS: Final = 5.0
_ADMIN_SECONDS: Final = 2.0
_ACTIVE: Final = "http.edge.downstream_rq_active"


class EdgeWishes(BaseModel):
    """What the chart says of its edge, in `edge/edge.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: `host:port` of the seven services.
    services: dict[str, str]
    #: `host:port` at which inference serves the dialects of model providers.
    doors: str
    #: Whether services show certificates, and whether callers are shown one.
    mesh_tls: bool
    tls: bool
    #: Longest time that calls have to end.
    drain_seconds: float
    flood_factor: float
    edge_per_second: int
    address_per_second: int
    max_connections: int
    cors_origins: tuple[str, ...]


def edge_settings(wishes: EdgeWishes, *, mounts: Path = MOUNTS, state: Path = STATE) -> EdgeSettings:
    """Says what Envoy is to be like in a pod."""
    mesh_tls, tls = mounts / "mesh-tls", mounts / "tls"
    serving = ServingCertificate(
        secret=state / "serving.yaml", certificate_chain=tls / "tls.crt", private_key=tls / "tls.key"
    )
    return EdgeSettings(
        listen=Address("0.0.0.0", PREFERRED["edge"]),  # noqa: S104  # the pod's own address
        admin=Address("127.0.0.1", PREFERRED["edge_admin"]),
        services={service: [Address.parse(wishes.services[service])] for service in SERVICES},
        doors=[Address.parse(wishes.doors)],
        token_check=state / "token_check" / "token_check.json",
        descriptors=state / "comitia.binpb",
        tls=serving if wishes.tls else None,
        mesh_tls=MeshTlsFiles(
            secrets=state / "secrets",
            certificate_chain=mesh_tls / "tls.crt",
            private_key=mesh_tls / "tls.key",
            authorities=mesh_tls / "ca.crt",
        )
        if wishes.mesh_tls
        else None,
        flood_factor=wishes.flood_factor,
        edge_per_second=wishes.edge_per_second,
        address_per_second=wishes.address_per_second,
        max_connections=wishes.max_connections,
        cors_origins=wishes.cors_origins,
    )


def render(*, mounts: Path = MOUNTS, state: Path = STATE) -> Path:
    """Writes everything that Envoy reads, and gives the file of its configuration.

    The first key set is that of the installation; the keeper brings it up to date.
    """
    settings = edge_settings(_wishes(mounts), mounts=mounts, state=state)
    shutil.copyfile(DESCRIPTORS, settings.descriptors)
    TokenCheck(mounts / "keys" / "jwks.json", settings.token_check).write()
    if settings.mesh_tls is not None:
        for name, text in render_mesh_secrets(settings.mesh_tls).items():
            write_private(settings.mesh_tls.secrets / name, text.encode())
    if settings.tls is not None:
        write_private(settings.tls.secret, render_serving_secret(settings.tls).encode())
    configuration = state / "edge.json"
    write_private(configuration, render_edge(settings).encode())
    return configuration


class Envoy:
    """The Envoy of this pod, asked at its admin page."""

    def __init__(self, session: aiohttp.ClientSession, *, drain_seconds: float, clock: Clock) -> None:
        self._session = session
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
                async with self._session.post(told):
                    pass
            await self._clock.sleep(min(_NOTICE_SECONDS, self._drain_seconds))
            while self._clock.monotonic() < end and await self._active() > 0:
                await self._clock.sleep(_LOOK_SECONDS)
        self._drain_ended.set()

    async def _active(self) -> int:
        async with self._session.get("/stats", params={"filter": f"^{_ACTIVE}$"}) as answer:
            return int((await answer.text()).partition(":")[2] or 0)


@asynccontextmanager
async def kept(
    envoy: Envoy, *, heard: Callable[[], bool], keeper: tuple[str, int], metrics: tuple[str, int]
) -> AsyncGenerator[None]:
    """Answers the kubelet and Prometheus while the block runs.

    Args:
        heard: whether the gateway has given its key set; before, callers are not sent here.
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


async def keep() -> None:
    """Keeps the edge until SIGTERM, then ends when it is drained."""
    clock, told = SystemClock(), asyncio.Event()
    wishes = _wishes(MOUNTS)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    settings = edge_settings(wishes)
    jwks = STATE / "jwks.json"
    gateway = wishes.services["gateway"]
    admin = f"http://{settings.admin.host}:{settings.admin.port}"
    everywhere = "0.0.0.0"  # noqa: S104  # the pod's own address
    timeout = aiohttp.ClientTimeout(total=_ADMIN_SECONDS)
    async with (
        aiohttp.ClientSession(admin, timeout=timeout) as session,
        bare_channel(gateway, tls=_mesh_tls(settings, gateway, clock), options=(), service="gateway") as channel,
    ):
        envoy = Envoy(session, drain_seconds=wishes.drain_seconds, clock=clock)
        async with kept(envoy, heard=jwks.exists, keeper=(everywhere, KEEPER_PORT), metrics=(everywhere, METRICS_PORT)):
            following = [
                asyncio.create_task(KeySetMirror(channel, jwks, clock=clock)(), name="edge-key-set"),
                asyncio.create_task(TokenCheck(jwks, settings.token_check).follow(), name="edge-token-check"),
            ]
            await told.wait()
            await envoy.drain()
            for task in following:
                task.cancel()


@asynccontextmanager
async def _served(
    paths: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]], host: str, port: int
) -> AsyncGenerator[None]:
    application = web.Application()
    for path, answer in paths.items():
        application.router.add_get(path, answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def _wishes(mounts: Path) -> EdgeWishes:
    return EdgeWishes.model_validate_json((mounts / "edge" / "edge.json").read_bytes())


def _mesh_tls(settings: EdgeSettings, gateway: str, clock: Clock) -> MeshTls | None:
    if settings.mesh_tls is None:
        return None
    shown = settings.mesh_tls
    files = TlsFiles(certificate=shown.certificate_chain, key=shown.private_key, authorities=shown.authorities)
    return MeshTls(files, service="edge", neighbours={gateway: "gateway"}, clock=clock)


def main(arguments: list[str]) -> int:
    """Runs from the command line. Returns the exit code."""
    try:
        if arguments == ["render"]:
            render()
        elif arguments == ["keep"]:
            asyncio.run(keep())
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (MeshError, OSError, ValueError) as failure:
        print(f"the edge cannot be kept: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
