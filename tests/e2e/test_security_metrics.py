"""What the metrics pages of a mesh tell those who watch over it, after each thing was provoked."""

import time
from collections.abc import Awaitable, Mapping
from urllib.request import urlopen
from uuid import uuid4

import grpc.aio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from comitia.gateway.v1.identity_service_pb2 import WhoAmIRequest
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2
from comitia.orchestrator.v1.agent_service_pb2_grpc import AgentServiceStub
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import ComitiaError
from services.launcher.layout import DataDir, read_state
from services.launcher.ports import metrics_port_name
from services.launcher.services import SERVICES
from services.meshkit.grpc.signed_token import SigningKey
from services.meshkit.telemetry import names
from tests.e2e.conftest import MakeTenant, Tenant, until
from tests.e2e.doors import bearer
from tests.support.mesh import RunningMesh
from tests.support.whose import ids_in

Labels = frozenset[tuple[str, str]]
Pages = Mapping[tuple[str, str, Labels], float]
#: The most values that a label has on one page; those that tenants choose are bounded by `BoundedLabel`.
MOST_VALUES = 201


def pages(mesh: RunningMesh, *services: str) -> Pages:
    """Reads the metrics pages of these services, or of all: values by service, name and labels."""
    ports = read_state(DataDir(mesh.data_dir))["ports"]
    found: dict[tuple[str, str, Labels], float] = {}
    for service in services or SERVICES:
        with urlopen(f"http://127.0.0.1:{ports[metrics_port_name(service)]}/metrics", timeout=10) as page:
            for family in text_string_to_metric_families(page.read().decode()):
                for sample in family.samples:
                    found[service, sample.name, frozenset(sample.labels.items())] = sample.value
    return found


