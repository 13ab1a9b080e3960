"""Cost as its neighbours see it: a real server on a real Postgres, under a clock that the test moves."""

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
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.common.v1 import usage_pb2
from comitia.cost.v1 import budget_service_pb2 as budget_pb
from comitia.cost.v1 import cost_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from comitia.cost.v1.forecast_service_pb2_grpc import ForecastServiceStub
from comitia.cost.v1.ledger_service_pb2_grpc import LedgerServiceStub
from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub
from services.cost.settings import CostSettings
from services.cost.wiring import cost
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.server import serve
from services.meshkit.sql.database_clock import Reading
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import maintenance_scope
from services.meshkit.testing import failpoints
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT, MeshKeys
from tests.integration.conftest import free_port
from tests.support.money import a_reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class CostMesh:
    """A running cost service and callers of it."""

    #: Tenant of callers that name none.
    tenant: TenantId
    clock: FakeClock
    keys: MeshKeys
    urls: DatabaseUrls
    inside: grpc.aio.Channel
    port: int

    def caller(
        self, *roles: Role, tenant: TenantId | None = None, peer: str | None = "inference", **changes: Any
    ) -> "CostCaller":
        principal = self.keys.principal(*roles, tenant=tenant or self.tenant, **changes)
        return CostCaller(self, principal=principal, peer=peer)

    async def messages(self) -> list[Any]:
        """Reads what waits for the bus, behind the service's back."""
        query = text("SELECT subject, body FROM outbox WHERE tenant_id = :tenant ORDER BY id")
        async with sql_engine(self.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            return list((await scope.execute(query, {"tenant": self.tenant})).all())

    async def until(self, condition: Callable[[], Awaitable[bool]], *, seconds: float = 10) -> None:
        """Lets the mesh's time pass until the condition holds, for at most so many real seconds."""
        async with asyncio.timeout(seconds):
            while not await condition():
                self.clock.advance(seconds=1)
                await asyncio.sleep(0.01)


class CostCaller:
    """One tenant's caller, speaking as a service of the mesh."""

    def __init__(self, mesh: CostMesh, *, principal: Principal, peer: str | None) -> None:
        self.principal = principal
        self._metadata = [("authorization", f"Bearer {principal.token.reveal()}")]
        if peer is not None:
            self._metadata.append(("comitia-workload", mesh.keys.workload(peer).assertion()))
        self._budgets = BudgetServiceStub(mesh.inside)
        self._ledger = LedgerServiceStub(mesh.inside)
        self._pricing = PricingServiceStub(mesh.inside)
        self._forecasts = ForecastServiceStub(mesh.inside)

    async def call(self, method: str, request: Any) -> Any:
        """Calls an RPC by name; a refusal comes as the error that the wire carried."""
        stub: Any = next(
            stub
            for stub in (self._budgets, self._ledger, self._pricing, self._forecasts)
            if getattr(stub, method, None) is not None
        )
        try:
            return await getattr(stub, method)(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None

    def stream(self, method: str, request: Any) -> Any:
        """Calls an RPC of the ledger that answers with a stream."""
        return getattr(self._ledger, method)(request, metadata=self._metadata)

    async def refused(self, method: str, request: Any) -> str:
        """Calls an RPC that must fail; gives its kind and reason, such as `not_found/HOLD_NOT_FOUND`."""
        try:
            answer = await self.call(method, request)
        except MeshError as error:
            return f"{error.kind.value}/{error.reason}"
        raise AssertionError(f"{method} was not refused: {answer}")

    async def reserve(self, **changes: Any) -> cost_pb2.Hold:
        return (await self.call("Reserve", a_reserve(**changes))).hold

    async def dispatch(self, hold: cost_pb2.Hold) -> cost_pb2.Hold:
        return (await self.call("MarkDispatched", budget_pb.MarkDispatchedRequest(hold_id=hold.hold_id))).hold

    async def settle(self, hold: cost_pb2.Hold, **tokens: int) -> cost_pb2.Hold:
        request = budget_pb.SettleRequest(hold_id=hold.hold_id, usage=usage_pb2.Usage(**tokens))
        return (await self.call("Settle", request)).hold

    async def release(self, hold: cost_pb2.Hold, *, unbilled: bool = False) -> cost_pb2.Hold:
        request = budget_pb.ReleaseRequest(hold_id=hold.hold_id, dispatched_unbilled=unbilled)
        return (await self.call("Release", request)).hold

    async def spend(self, *, input_tokens: int = 10, output_tokens: int = 5, **changes: Any) -> cost_pb2.Hold:
        """Reserves, dispatches and settles one call."""
        hold = await self.dispatch(await self.reserve(**changes))
        return await self.settle(hold, input_tokens=input_tokens, output_tokens=output_tokens)

    async def budget(self, budget_id: str = "tenant") -> cost_pb2.Budget:
        return (await self.call("GetBudget", budget_pb.GetBudgetRequest(budget_id=budget_id))).budget

    async def limit(self, limit: int, budget_id: str = "tenant") -> cost_pb2.Budget:
        request = budget_pb.SetBudgetLimitRequest(budget_id=budget_id, limit_nano_usd=limit)
        return (await self.call("SetBudgetLimit", request)).budget

    async def events(self, **changes: Any) -> list[cost_pb2.CostEvent]:
        return list((await self.call("ListCostEvents", ledger_pb.ListCostEventsRequest(**changes))).cost_events)

    def batch(self) -> Any:
        """Opens a batch stream. It carries the assertion of the peer only; items name their tokens."""
        return self._budgets.BatchSpend(metadata=self._metadata[1:])


async def the_tests_time(_: AsyncEngine, clock: Clock) -> Reading:
    """Has the database show the time that the test moves."""
    return Reading(shown=clock.now(), asked=clock.monotonic(), answered=clock.monotonic())


StartCost = Callable[..., AbstractAsyncContextManager[CostMesh]]


async def _make_starter(postgres: str, folder: Path) -> StartCost:
    """Makes an empty database and keys; what the starter is given goes into the settings."""
    urls = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", urls.migrator)
    clock = FakeClock()
    keys = MeshKeys.make(folder, clock=clock, services=("inference", "orchestrator", "gateway", "cost"))

    @asynccontextmanager
    async def start(*, machine: Clock | None = None, **changes: Any) -> AsyncIterator[CostMesh]:
        """Starts a replica whose database goes by the test's clock, or on a machine with a clock of its own."""
        values: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "database_url": SecretStr(urls.app),
            "maintenance_database_url": SecretStr(urls.maintenance),
            # Nobody listens there: cost works without the bus.
            "nats_url": SecretStr(f"nats://127.0.0.1:{free_port()}"),
            "jwks_path": keys.jwks_path,
            "workload_key_path": keys.key_path("cost"),
            "workload_jwks_path": keys.workload_jwks_path,
            "guard_wait_seconds": 0,
            "guard_path": keys.guard_path,
            # Rates have tests of their own; here a test may ask as fast as it can.
            "rate_factor": 1000,
            "kek_path": folder / "kek",
            "drain_seconds": 1.0,
        }
        settings = CostSettings(**{**values, **changes})
        if machine is None:
            built = cost(settings, clock=clock, ids=SystemIds(), read_clock=the_tests_time)
        else:
            built = cost(settings, clock=machine, ids=SystemIds())
        async with (
            built as server,
            serve(server) as running,
            grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as inside,
        ):
            theirs = keys if machine is None else MeshKeys.read(folder, clock=machine)
            yield CostMesh(tenant=TENANT, clock=clock, keys=theirs, urls=urls, inside=inside, port=running.port)

    return start


@pytest_asyncio.fixture(loop_scope="module")
async def start_cost(postgres: str, tmp_path: Path) -> StartCost:
    """Gives a function that starts cost on a database of this test's own."""
    return await _make_starter(postgres, tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_cost(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CostMesh]:
    starter = await _make_starter(postgres, tmp_path_factory.mktemp("cost"))
    async with starter() as running:
        yield running


@pytest.fixture
def mesh(running_cost: CostMesh) -> CostMesh:
    """One cost service for all tests of a module, and a tenant of its own for each."""
    return replace(running_cost, tenant=TenantId(uuid4()))


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    """Arms failpoints for the test only."""
    yield failpoints.arm
    failpoints.arm("")
