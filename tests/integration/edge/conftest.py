"""A real Envoy in front of a real gateway and of an orchestrator that echoes; one set per module."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from comitia.cost.v1 import budget_service_pb2, cost_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceServicer, add_BudgetServiceServicer_to_server
from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2, session_service_pb2
from comitia.orchestrator.v1.agent_service_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from comitia.orchestrator.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import NotFound
from services.meshkit.grpc.server import Server, serve
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.support.edge import RunningEdge, edge_settings, running_edge
from tests.support.gateway import RunningGateway, running_gateway


@dataclass
class EchoAgents(AgentServiceServicer):
    """Answers with what arrived: metadata as JSON in the instructions."""

    calls: int = 0

    async def GetAgent(self, request: agent_service_pb2.GetAgentRequest, context: Any) -> Any:
        self.calls += 1
        if request.name == "nobody":
            raise NotFound("agent", request.name)
        seen = [[key, value if isinstance(value, str) else "…"] for key, value in context.invocation_metadata()]
        agent = agent_pb2.Agent(name=request.name, version=request.version, instructions=json.dumps(seen))
        return agent_service_pb2.GetAgentResponse(agent=agent)

    async def CreateAgent(self, request: agent_service_pb2.CreateAgentRequest, context: Any) -> Any:
        self.calls += 1
        return agent_service_pb2.CreateAgentResponse(agent=request.agent)

    async def ListAgents(self, request: agent_service_pb2.ListAgentsRequest, context: Any) -> Any:
        self.calls += 1
        size = request.page_size
        return agent_service_pb2.ListAgentsResponse(agents=[agent_pb2.Agent(description="x" * size)])


@dataclass
class EchoSessions(SessionServiceServicer):
    """Streams events whose release the test controls."""

    gates: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])

    def gate(self, session: str) -> asyncio.Event:
        return self.gates.setdefault(session, asyncio.Event())

    async def WatchSession(
        self, request: session_service_pb2.WatchSessionRequest, context: Any
    ) -> AsyncIterator[session_service_pb2.WatchSessionResponse]:
        if request.session_id == "none":
            raise NotFound("session", "none")
        for sequence in range(request.after_sequence + 1, 4):
            delta = session_service_pb2.TextDelta(text=f"piece {sequence}")
            yield session_service_pb2.WatchSessionResponse(sequence=sequence, text_delta=delta)
            if sequence == 1:
                await self.gate(request.session_id).wait()
        if request.session_id == "breaks":
            raise NotFound("session", "breaks")

    async def ListTurns(self, request: session_service_pb2.ListTurnsRequest, context: Any) -> Any:
        return session_service_pb2.ListTurnsResponse(next_page_token=f"{request.session_id}/{request.page_size}")

    async def AdvanceSession(self, request: session_service_pb2.AdvanceSessionRequest, context: Any) -> Any:
        answer = session_service_pb2.AdvanceSessionResponse()
        answer.session.session_id = request.session_id
        return answer


class EchoBudgets(BudgetServiceServicer):
    """Answers with the name of the budget that was asked for, and how."""

    async def GetBudget(self, request: budget_service_pb2.GetBudgetRequest, context: Any) -> Any:
        return budget_service_pb2.GetBudgetResponse(budget=cost_pb2.Budget(name=f"get {request.budget_id}"))

    async def GetBudgetStatus(self, request: budget_service_pb2.GetBudgetStatusRequest, context: Any) -> Any:
        return budget_service_pb2.GetBudgetStatusResponse(budget=cost_pb2.Budget(name=f"status {request.budget_id}"))

    async def SetBudgetLimit(self, request: budget_service_pb2.SetBudgetLimitRequest, context: Any) -> Any:
        return budget_service_pb2.SetBudgetLimitResponse(budget=cost_pb2.Budget(name=f"limit {request.budget_id}"))

    async def RemoveBudget(self, request: budget_service_pb2.RemoveBudgetRequest, context: Any) -> Any:
        return budget_service_pb2.RemoveBudgetResponse(budget=cost_pb2.Budget(name=f"remove {request.budget_id}"))


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What a caller outside sees, and what the test looks behind it with."""

    edge: RunningEdge
    gateway: RunningGateway
    keys: MeshKeys
    token: str
    http: aiohttp.ClientSession
    agents: EchoAgents
    sessions: EchoSessions

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    async def rest(self, verb: str, path: str, **options: Any) -> tuple[int, Any]:
        """Calls as the bootstrap admin, unless other headers are given; gives status and JSON."""
        options.setdefault("headers", self.bearer)
        async with self.http.request(verb, self.edge.url + path, **options) as answer:
            return answer.status, await answer.json()


def reason_of(body: Any) -> str:
    """Gives the reason of a `google.rpc.Status` in JSON."""
    return next(detail["reason"] for detail in body["details"] if detail["@type"].endswith("ErrorInfo"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def outside(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outside]:
    folder = tmp_path_factory.mktemp("edge")

    async def make_migrated(service: str) -> DatabaseUrls:
        urls = await provision(postgres, f"comitia_{service}_{token_hex(4)}")
        await migrate(f"services.{service}", urls.migrator)
        return urls

    agents, sessions = EchoAgents(), EchoSessions()  # pyright: ignore[reportAbstractUsage]
    async with running_gateway(make_migrated, folder) as gateway:
        orchestrator = Server(
            name="orchestrator",
            listen="127.0.0.1:0",
            registrations=[
                partial(add_AgentServiceServicer_to_server, agents),
                partial(add_SessionServiceServicer_to_server, sessions),
            ],
            admission=gateway.keys.admission(GUARDS),
            drain_seconds=0.5,
            clock=SystemClock(),
        )
        cost = Server(
            name="cost",
            listen="127.0.0.1:0",
            registrations=[partial(add_BudgetServiceServicer_to_server, EchoBudgets())],  # pyright: ignore[reportAbstractUsage]
            admission=gateway.keys.admission(GUARDS),
            drain_seconds=0.5,
            clock=SystemClock(),
        )
        async with serve(orchestrator) as running, serve(cost) as costing:
            targets = {"orchestrator": f"127.0.0.1:{running.port}", "cost": f"127.0.0.1:{costing.port}"}
            settings = edge_settings(
                {"gateway": gateway.target, **targets},
                jwks=gateway.keys.jwks_path,
                log=folder / "access.log",
            )
            async with running_edge(settings, folder) as edge, aiohttp.ClientSession() as http:
                asked = await http.post(edge.url + "/v1/token", json={"api_key": gateway.admin_key})
                token = (await asked.json())["access_token"]
                yield Outside(
                    edge=edge,
                    gateway=gateway,
                    keys=gateway.keys,
                    token=token,
                    http=http,
                    agents=agents,
                    sessions=sessions,
                )
