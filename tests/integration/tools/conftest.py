"""Tools as callers see them: the real service and the real cost on real Postgres; law, embedder and web are fakes."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from pydantic import SecretStr
from sqlalchemy import text

from comitia.common.v1 import content_pb2
from comitia.cost.v1 import budget_service_pb2, cost_pb2, ledger_service_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from comitia.cost.v1.ledger_service_pb2_grpc import LedgerServiceStub
from comitia.tools.v1 import tool_service_pb2 as pb
from comitia.tools.v1.tool_service_pb2_grpc import ToolServiceStub
from services.cost.settings import CostSettings
from services.cost.wiring import cost
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.server import serve
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from services.meshkit.testing import failpoints
from services.meshkit.testing.mesh_keys import MeshKeys
from services.tools.settings import ToolsSettings
from services.tools.wiring import tools
from tests.integration.conftest import free_port
from tests.support.fake_inference import FakeInference, fake_inference
from tests.support.fake_leases import FakeLeases, fake_leases
from tests.support.fake_policy import FakePolicy, fake_policy, keys_in
from tests.support.web_site import WebSite, web_site


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What tools stands among: one database, cost, law, embedder and web site for all tests of a module."""

    folder: Path
    keys: MeshKeys
    urls: DatabaseUrls
    cost_target: str
    law: FakePolicy
    inference: FakeInference
    leases: FakeLeases
    site: WebSite

    @asynccontextmanager
    async def start(self, **changes: Any) -> AsyncGenerator["ToolsMesh"]:
        values = _settings("tools", self.urls, self.keys, self.folder) | {
            "policy_target": self.law.target,
            "cost_target": self.cost_target,
            "inference_target": self.inference.target,
            "gateway_target": self.leases.target,
            "http_allowed_hosts": ("127.0.0.1", "localhost"),
            "allow_private_addresses": True,
            "sweep_seconds": 0.05,
        }
        settings = ToolsSettings.model_validate({**values, **changes})
        async with (
            tools(settings, clock=SystemClock(), ids=SystemIds()) as server,
            serve(server) as running,
            grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
            grpc.aio.insecure_channel(self.cost_target) as money,
        ):
            yield ToolsMesh(around=self, channel=channel, money=money, principal=self.keys.principal())


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsMesh:
    """A running tools service and one caller of it."""

    around: Surroundings
    channel: grpc.aio.Channel
    money: grpc.aio.Channel
    principal: Principal
    #: Service that calls; None for an outside caller.
    peer: str | None = None

    @property
    def law(self) -> FakePolicy:
        return self.around.law

    @property
    def site(self) -> WebSite:
        return self.around.site

    def speaking_as(
        self, *roles: Role, tenant: TenantId | None = None, peer: str | None = None, **changes: Any
    ) -> "ToolsMesh":
        principal = self.around.keys.principal(*roles, tenant=tenant or self.principal.tenant, **changes)
        return replace(self, principal=principal, peer=peer)

    def _metadata(self) -> list[tuple[str, str]]:
        metadata = list(call_metadata(self.principal))
        if self.peer is not None:
            metadata.append(("comitia-workload", self.around.keys.workload(self.peer).assertion()))
        return metadata

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        """Calls an RPC; a refusal comes as the error that the wire carried."""
        try:
            return await getattr(ToolServiceStub(self.channel), method)(request, metadata=self._metadata(), **options)
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None

    async def refused(self, method: str, request: Any, **options: Any) -> str:
        """Calls an RPC that must fail; gives kind, reason and field."""
        try:
            answer = await self.call(method, request, **options)
        except MeshError as error:
            return "/".join(part for part in (error.kind.value, error.reason, error.field) if part)
        raise AssertionError(f"{method} was not refused: {answer}")

    async def register(self, **changes: Any) -> pb.Tool:
        return (await self.call("RegisterTool", pb.RegisterToolRequest(tool=a_tool(**changes)))).tool

    async def invoke(self, name: str, **request: Any) -> pb.Invocation:
        return (await self.call("InvokeTool", an_invoke(name, **request))).invocation

    async def compute(self, expression: str, **request: Any) -> pb.Invocation:
        return await self.invoke("calculator", arguments={"expression": expression}, **request)

    async def fetch(self, url: str, **request: Any) -> pb.Invocation:
        return await self.invoke("http_get", arguments={"url": url}, **request)

    async def stream(self, name: str, **request: Any) -> tuple[list[str], pb.Invocation]:
        """Gives the text pieces and the finished call."""
        asked = an_invoke(name, kind=pb.StreamInvokeToolRequest, **request)
        try:
            stream = ToolServiceStub(self.channel).StreamInvokeTool(asked, metadata=self._metadata())
            events = [event async for event in stream]
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert all(event.WhichOneof("event") == "text_delta" for event in events[:-1])
        return [event.text_delta for event in events[:-1]], events[-1].invocation

    async def budget(self) -> cost_pb2.Budget:
        request = budget_service_pb2.GetBudgetRequest(budget_id="tenant")
        stub: Any = BudgetServiceStub(self.money)
        return (await stub.GetBudget(request, metadata=call_metadata(self.principal))).budget

    async def limit(self, nano_usd: int) -> None:
        request = budget_service_pb2.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=nano_usd)
        stub: Any = BudgetServiceStub(self.money)
        await stub.SetBudgetLimit(request, metadata=call_metadata(self.principal))

    async def not_released(self, hold_id: str) -> str:
        """Gives the reason why cost does not free a hold as one of a call that never left."""
        stub: Any = BudgetServiceStub(self.money)
        request = budget_service_pb2.ReleaseRequest(hold_id=hold_id)
        try:
            await stub.Release(request, metadata=self.speaking_as(peer="tools")._metadata())
        except grpc.aio.AioRpcError as error:
            return remote_error(error).reason
        raise AssertionError(f"{hold_id} was released")

    async def charges(self) -> list[cost_pb2.CostEvent]:
        stub: Any = LedgerServiceStub(self.money)
        request = ledger_service_pb2.ListCostEventsRequest()
        return list((await stub.ListCostEvents(request, metadata=call_metadata(self.principal))).cost_events)

    async def rows(self, columns: str = "*") -> list[Any]:
        """Reads the tenant's calls behind the service's back."""
        query = text(f"SELECT {columns} FROM invocation WHERE tenant_id = :tenant ORDER BY create_time")
        urls = self.around.urls
        async with sql_engine(urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            return list((await scope.execute(query, {"tenant": self.principal.tenant})).all())

    async def break_token(self, path: str) -> None:
        """Makes the token that a call is to be settled with one that no key opens."""
        statement = text("UPDATE invocation SET token = 'x' WHERE tenant_id = :tenant AND path = :path")
        async with (
            sql_engine(self.around.urls.app, pool_size=1) as engine,
            tenant_scope(engine, self.principal.tenant) as scope,
        ):
            await scope.execute(statement, {"tenant": self.principal.tenant, "path": path})
            await scope.commit()

    async def until_settled(self, *states: str) -> None:
        """Waits until the tenant's calls are settled like this."""

        async def settled() -> bool:
            return [row.settle_state for row in await self.rows("settle_state")] == list(states)

        await until(settled)


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 10) -> None:
    """Waits until the condition holds."""
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


