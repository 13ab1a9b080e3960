"""Certificates between services: who is believed, what a wrong one is told, and what a rotation costs (nothing)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from comitia.guard_table import GUARDS
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.grpc.channel import bare_channel, call_metadata, channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.server import Server, serve
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.grpc.tls import CertificateUnusable, MeshTls
from services.meshkit.settings import ServiceSettings
from services.meshkit.testing.mesh_keys import SERVICES, MeshKeys
from tests.support.authority import Authority
from tests.support.everything import Everything, refusal
from tests.support.public_rpcs import INTERNAL, PUBLIC, Rpc

CLOCK = SystemClock()
#: Cost serves it to inference, among others.
RESERVE = next(rpc for rpc in INTERNAL if rpc.name.endswith("/Reserve"))
#: What no service can do without.
GIVEN: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "database_url": "postgresql://nowhere",
    "maintenance_database_url": "postgresql://nowhere",
    "jwks_path": "a",
    "workload_key_path": "b",
    "workload_jwks_path": "c",
}
LIST_AGENTS = next(rpc for rpc in PUBLIC if rpc.name == "AgentService/ListAgents")


@dataclass
class Mesh:
    """A service with a certificate, and the means to call it as anybody."""

    folder: Path
    keys: MeshKeys
    authority: Authority
    served: Everything
    target: str = ""

    def tls(self, service: str, *, at: str = "", serves: str = "cost", **how: Any) -> MeshTls:
        """Equips a service, and tells it who serves at the target of the test."""
        authority: Authority = how.pop("authority", self.authority)
        files = authority.equips(service, self.folder / (at or service), **how)
        return MeshTls(files, service=service, neighbours={self.target: serves}, clock=CLOCK)

    def identity(self, service: str, tls: MeshTls | None) -> WorkloadSigner:
        key = self.keys.workload_keys.get(service, SigningKey.generate(service))
        return WorkloadSigner(service, key, clock=CLOCK, tls=tls)

    async def call(self, rpc: Rpc, identity: WorkloadSigner, **options: Any) -> MeshError | None:
        """Calls as the admin of a tenant through a service; gives the refusal."""
        async with channel(self.target, identity=identity) as opened:
            return await refusal(rpc, opened, call_metadata(self.keys.principal()), **options)


@asynccontextmanager
async def serving(mesh: Mesh, tls: MeshTls | None) -> AsyncGenerator[Mesh]:
    """Serves everything as `cost`."""
    server = Server(
        name="cost",
        listen="127.0.0.1:0",
        registrations=(mesh.served.register,),
        admission=mesh.keys.admission(GUARDS),
        drain_seconds=0.2,
        tls=tls,
    )
    async with serve(server) as running:
        mesh.target = f"127.0.0.1:{running.port}"
        yield mesh


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path, MeshKeys.make(tmp_path, clock=CLOCK), Authority(), Everything())


async def test_two_services_talk(mesh: Mesh) -> None:
    async with serving(mesh, mesh.tls("cost")):
        assert await mesh.call(RESERVE, mesh.identity("inference", mesh.tls("inference"))) is None
        assert mesh.served.peer == "inference"


@pytest.mark.parametrize("wrong", ["unknown authority", "expired", "none", "plain text"])
async def test_a_caller_without_a_good_certificate_gets_no_connection(mesh: Mesh, wrong: str) -> None:
    async with serving(mesh, mesh.tls("cost")):
        match wrong:
            case "unknown authority":
                stranger = Authority("stranger")
                tls = mesh.tls("inference", authority=stranger, believes=(mesh.authority,))
            case "expired":
                tls = mesh.tls("inference", ends=timedelta(minutes=-1))
            case _:
                tls = None
        if wrong == "none":
            options = [("grpc.ssl_target_name_override", "cost.comitia")]
            credentials = grpc.ssl_channel_credentials(mesh.authority.pem)
            async with grpc.aio.secure_channel(mesh.target, credentials, options=options) as bare:
                refused = await refusal(LIST_AGENTS, bare, call_metadata(mesh.keys.principal()))
        else:
            refused = await mesh.call(RESERVE, mesh.identity("inference", tls))
        assert refused is not None
        assert refused.kind is ErrorKind.UNAVAILABLE
        assert mesh.served.peer is None


@pytest.mark.parametrize("wrong", ["unknown authority", "expired", "another service", "plain text"])
async def test_nothing_is_sent_to_a_server_without_a_good_certificate(mesh: Mesh, wrong: str) -> None:
    match wrong:
        case "unknown authority":
            tls = mesh.tls("cost", authority=Authority("stranger"), believes=(mesh.authority,))
        case "expired":
            tls = mesh.tls("cost", ends=timedelta(minutes=-1))
        case "another service":
            tls = mesh.tls("tools")
        case _:
            tls = None
    async with serving(mesh, tls):
        refused = await mesh.call(RESERVE, mesh.identity("inference", mesh.tls("inference")))
        assert refused is not None
        assert refused.kind is ErrorKind.UNAVAILABLE
        assert mesh.served.peer is None


async def test_an_assertion_counts_only_with_the_certificate_of_the_same_service(mesh: Mesh) -> None:
    async with serving(mesh, mesh.tls("cost")):
        stolen = mesh.identity("inference", mesh.tls("tools"))
        refused = await mesh.call(RESERVE, stolen)
        assert refused is not None
        assert (refused.kind, refused.reason) == (ErrorKind.DENIED, "PEER_NOT_ALLOWED")
        # Neither does it lend its name to a call that needs none.
        refused = await mesh.call(LIST_AGENTS, stolen)
        assert refused is not None
        assert refused.reason == "PEER_NOT_ALLOWED"


async def test_the_edge_is_a_caller_from_outside(mesh: Mesh) -> None:
    async with serving(mesh, mesh.tls("cost")):
        token = call_metadata(mesh.keys.principal())
        async with bare_channel(mesh.target, tls=mesh.tls("edge"), options=()) as edge:
            assert await refusal(LIST_AGENTS, edge, token) is None
            assert mesh.served.peer is None
            refused = await refusal(RESERVE, edge, token)
        assert refused is not None
        assert refused.reason == "PEER_NOT_ALLOWED"


async def test_internal_rpcs_are_open_to_their_peers_alone(mesh: Mesh) -> None:
    """Every internal RPC x every service, a stranger's name, the edge and a certificate that is not the assertion's."""
    token = call_metadata(mesh.keys.principal())
    wrong: list[str] = []
    async with serving(mesh, mesh.tls("cost")), AsyncExitStack() as stack:
        for service in (*SERVICES, "mallory"):
            identity = mesh.identity(service, mesh.tls(service))
            opened = await stack.enter_async_context(channel(mesh.target, identity=identity))
            for rpc in INTERNAL:
                refused = await refusal(rpc, opened, token)
                said = "" if refused is None else refused.reason
                expected = {""} if service in rpc.guard.peers else {"PEER_NOT_ALLOWED"}
                # A key that nobody published proves no name at all.
                if service == "mallory":
                    expected = {"WORKLOAD_INVALID"}
                if said not in expected:
                    wrong.append(f"{service} -> {rpc.name}: {said or 'let in'}")
        edge = await stack.enter_async_context(bare_channel(mesh.target, tls=mesh.tls("edge"), options=()))
        for rpc in INTERNAL:
            refused = await refusal(rpc, edge, token)
            if refused is None or refused.reason != "PEER_NOT_ALLOWED":
                wrong.append(f"edge -> {rpc.name}")
    assert not wrong, "\n".join(wrong)
    assert len(INTERNAL) >= 10


async def test_a_rotation_under_load_fails_no_call(mesh: Mesh) -> None:
    """Both certificates, then the authority itself, in the order that operators follow; at every moment calls run."""
    old, new = mesh.authority, Authority("next")
    stop = asyncio.Event()
    failures: list[MeshError] = []
    calls = 0
    server_tls = mesh.tls("cost")
    async with serving(mesh, server_tls):
        client_tls = mesh.tls("inference")
        async with channel(mesh.target, identity=mesh.identity("inference", client_tls)) as opened:

            async def load() -> None:
                nonlocal calls
                while not stop.is_set():
                    refused = await refusal(RESERVE, opened, call_metadata(mesh.keys.principal()))
                    calls += 1
                    if refused is not None:
                        failures.append(refused)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(load())
                steps = ((old, (old, new)), (new, (old, new)), (new, (new,)))
                for certificates, (signs, believes) in enumerate(steps, start=1):
                    async with asyncio.timeout(30):
                        before = calls
                        while calls < before + 40 or len(mesh.served.shown) < certificates:  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                    for service in ("cost", "inference"):
                        generation = client_tls.generation
                        signs.equips(service, mesh.folder / service, believes=believes)
                        await asyncio.sleep(0.05)
                    async with asyncio.timeout(30):
                        while (  # noqa: ASYNC110  # files have no bell
                            client_tls.refresh() == generation or server_tls.refresh() < client_tls.generation
                        ):
                            await asyncio.sleep(0.05)
                async with asyncio.timeout(30):
                    while len(mesh.served.shown) <= len(steps):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                stop.set()
        assert not failures
        # Each of its three certificates was shown, and the first.
        assert len(mesh.served.shown) == 4
        # What the old authority signed is worth nothing now.
        refused = await mesh.call(
            RESERVE, mesh.identity("inference", mesh.tls("inference", at="late", believes=(new,)))
        )
        assert refused is not None
        assert refused.kind is ErrorKind.UNAVAILABLE


async def test_a_call_in_flight_outlives_the_certificate_it_began_with(mesh: Mesh) -> None:
    watch = next(rpc for rpc in PUBLIC if rpc.name == "SessionService/WatchSession")
    token = call_metadata(mesh.keys.principal())
    mesh.served.goes_on.clear()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(mesh, mesh.tls("cost")))
        identity = mesh.identity("inference", mesh.tls("inference"))
        opened = await stack.enter_async_context(channel(mesh.target, identity=identity))
        first: Any = watch.on(opened)(watch.request_class(), metadata=token)
        assert isinstance(await first.read(), watch.response_class)
        mesh.authority.equips("inference", mesh.folder / "inference")
        async with asyncio.timeout(10):
            while len(mesh.served.shown) < 2:
                assert await refusal(RESERVE, opened, token) is None
                await asyncio.sleep(0.05)
        mesh.served.goes_on.set()
        assert isinstance(await first.read(), watch.response_class)
        assert await first.code() is grpc.StatusCode.OK


def test_certificate_and_key_have_to_fit(mesh: Mesh) -> None:
    tls = mesh.tls("cost")
    files = mesh.authority.equips("tools", mesh.folder / "tools")
    files.key.write_bytes((mesh.folder / "cost" / "cost.pem").read_bytes())
    with pytest.raises(CertificateUnusable, match="is not the key of"):
        MeshTls(files, service="tools", neighbours={}, clock=CLOCK)
    with pytest.raises(CertificateUnusable, match="no service is known"):
        tls.server_name("127.0.0.1:9")


@pytest.mark.parametrize("left_out", ["tls_cert_path", "tls_key_path", "tls_ca_path"])
def test_the_three_paths_belong_together(left_out: str) -> None:
    paths = {name: name for name in ("tls_cert_path", "tls_key_path", "tls_ca_path") if name != left_out}
    with pytest.raises(ValueError, match="belong together"):
        ServiceSettings.model_validate({**GIVEN, **paths})
    assert ServiceSettings.model_validate(GIVEN).tls_cert_path is None


def test_a_listener_between_services_needs_certificates() -> None:
    given: dict[str, Any] = {**GIVEN, "east_west_target": "127.0.0.1:7409"}
    with pytest.raises(ValueError, match="east_west_target needs tls_cert_path, tls_key_path and tls_ca_path"):
        ServiceSettings.model_validate(given)
    paths = {name: name for name in ("tls_cert_path", "tls_key_path", "tls_ca_path")}
    assert ServiceSettings.model_validate({**given, **paths}).east_west_target == "127.0.0.1:7409"
