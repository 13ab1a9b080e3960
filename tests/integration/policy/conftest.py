"""Policy as its neighbours see it: real servers on a real Postgres, with or without a bus between them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio
from pydantic import SecretStr

from comitia.policy.v1 import policy_pb2
from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1.policy_service_pb2_grpc import BundleServiceStub, PolicyServiceStub, ViolationServiceStub
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.server import Serving, serve
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.testing import failpoints
from services.meshkit.testing.mesh_keys import TENANT, MeshKeys
from services.policy.settings import PolicySettings
from services.policy.wiring import policy
from tests.integration.conftest import free_port
from tests.support.policy import a_bundle, an_evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyMesh:
    """A running policy service and callers of it."""

    #: Tenant of callers that name none.
    tenant: TenantId
    keys: MeshKeys
    urls: DatabaseUrls
    inside: grpc.aio.Channel
    serving: Serving

    def caller(
        self, *roles: Role, tenant: TenantId | None = None, peer: str | None = None, **changes: Any
    ) -> "PolicyCaller":
        principal = self.keys.principal(*roles, tenant=tenant or self.tenant, **changes)
        return PolicyCaller(self, principal=principal, peer=peer)


class PolicyCaller:
    """One tenant's caller."""

    def __init__(self, mesh: PolicyMesh, *, principal: Principal, peer: str | None) -> None:
        self.principal = principal
        self._metadata = [("authorization", f"Bearer {principal.token.reveal()}")]
        if peer is not None:
            self._metadata.append(("comitia-workload", mesh.keys.workload(peer).assertion()))
        self._policy = PolicyServiceStub(mesh.inside)
        self._bundles = BundleServiceStub(mesh.inside)
        self._violations = ViolationServiceStub(mesh.inside)

    async def call(self, method: str, request: Any) -> Any:
        """Calls an RPC by name; a refusal comes as the error that the wire carried."""
        stubs: tuple[Any, ...] = (self._policy, self._bundles, self._violations)
        stub = next(stub for stub in stubs if getattr(stub, method, None) is not None)
        try:
            return await getattr(stub, method)(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None

    async def refusal(self, method: str, request: Any) -> MeshError:
        """Calls an RPC that must fail; gives the error."""
        try:
            answer = await self.call(method, request)
        except MeshError as error:
            return error
        raise AssertionError(f"{method} was not refused: {answer}")

    async def refused(self, method: str, request: Any) -> str:
        """Calls an RPC that must fail; gives its kind and reason, such as `not_found/BUNDLE_NOT_FOUND`."""
        error = await self.refusal(method, request)
        return f"{error.kind.value}/{error.reason}"

    async def create(self, source: str = "", **fields: Any) -> policy_pb2.Bundle:
        request = pb.CreateBundleRequest(source=source or a_bundle(), **fields)
        return (await self.call("CreateBundle", request)).bundle

    async def activate(self, bundle: str) -> policy_pb2.Bundle:
        return (await self.call("ActivateBundle", pb.ActivateBundleRequest(bundle=bundle))).bundle

    async def get(self, bundle: str) -> policy_pb2.Bundle:
        return (await self.call("GetBundle", pb.GetBundleRequest(bundle=bundle))).bundle

    async def bundles(self, **fields: Any) -> pb.ListBundlesResponse:
        return await self.call("ListBundles", pb.ListBundlesRequest(**fields))

    async def evaluate(self, text: str = "hello", **fields: Any) -> policy_pb2.Verdict:
        return (await self.call("Evaluate", an_evaluation(text, **fields))).verdict

    async def violations(self, **fields: Any) -> list[policy_pb2.Violation]:
        return list((await self.call("ListViolations", pb.ListViolationsRequest(**fields))).violations)

    def watch(self, **fields: Any) -> Any:
        """Opens a stream of violations."""
        return self._violations.WatchViolations(pb.WatchViolationsRequest(**fields), metadata=self._metadata)

    def batch(self) -> Any:
        """Opens a batch stream. It carries the assertion of the peer only; items name their tokens."""
        return self._policy.BatchEvaluate(metadata=self._metadata[1:])


StartPolicy = Callable[..., AbstractAsyncContextManager[PolicyMesh]]


async def _make_starter(postgres: str, folder: Path) -> StartPolicy:
    """Makes an empty database and keys; what the starter is given goes into the settings."""
    urls = await provision(postgres, f"comitia_policy_{secrets.token_hex(4)}")
    await migrate("services.policy", urls.migrator)
    clock = SystemClock()
    keys = MeshKeys.make(folder, clock=clock, services=("inference", "tools", "memory", "orchestrator", "policy"))

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[PolicyMesh]:
        values: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "database_url": SecretStr(urls.app),
            "maintenance_database_url": SecretStr(urls.maintenance),
            # Nobody listens there: policy works without the bus.
            "nats_url": SecretStr(f"nats://127.0.0.1:{free_port()}"),
            "jwks_path": keys.jwks_path,
            "workload_key_path": keys.key_path("policy"),
            "workload_jwks_path": keys.workload_jwks_path,
            "guard_wait_seconds": 0,
            "guard_path": keys.guard_path,
            # Rates have tests of their own; here a test may ask as fast as it can.
            "rate_factor": 1000,
            "kek_path": folder / "kek",
            "drain_seconds": 1.0,
        }
        settings = PolicySettings(**{**values, **changes})
        async with (
            policy(settings, clock=clock, ids=SystemIds()) as server,
            serve(server) as serving,
            grpc.aio.insecure_channel(f"127.0.0.1:{serving.port}") as inside,
        ):
            yield PolicyMesh(tenant=TENANT, keys=keys, urls=urls, inside=inside, serving=serving)

    return start


@pytest_asyncio.fixture(loop_scope="module")
async def start_policy(postgres: str, tmp_path: Path) -> StartPolicy:
    """Gives a function that starts policy on a database of this test's own."""
    return await _make_starter(postgres, tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_policy(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyMesh]:
    starter = await _make_starter(postgres, tmp_path_factory.mktemp("policy"))
    async with starter() as running:
        yield running


@pytest.fixture
def mesh(running_policy: PolicyMesh) -> PolicyMesh:
    """One policy service for all tests of a module, and a tenant of its own for each."""
    return replace(running_policy, tenant=TenantId(uuid4()))


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    """Arms failpoints for the test only."""
    yield failpoints.arm
    failpoints.arm("")


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 5.0) -> None:
    """Waits until the condition holds, at most so many seconds."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # what it waits for happens in a server
            await asyncio.sleep(0.02)