class StartTools(Protocol):
    """Starts tools; what it is given goes into the settings."""

    def __call__(self, **changes: Any) -> AbstractAsyncContextManager[ToolsMesh]: ...


def a_struct(value: dict[str, Any]) -> Struct:
    message = Struct()
    message.update(value)
    return message


def a_tool(**changes: Any) -> pb.Tool:
    """A calculator by another name."""
    schema = changes.pop("input_schema", {"type": "object", "properties": {"expression": {"type": "string"}}})
    output = changes.pop("output_schema", None)
    values: dict[str, Any] = {
        "name": "sums",
        "description": "Adds numbers.",
        "execution_mode": pb.EXECUTION_MODE_BUILTIN,
        "builtin": "calculator",
        "input_schema": a_struct(schema),
    }
    if output is not None:
        values["output_schema"] = a_struct(output)
    return pb.Tool(**{**values, **changes})


def a_template(url: str, *, hosts: tuple[str, ...] = ("127.0.0.1",), **changes: Any) -> dict[str, Any]:
    """What makes a tool one that fills a URL."""
    places = {"city": {"type": "string"}, "q": {"type": "string"}, "words": {"type": "integer"}}
    return {
        "name": "weather",
        "builtin": "",
        "execution_mode": pb.EXECUTION_MODE_HTTP_GET,
        "input_schema": {"type": "object", "properties": places},
        "http_get": pb.HttpGetSettings(url_template=url, allowed_hosts=hosts, max_response_bytes=262_144),
        **changes,
    }


