"""TLS between the edge and a service: certificates on both ends, exchanged while calls run."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
from cryptography import x509

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from services.launcher.edge import MeshTlsFiles
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.server import Server, serve
from services.meshkit.grpc.tls import MeshTls
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.edge.conftest import EchoAgents
from tests.support.authority import Authority
from tests.support.edge import RunningEdge, edge_settings, running_edge

CLOCK = SystemClock()


class Calls:
    """Calls one RPC through the edge and knows the certificates that it was answered under."""

    def __init__(self, edge: RunningEdge, http: aiohttp.ClientSession, keys: MeshKeys) -> None:
        self._edge = edge
        self._http = http
        self._keys = keys

    async def status(self) -> int:
        headers = {"authorization": f"Bearer {self._keys.principal().token.reveal()}"}
        async with self._http.get(self._edge.url + "/v1/agents", headers=headers) as answer:
            await answer.read()
            return answer.status

    async def shows(self, certificate: x509.Certificate) -> bool:
        """Tells whether Envoy has taken a certificate up."""
        serial = certificate.serial_number
        async with self._http.get(f"http://{self._edge.admin}/certs") as answer:
            return f"{serial:x}" in await answer.text()


def read_certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def edge_certificate(authority: Authority, folder: Path, *, believes: tuple[Authority, ...] = ()) -> MeshTlsFiles:
    shown = authority.equips("edge", folder / "edge", believes=believes)
    return MeshTlsFiles(
        secrets=folder / "secrets",
        certificate_chain=shown.certificate,
        private_key=shown.key,
        authorities=shown.authorities,
    )


@asynccontextmanager
async def mesh(folder: Path, *, service: tuple[Authority, str], edge: Authority) -> AsyncGenerator[Calls]:
    """Runs an edge before one service.

    Args:
        service: who signed its certificate, and whom that names.
        edge: who signed that of the edge, and whom the edge believes.
    """
    keys = MeshKeys.make(folder, clock=CLOCK)
    signed_by, name = service
    tls = MeshTls(signed_by.equips(name, folder / "service"), service=name, neighbours={}, clock=CLOCK)
    server = Server(
        name="orchestrator",
        listen="127.0.0.1:0",
        registrations=[partial(add_AgentServiceServicer_to_server, EchoAgents())],  # pyright: ignore[reportAbstractUsage]
        admission=keys.admission(GUARDS),
        drain_seconds=0.2,
        tls=tls,
    )
    async with serve(server) as running:
        settings = edge_settings(
            {"orchestrator": f"127.0.0.1:{running.port}"},
            jwks=keys.jwks_path,
            log=folder / "access.log",
            mesh_tls=edge_certificate(edge, folder),
        )
        async with running_edge(settings, folder) as envoy, aiohttp.ClientSession() as http:
            yield Calls(envoy, http, keys)


async def until(calls: Calls, status: int) -> None:
    async with asyncio.timeout(10):
        while await calls.status() != status:  # noqa: ASYNC110  # another process cannot set an event
            await asyncio.sleep(0.05)


async def stays(calls: Calls, status: int, *, seconds: float) -> None:
    """Calls all the time; every answer has this status."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        assert await calls.status() == status
        await asyncio.sleep(0.02)


async def test_edge_and_service_show_each_other_who_they_are(tmp_path: Path) -> None:
    old, new = Authority(), Authority("next")
    async with mesh(tmp_path, service=(old, "orchestrator"), edge=old) as calls:
        await until(calls, 200)
        for signs, believes in ((old, (old, new)), (new, (old, new)), (new, (new,))):
            signs.equips("orchestrator", tmp_path / "service", believes=believes)
            await stays(calls, 200, seconds=0.7)
            shown = edge_certificate(signs, tmp_path, believes=believes)
            async with asyncio.timeout(10):
                while not await calls.shows(read_certificate(shown.certificate_chain)):
                    assert await calls.status() == 200
            await stays(calls, 200, seconds=0.7)


async def test_the_edge_sends_nothing_to_a_service_of_another_name(tmp_path: Path) -> None:
    authority = Authority()
    async with mesh(tmp_path, service=(authority, "tools"), edge=authority) as calls:
        await stays(calls, 503, seconds=1.5)


async def test_a_service_answers_no_edge_that_it_does_not_believe(tmp_path: Path) -> None:
    authority = Authority()
    stranger = Authority("stranger")
    async with mesh(tmp_path, service=(authority, "orchestrator"), edge=stranger) as calls:
        await stays(calls, 503, seconds=1.5)
