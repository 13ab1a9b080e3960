"""A mesh whose services show certificates, as somebody on its machine sees it."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from comitia.orchestrator.v1 import session_pb2
from services.launcher.certificates import certificates_of
from services.launcher.layout import DataDir, read_state
from services.launcher.ports import metrics_port_name
from services.launcher.services import SERVICES
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.grpc.tls import MeshTls, TlsFiles, certified_name
from services.meshkit.telemetry.names import RPC_SERVER_DURATION_SECONDS
from tests.e2e.conftest import Tenant, until
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import Rpc

CLOCK: Final = SystemClock()
SUCCEEDED: Final = session_pb2.SESSION_STATE_SUCCEEDED
FAULTS: Final = ("UNAVAILABLE", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "ABORTED")
#: A field that is cut off. Whoever is let in is told so, before anything is done.
UNREADABLE: Final = b"\x0a\x7f"


@dataclass(frozen=True, slots=True)
class Inside:
    """A mesh with certificates, as somebody on its machine sees it."""

    mesh: RunningMesh

    @property
    def data(self) -> DataDir:
        return DataDir(self.mesh.data_dir)

    @property
    def targets(self) -> Mapping[str, str]:
        return self.mesh.addresses.services

    def certificate_of(self, holder: str) -> TlsFiles:
        own = self.data.certificate(holder)
        return TlsFiles(certificate=own, key=own, authorities=self.data.authorities)

    def tls(self, holder: str, files: TlsFiles | None = None, *, east_west: str = "") -> MeshTls:
        neighbours = {target: service for service, target in self.targets.items()}
        return MeshTls(
            files or self.certificate_of(holder),
            service=holder,
            neighbours=neighbours,
            clock=CLOCK,
            east_west=east_west,
        )

    def identity(self, service: str, *, certificate_of: str = "", east_west: str = "") -> WorkloadSigner:
        """Gives what a service proves its name with, or shows the certificate of another.

        Args:
            east_west: address of the listener that it goes through; empty goes straight to its neighbours.
        """
        key = SigningKey.read(self.data.workload_key(service))
        tls = self.tls(certificate_of or service, east_west=east_west)
        return WorkloadSigner(service, key, clock=CLOCK, tls=tls)

    def believed(self) -> list[bytes]:
        found = x509.load_pem_x509_certificates(self.data.authorities.read_bytes())
        return [one.public_bytes(Encoding.DER) for one in found]

    async def shown_by(self, service: str) -> str:
        """Gives the serial number that a service shows to who connects now."""
        host, _, port = self.targets[service].rpartition(":")
        context = ssl.create_default_context(cafile=str(self.data.authorities))
        context.load_cert_chain(self.data.certificate("launcher"))
        context.set_alpn_protocols(["h2"])
        name = certified_name(service)
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        with suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
        return f"{x509.load_der_x509_certificate(certificate).serial_number:x}"

    async def all_show_what_lies_there(self) -> bool:
        """Tells whether services and edge show their certificates of this moment."""
        there = {one.holder: one.serial for one in certificates_of(self.data.root).states()}
        shown = {service: await self.shown_by(service) for service in SERVICES}
        if shown != {service: there[service] for service in SERVICES}:
            return False
        admin = f"http://127.0.0.1:{read_state(self.data)['ports']['edge_admin']}"
        async with aiohttp.ClientSession() as http, http.get(f"{admin}/certs") as answer:
            return there["edge"] in await answer.text()

    async def faults(self) -> dict[str, float]:
        """Counts calls between services, and from the edge, that ended by a fault, by service, method and code."""
        ports, found = read_state(self.data)["ports"], dict[str, float]()
        async with aiohttp.ClientSession() as http:
            for service in SERVICES:
                async with http.get(f"http://127.0.0.1:{ports[metrics_port_name(service)]}/metrics") as page:
                    lines = (await page.text()).splitlines()
                counted = [line for line in lines if line.startswith(f"{RPC_SERVER_DURATION_SECONDS}_count")]
                assert counted, service
                for line in counted:
                    if any(f'code="{code}"' in line for code in FAULTS):
                        labels, _, times = line.rpartition(" ")
                        found[f"{service} {labels}"] = float(times)
        return found


async def reason(rpc: Rpc, opened: Any, headers: tuple[tuple[str, str], ...] = ()) -> str:
    """Calls with what cannot be read; gives the reason of the refusal."""
    kind = {
        (False, False): opened.unary_unary,
        (False, True): opened.unary_stream,
        (True, True): opened.stream_stream,
    }[rpc.method.client_streaming, rpc.streams]
    start = kind(rpc.path, request_serializer=lambda sent: sent, response_deserializer=lambda read: read)
    call = start(*(() if rpc.method.client_streaming else (UNREADABLE,)), metadata=headers, timeout=10)
    try:
        if not rpc.streams:
            await call
        elif rpc.method.client_streaming:
            await call.done_writing()
            await call.read()
        else:
            await call.read()
    except grpc.aio.AioRpcError as error:
        return remote_error(error).reason
    finally:
        call.cancel()
    return ""


async def all_of_it_works(tenant: Tenant) -> None:
    """Runs sessions that need all seven services, by gRPC and by REST."""
    client, rest = tenant.client, tenant.rest
    status = await client.status()
    assert status.serving
    assert len(status.services) == len(SERVICES)
    law = "rules: [{name: no_swords, type: keyword, keywords: [sword], action: warn, stages: [after]}]"
    bundle = await client.policies.apply(law, name="arms", version="1.0.0")
    await tenant.cast("Ada", tools=["calculator"], semantic_matches=1)
    tenant.says("", tool_calls=[["call_1", "calculator", '{"expression": "6 * 7"}']])
    tenant.says("It is 42, by my sword.")
    session = await tenant.start("Ada", max_rounds=1)
    assert (await tenant.ended(session.session_id)).state == SUCCEEDED
    [turn] = await tenant.turns(session.session_id)
    assert [(use.name, use.result, use.failed) for use in turn.tool_uses] == [("calculator", "42", False)]
    assert (turn.bundle_digest, turn.without_recall) == (bundle.digest, False)
    assert turn.memory_id
    assert turn.cost.cost_nano_usd > 0
    assert [one.rule async for one in client.policies.violations(run_id=session.session_id)][:1] == ["no_swords"]

    async def remembered() -> bool:
        recalled = await client.memories.recall(session.topic_start, agent_name="Ada")
        return [match.memory.memory_id for match in recalled.semantic] == [turn.memory_id]

    await until(remembered)
    body = {"topic": "Rivers", "mode": "SESSION_MODE_CONSENSUS", "agents": ["Ada"], "max_rounds": 1}
    started = await rest.ask("POST", "/v1/sessions", body)
    run = started.body["session"]["session_id"]
    watched = f"{rest.url}/v1/sessions/{run}:watch"
    async with rest.session.get(watched, headers={"x-api-key": rest.key}) as answer:
        assert b"session_ended" in await answer.read()
    [again] = (await rest.ask("GET", f"/v1/sessions/{run}/turns")).body["turns"]
    assert [reference["memory_id"] for reference in again["input"]["semantic_refs"]] == [turn.memory_id]