def a_context(path: str = "rounds/1/Athena", *, run_id: str = "essay_1", index: int = 0, **changes: Any) -> Any:
    call_id = content_pb2.CallId(run_id=run_id, path=path, call_index=index)
    return content_pb2.CallContext(call_id=call_id, **changes)


def an_invoke(name: str, *, kind: Any = pb.InvokeToolRequest, path: str = "", **changes: Any) -> Any:
    arguments = changes.pop("arguments", None)
    values: dict[str, Any] = {"name": name}
    if arguments is not None:
        values["arguments"] = a_struct(arguments)
    if path:
        values["context"] = a_context(path)
    return kind(**{**values, **changes})


def text_of(invocation: pb.Invocation) -> str:
    return "\n".join(part.text.text for part in invocation.parts)


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def surroundings(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Surroundings]:
    folder = tmp_path_factory.mktemp("tools")
    keys = keys_in(folder / "keys", SystemClock())
    create_kek_file(folder / "kek")

    async def make_database(service: str) -> DatabaseUrls:
        urls = await provision(postgres, f"comitia_{service}_{secrets.token_hex(4)}")
        await migrate(f"services.{service}", urls.migrator)
        return urls

    urls, cost_urls = await make_database("tools"), await make_database("cost")
    settings = CostSettings.model_validate(_settings("cost", cost_urls, keys, folder))
    async with (
        web_site() as site,
        fake_policy(keys) as law,
        fake_inference(keys) as inference,
        fake_leases(keys) as leases,
        cost(settings, clock=SystemClock(), ids=SystemIds()) as server,
        serve(server) as money,
    ):
        yield Surroundings(
            folder=folder,
            keys=keys,
            urls=urls,
            cost_target=f"127.0.0.1:{money.port}",
            law=law,
            inference=inference,
            leases=leases,
            site=site,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_tools(surroundings: Surroundings) -> AsyncIterator[ToolsMesh]:
    async with surroundings.start() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(surroundings: Surroundings) -> AsyncIterator[Principal]:
    """Makes law and site forget the test before, and gives a tenant that nobody has seen."""
    surroundings.law.forget()
    surroundings.site.asked.clear()
    surroundings.site.headers.clear()
    surroundings.site.released.clear()
    surroundings.inference.asked.clear()
    surroundings.inference.answers.set()
    yield surroundings.keys.principal(tenant=TenantId(uuid4()))
    failpoints.arm("")
    surroundings.site.released.set()


@pytest.fixture
def mesh(running_tools: ToolsMesh, fresh: Principal) -> ToolsMesh:
    """Tools that may reach the web site on this machine."""
    return replace(running_tools, principal=fresh)


@pytest.fixture
def start(surroundings: Surroundings, fresh: Principal) -> StartTools:
    """Gives a function that starts another tools service with settings of its own."""

    @asynccontextmanager
    async def started(**changes: Any) -> AsyncGenerator[ToolsMesh]:
        async with surroundings.start(**changes) as running:
            yield replace(running, principal=fresh)

    return started
