"""Inference as its callers see it: the real service and the real cost on real Postgres; law and provider are fakes."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import text

from comitia.common.v1 import content_pb2
from comitia.cost.v1 import budget_service_pb2, cost_pb2, ledger_service_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from comitia.cost.v1.ledger_service_pb2_grpc import LedgerServiceStub
from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from comitia.inference.v1.model_service_pb2_grpc import ModelServiceStub
from services.cost.settings import CostSettings
from services.cost.wiring import cost
from services.inference.settings import InferenceSettings
from services.inference.wiring import inference
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.server import serve
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import maintenance_scope
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.conftest import MakeDatabase, free_port
from tests.support.fake_policy import FakePolicy, fake_policy, keys_in
from tests.support.held_calls import held_calls
from tests.support.providers.fake import KEY, FakeProvider, fake_provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """The real cost service."""

    target: str
    #: Address of its database for a role that sees all tenants.
    url: str
    #: Carries the assertion of inference.
    channel: grpc.aio.Channel
    outside: grpc.aio.Channel


@dataclass(kw_only=True)
class InferenceMesh:
    """A running inference service and one tenant's caller."""

    target: str
    keys: MeshKeys
    urls: DatabaseUrls
    principal: Principal
    law: FakePolicy
    provider: FakeProvider
    money: Money
    channel: grpc.aio.Channel

    def speaking_as(self, principal: Principal) -> "InferenceMesh":
        return replace(self, principal=principal)

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        models: Any = ModelServiceStub(self.channel)
        stub: Any = models if hasattr(models, method) else InferenceServiceStub(self.channel)
        try:
            return await getattr(stub, method)(request, metadata=call_metadata(self.principal), **options)
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None

    async def refused(self, method: str, request: Any, **options: Any) -> str:
        """Calls an RPC that must fail; gives kind, reason and field."""
        try:
            answer = await self.call(method, request, **options)
        except MeshError as error:
            return "/".join(part for part in (error.kind.value, error.reason, error.field) if part)
        raise AssertionError(f"{method} was not refused: {answer}")

    async def generate(self, *texts: str, **changes: Any) -> Any:
        return (await self.call("Generate", a_request(*texts, **changes))).generation

    def stream(self, **changes: Any) -> Any:
        request = a_request(kind=pb.StreamGenerateRequest, **changes)
        return InferenceServiceStub(self.channel).StreamGenerate(request, metadata=call_metadata(self.principal))

    async def budget(self) -> cost_pb2.Budget:
        request = budget_service_pb2.GetBudgetRequest(budget_id="tenant")
        stub: Any = BudgetServiceStub(self.money.outside)
        return (await stub.GetBudget(request, metadata=call_metadata(self.principal))).budget

    async def limit(self, nano_usd: int) -> None:
        request = budget_service_pb2.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=nano_usd)
        stub: Any = BudgetServiceStub(self.money.outside)
        await stub.SetBudgetLimit(request, metadata=call_metadata(self.principal))

    async def degrade(self, *, limit: int, warn_at_percent: int) -> None:
        request = budget_service_pb2.SetBudgetRequest(
            scope=cost_pb2.BUDGET_SCOPE_TENANT,
            limit_nano_usd=limit,
            mode=cost_pb2.BUDGET_MODE_DEGRADE,
            warn_at_percent=warn_at_percent,
        )
        stub: Any = BudgetServiceStub(self.money.outside)
        await stub.SetBudget(request, metadata=call_metadata(self.principal))

    async def charges(self) -> list[cost_pb2.CostEvent]:
        stub: Any = LedgerServiceStub(self.money.outside)
        request = ledger_service_pb2.ListCostEventsRequest()
        return list((await stub.ListCostEvents(request, metadata=call_metadata(self.principal))).cost_events)

    async def rows(self, columns: str = "*") -> list[Any]:
        """Reads the tenant's calls behind the service's back."""
        query = text(f"SELECT {columns} FROM call WHERE tenant_id = :tenant ORDER BY created_time")
        async with sql_engine(self.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            return list((await scope.execute(query, {"tenant": self.principal.tenant})).all())


class StartInference(Protocol):
    """Starts inference; what it is given goes into the settings."""

    def __call__(self, **changes: Any) -> AbstractAsyncContextManager[InferenceMesh]: ...


def a_message(text_: str = "Should cities ban cars?", role: int = content_pb2.MESSAGE_ROLE_USER) -> content_pb2.Message:
    label = content_pb2.Label(integrity=content_pb2.INTEGRITY_USER, sources=["user:anna"])
    part = content_pb2.Part(text=content_pb2.TextPart(text=text_), label=label)
    return content_pb2.Message(role=role, parts=[part])  # type: ignore[arg-type]


def a_context(path: str = "", run_id: str = "essay_01", **changes: Any) -> content_pb2.CallContext:
    return content_pb2.CallContext(call_id=content_pb2.CallId(run_id=run_id, path=path), **changes)


def a_request(*texts: str, kind: Any = pb.GenerateRequest, path: str = "", **changes: Any) -> Any:
    values: dict[str, Any] = {"messages": [a_message(one) for one in texts] or [a_message()], "max_output_tokens": 64}
    if path:
        values["context"] = a_context(path)
    return kind(**{**values, **changes})


@asynccontextmanager
async def running_cost(make_database: MakeDatabase, keys: MeshKeys, folder: Path) -> AsyncGenerator[Money]:
    urls = await make_database("cost")
    await migrate("services.cost", urls.migrator)
    settings = CostSettings.model_validate(_settings("cost", urls, keys, folder))
    async with (
        cost(settings, clock=SystemClock(), ids=SystemIds()) as server,
        serve(server) as running,
        channel(f"127.0.0.1:{running.port}", identity=keys.workload("inference")) as inside,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as outside,
    ):
        yield Money(target=f"127.0.0.1:{running.port}", url=urls.maintenance, channel=inside, outside=outside)


def _settings(service: str, urls: DatabaseUrls, keys: MeshKeys, folder: Path) -> dict[str, Any]:
    return {
        "listen": "127.0.0.1:0",
        "database_url": SecretStr(urls.app),
        "maintenance_database_url": SecretStr(urls.maintenance),
        # Nobody listens there.
        "nats_url": SecretStr(f"nats://127.0.0.1:{free_port()}"),
        "jwks_path": keys.jwks_path,
        "workload_key_path": keys.key_path(service),
        "workload_jwks_path": keys.workload_jwks_path,
        "guard_wait_seconds": 0,
        "guard_path": keys.guard_path,
        # Rates have tests of their own; here a test may ask as fast as it can.
        "rate_factor": 1000,
        "kek_path": folder / "kek",
        "drain_seconds": 1.0,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What inference stands among: one database, one cost, one law and one provider for all tests of a module."""

    folder: Path
    keys: MeshKeys
    urls: DatabaseUrls
    money: Money
    law: FakePolicy
    provider: FakeProvider

    @asynccontextmanager
    async def start(self, **changes: Any) -> AsyncGenerator[InferenceMesh]:
        values = _settings("inference", self.urls, self.keys, self.folder) | {
            "policy_target": self.law.target,
            "cost_target": self.money.target,
            "openai_api_key": SecretStr(KEY),
            "openai_base_url": self.provider.openai_base_url,
            "stub_enabled": True,
        }
        settings = InferenceSettings.model_validate({**values, **changes})
        async with (
            inference(settings, clock=SystemClock(), ids=SystemIds()) as server,
            serve(server) as running,
            grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as opened,
        ):
            yield InferenceMesh(
                target=f"127.0.0.1:{running.port}",
                keys=self.keys,
                urls=self.urls,
                principal=self.keys.principal(),
                law=self.law,
                provider=self.provider,
                money=self.money,
                channel=opened,
            )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def surroundings(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Surroundings]:
    folder = tmp_path_factory.mktemp("inference")
    keys = keys_in(folder / "keys", SystemClock())
    create_kek_file(folder / "kek")

    async def make_database(service: str) -> DatabaseUrls:
        return await provision(postgres, f"comitia_{service}_{secrets.token_hex(4)}")

    urls = await make_database("inference")
    await migrate("services.inference", urls.migrator)
    async with (
        fake_provider() as provider,
        fake_policy(keys) as law,
        running_cost(make_database, keys, folder) as money,
        held_calls(money.url) as ledger,
    ):
        provider.ledger = ledger
        yield Surroundings(folder=folder, keys=keys, urls=urls, money=money, law=law, provider=provider)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_inference(surroundings: Surroundings) -> AsyncIterator[InferenceMesh]:
    async with surroundings.start() as running:
        yield running


@pytest.fixture
def fresh(surroundings: Surroundings) -> Iterator[Principal]:
    """Makes law and provider forget the test before, and gives a tenant that nobody has seen."""
    surroundings.law.forget()
    surroundings.provider.forget()
    yield surroundings.keys.principal(tenant=TenantId(uuid4()))
    assert surroundings.provider.meter.unheld == []


@pytest.fixture
def mesh(running_inference: InferenceMesh, fresh: Principal) -> InferenceMesh:
    """Inference with OpenAI and the stub configured."""
    return running_inference.speaking_as(fresh)


@pytest.fixture
def start(surroundings: Surroundings, fresh: Principal) -> StartInference:
    """Gives a function that starts another inference service with settings of its own."""

    @asynccontextmanager
    async def started(**changes: Any) -> AsyncGenerator[InferenceMesh]:
        async with surroundings.start(**changes) as running:
            yield running.speaking_as(fresh)

    return started