class Watched:
    """Tells how far values have gone up since it was made."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh
        self._before = pages(mesh)

    def __call__(self, page: str, name: str, /, **labels: str) -> float:
        now = pages(self._mesh, page)
        wanted = set(labels.items())
        return sum(
            value - self._before.get(key, 0.0) for key, value in now.items() if key[1] == name and wanted <= key[2]
        )

    async def rises(self, page: str, name: str, /, **labels: str) -> None:
        async def risen() -> bool:
            return self(page, name, **labels) >= 1

        await until(risen, seconds=15)


@pytest.fixture
def watched(mesh: RunningMesh) -> Watched:
    return Watched(mesh)


def refused(watched: Watched, service: str, code: str, reason: str) -> float:
    return watched(service, names.REFUSALS_TOTAL, service=service, code=code, reason=reason)


async def refuse(work: Awaitable[object], reason: str) -> None:
    with pytest.raises(ComitiaError) as refusal:
        await work
    assert refusal.value.reason == reason


async def test_refusals_are_counted_by_service_code_and_reason(
    mesh: RunningMesh, watched: Watched, make_tenant: MakeTenant
) -> None:
    tenant, other = await make_tenant(), await make_tenant()
    [theirs] = await other.cast("Theirs")
    session = await other.start(theirs, max_rounds=1)
    auditor = (await tenant.client.identity.create_key("reads", roles=["auditor"])).secret
    await refuse(tenant.client.sessions.get(session.session_id), "SESSION_NOT_FOUND")
    async with AsyncClient(mesh.url, api_key=auditor) as client:
        await refuse(client.agents.create("Ada"), "PERMISSION_MISSING")
    assert refused(watched, "orchestrator", "NOT_FOUND", "SESSION_NOT_FOUND") == 1
    assert refused(watched, "orchestrator", "PERMISSION_DENIED", "PERMISSION_MISSING") == 1


async def test_an_id_of_a_request_that_is_used_twice_is_counted(
    mesh: RunningMesh, watched: Watched, tenant: Tenant
) -> None:
    request_id = str(uuid4())
    token = await tenant.client.identity.token()
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        stub = AgentServiceStub(channel)

        async def create(name: str) -> None:
            agent = agent_pb2.Agent(name=name, version="1.0.0")
            request = agent_service_pb2.CreateAgentRequest(agent=agent, request_id=request_id)
            await stub.CreateAgent(request, metadata=bearer(token))

        await create("Ada")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await create("Bea")
    assert refusal.value.code() is grpc.StatusCode.ABORTED
    assert refused(watched, "orchestrator", "ABORTED", "REQUEST_ID_REUSED") == 1


async def test_wrong_proofs_and_unknown_keys_are_counted(mesh: RunningMesh, watched: Watched) -> None:
    forged = SigningKey.generate("nobodys").sign({"iss": "comitia", "aud": "comitia"})
    async with grpc.aio.insecure_channel(mesh.addresses.services["gateway"]) as channel:
        for headers in (bearer(forged), bearer("nonsense"), ()):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await IdentityServiceStub(channel).WhoAmI(WhoAmIRequest(), metadata=headers)
            assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refused(watched, "gateway", "UNAUTHENTICATED", "TOKEN_INVALID") == 2
    assert refused(watched, "gateway", "UNAUTHENTICATED", "TOKEN_MISSING") == 1
    # Whoever writes the refusal into the audit trail looks once more.
    assert watched("gateway", names.UNKNOWN_SIGNING_KEYS_TOTAL) >= 1


async def test_calls_beyond_the_rate_are_counted(
    mesh: RunningMesh, watched: Watched, client: AsyncClient, tenant: Tenant
) -> None:
    own = await tenant.client.tenants.own()
    await client.tenants.set_quotas(own.tenant_id, {"rate_factor": 0.01})

    async def limited() -> bool:
        return (await tenant.rest.ask("GET", "/v1/agents")).reason == "RATE_LIMITED"

    await until(limited, seconds=15)
    assert refused(watched, "orchestrator", "RESOURCE_EXHAUSTED", "RATE_LIMITED") >= 1
    assert watched("orchestrator", names.RATE_DECISIONS_TOTAL, outcome="refused") >= 1


async def test_the_way_of_a_revocation_is_measured_at_every_service(
    mesh: RunningMesh, watched: Watched, tenant: Tenant
) -> None:
    key = await tenant.client.identity.create_key("short-lived")
    await tenant.client.identity.revoke_key(key.api_key.api_key_id)
    for service in SERVICES:
        await watched.rises(service, f"{names.REVOCATION_LAG_SECONDS}_count", service=service)
        lag = watched(service, f"{names.REVOCATION_LAG_SECONDS}_sum", service=service)
        assert 0 <= lag < 60
        age = pages(mesh, service)[service, names.GUARD_FEED_AGE_SECONDS, frozenset({("service", service)})]
        assert 0 <= age < 60


async def test_keys_of_issuers_that_are_fetched_or_not_are_counted(watched: Watched, tenant: Tenant) -> None:
    for _ in range(2):
        await refuse(tenant.client.users.add_issuer("http://127.0.0.1:9", "client"), "ISSUER_UNUSABLE")
    assert watched("gateway", names.ISSUER_KEY_FETCHES_TOTAL, outcome="failed") >= 1


async def test_the_audit_trail_shows_its_lag_and_how_far_it_is_signed(
    mesh: RunningMesh, watched: Watched, tenant: Tenant
) -> None:
    began = time.time()
    await tenant.cast("Ada")
    await watched.rises("gateway", f"{names.AUDIT_LAG_SECONDS}_count", service="orchestrator")
    await watched.rises("gateway", names.AUDIT_ENTRIES_TOTAL, service="orchestrator")
    shown = pages(mesh, "gateway")
    for service in SERVICES:
        assert shown["gateway", names.AUDIT_FEED_AWAY, frozenset({("service", service)})] == 0
    # Heads are signed every minute; somebody who asks for a proof does not wait so long.
    signed = shown["gateway", names.AUDIT_SIGNED_SECONDS, frozenset()]
    assert signed == 0 or began - 130 < signed <= time.time()
    since = shown["gateway", names.SIGNING_KEY_SINCE_SECONDS, frozenset()]
    assert began - 86_400 < since <= time.time()


def test_labels_hold_no_ids_and_have_few_values(mesh: RunningMesh) -> None:
    values: dict[tuple[str, str, str], set[str]] = {}
    for service, name, labels in pages(mesh):
        for label, value in labels:
            values.setdefault((service, name, label), set()).add(value)
    wrong = [
        f"{place}: {sorted(found)[:5]}"
        for place, found in values.items()
        if len(found) > MOST_VALUES or any(ids_in(value.encode()) for value in found)
    ]
    assert not wrong, "\n".join(wrong)
