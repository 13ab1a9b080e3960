"""What starting a session makes at the neighbours, and in which order."""

import asyncio
from collections.abc import Sequence

import pytest

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.errors import MeshError, Unavailable
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.errors import RunsAtLimit
from services.orchestrator.domain.session import DEFAULT_ROUNDS, Mode, SessionSpec
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.lane import EngineParts
from services.orchestrator.prompts import load_prompts
from services.orchestrator.transport.convert import agent_to_proto, workflow_to_proto
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.runs_below import RunsBelow
from services.orchestrator.usecases.start_session import StartSession, StartSessionCommand
from tests.support.estimates import NoWorkflows, a_preflight
from tests.support.memory_access_gate import MemoryAccessGate
from tests.support.run_store import HeardEvents, HeldCalls, LocalLive, MemoryRunStore
from tests.support.step_workers import step_pools

ADA = Caller(principal=Principal(tenant=TENANT, subject="key_ada", roles=frozenset(), token=Secret("t")), peer=None)


class Agents:
    """Implements `AgentStore` for agents that all exist."""

    async def add(self, tenant: TenantId, agent: Agent) -> Agent:
        """See `AgentStore.add`."""
        return agent

    async def find(self, tenant: TenantId, name: str, version: str) -> Agent:
        """See `AgentStore.find`."""
        return Agent(name=name, version=version or "1.0.0")

    async def resolve(self, tenant: TenantId, references: Sequence[tuple[str, str]]) -> Sequence[Agent]:
        """See `AgentStore.resolve`."""
        return [await self.find(tenant, name, version) for name, version in references]


class Neighbours:
    """Implements `usecases.ports.Neighbours`; counts what it made."""

    def __init__(self) -> None:
        self.budgets = 0
        #: The project of each, by run.
        self.projects: dict[str, str] = {}
        self.gateway: MeshError | None = None

    async def open_budget(self, caller: Caller, run_id: str, limit: NanoUsd, *, project: str) -> str:
        """See `Neighbours.open_budget`."""
        await asyncio.sleep(0)
        self.budgets += 1
        self.projects[run_id] = project
        return "budget_01jd0000000000000000000000"

    async def issue_grant(self, caller: Caller, run_id: str) -> str:
        """See `Neighbours.issue_grant`."""
        await asyncio.sleep(0)
        if self.gateway is not None:
            raise self.gateway
        return "grant_01jd0000000000000000000000"


class Desk:
    """A replica's use case with its neighbours."""

    def __init__(self, *, max_runs: int = 10) -> None:
        clock, ids = FakeClock(), SystemIds()
        self.store = MemoryRunStore(clock)
        self.calls = HeldCalls()
        self.calls.open.clear()
        self.neighbours = Neighbours()
        self.gate = MemoryAccessGate()
        parts = EngineParts(
            store=self.store,
            calls=self.calls,
            steps=step_pools(clock),
            live=LocalLive(),
            events=HeardEvents(),
            clock=clock,
        )
        self.engine = Engine(
            owner="one/x", parts=parts, ids=ids, limits=EngineLimits(max_runs=max_runs, end_seconds=0.0)
        )
        self._start = StartSession(
            agents=Agents(),
            neighbours=self.neighbours,
            runs=self.engine,
            access=RunAccess(self.gate),
            prompts=load_prompts(),
            agent_facts=agent_to_proto,
            preflight=a_preflight(
                RunsBelow(
                    workflows=NoWorkflows(),
                    workflow_facts=workflow_to_proto,
                    agents=Agents(),
                    agent_facts=agent_to_proto,
                )
            ),
        )

    async def start(self, **fields: object) -> session_pb2.Session:
        """Starts a session."""
        spec = SessionSpec(**{"topic": "Rivers", "mode": Mode.DEBATE, "strategy": 0, "agents": ("Ada",), **fields})  # type: ignore[arg-type]
        return await self._start(StartSessionCommand(caller=ADA, spec=spec))


async def test_what_the_gateway_refuses_leaves_no_budget() -> None:
    desk = Desk()
    desk.neighbours.gateway = Unavailable("gateway")
    async with desk.engine.running_block():
        with pytest.raises(Unavailable):
            await desk.start()
    assert desk.neighbours.budgets == 0


async def test_starts_that_find_no_place_leave_no_budget() -> None:
    desk = Desk(max_runs=2)
    async with desk.engine.running_block():
        started = await asyncio.gather(*(desk.start() for _ in range(6)), return_exceptions=True)
        assert [type(one) for one in started].count(RunsAtLimit) == 4
        assert (desk.neighbours.budgets, len(desk.store.runs), desk.engine.running) == (2, 2, 2)


async def test_a_place_is_given_back_when_nothing_was_started() -> None:
    desk = Desk(max_runs=1)
    async with desk.engine.running_block():
        desk.neighbours.gateway = Unavailable("gateway")
        for _ in range(3):
            with pytest.raises(Unavailable):
                await desk.start()
        desk.neighbours.gateway = None
        await desk.start()


async def test_the_budget_of_a_session_is_of_its_project() -> None:
    desk = Desk()
    async with desk.engine.running_block():
        of_atlas, of_none = await desk.start(metadata={"project": "atlas"}), await desk.start(metadata={"tier": "gold"})
    assert desk.neighbours.projects == {of_atlas.session_id: "atlas", of_none.session_id: ""}


async def test_rounds_left_out_are_three() -> None:
    desk = Desk()
    async with desk.engine.running_block():
        left_out, one = await desk.start(), await desk.start(max_rounds=1)
    assert desk.store.runs[left_out.session_id].view.max_rounds == DEFAULT_ROUNDS == 3
    assert desk.store.runs[one.session_id].view.max_rounds == 1
