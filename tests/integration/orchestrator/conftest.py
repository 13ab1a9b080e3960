"""The orchestrator on real Postgres and NATS; the neighbours' answers come from a `World`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import (
    agent_service_pb2_grpc,
    estimate_service_pb2_grpc,
    journal_pb2,
    record_service_pb2_grpc,
    run_service_pb2_grpc,
    session_service_pb2_grpc,
    workflow_service_pb2_grpc,
)
from services.meshkit.batching.threads import Threads
from services.meshkit.blobs.directory import BlobDirectory
from services.meshkit.bus.bus import bus
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError, NotFound
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.testing.local_server import LocalServer, local_server
from services.orchestrator.clients.live_events import live_events
from services.orchestrator.clients.run_events import STREAM, run_events
from services.orchestrator.domain.errors import BundleNotFound
from services.orchestrator.domain.preflight import PreflightMode
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.journal import JournalBlobs, JournalCodec
from services.orchestrator.engine.lane import EngineParts
from services.orchestrator.engine.ports import Outcome
from services.orchestrator.engine.run import OwnedRun
from services.orchestrator.engine.run_reader import RunReader
from services.orchestrator.engine.watch import RunWatch
from services.orchestrator.programs.run import PROGRAMS
from services.orchestrator.prompts import load_prompts
from services.orchestrator.record.comparing import Vector
from services.orchestrator.storage.agent_repository import AgentRepository
from services.orchestrator.storage.estimates import SqlEstimates
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.run_store import SqlRunStore
from services.orchestrator.storage.turn_history import SqlTurnHistory
from services.orchestrator.storage.workflow_repository import WorkflowRepository
from services.orchestrator.transport.agent_servicer import AgentServicer
from services.orchestrator.transport.convert import agent_to_proto, workflow_to_proto
from services.orchestrator.transport.estimate_servicer import EstimateServicer
from services.orchestrator.transport.record_servicer import RecordServicer
from services.orchestrator.transport.run_servicer import RunServicer
from services.orchestrator.transport.session_servicer import SessionServicer
from services.orchestrator.transport.workflow_servicer import WorkflowServicer
from services.orchestrator.usecases.ask_agent import AskAgent
from services.orchestrator.usecases.create_agent import CreateAgent
from services.orchestrator.usecases.create_workflow import CreateWorkflow
from services.orchestrator.usecases.diff_runs import DiffRuns
from services.orchestrator.usecases.estimate_run import EstimateRun
from services.orchestrator.usecases.estimate_workflow import EstimateSession, EstimateWorkflow
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.fork_run import ForkRun
from services.orchestrator.usecases.learn_from_runs import LearnFromRuns
from services.orchestrator.usecases.pin_workflow import PinWorkflow
from services.orchestrator.usecases.preflight import Preflight
from services.orchestrator.usecases.prove_run import ProveRun
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.replay_run import ReplayRun
from services.orchestrator.usecases.review_workflow import ReviewWorkflow
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.runs_below import RunsBelow
from services.orchestrator.usecases.start_run import StartRun
from services.orchestrator.usecases.start_session import StartSession
from services.orchestrator.usecases.steer import Steering
from services.orchestrator.usecases.steer_run import CancelRun, PauseRun, ResumeRun, SignalRun
from services.orchestrator.usecases.steer_session import AdvanceSession, CancelSession
from services.orchestrator.usecases.stream_turns import StreamTurns
from tests.integration.conftest import MakeDatabase, NatsServer
from tests.support.estimates import FixedBudgets, FixedPrices
from tests.support.kept_runs import ShiftedClock
from tests.support.known_tenants import KnownTenants
from tests.support.memory_access_gate import MemoryAccessGate
from tests.support.sessions import World
from tests.support.step_workers import step_pools

OTHER_TENANT = TenantId(SystemIds().uuid())


class WorldCalls:
    """Implements `engine.ports.Calls` by asking the world; can hold answers back."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.open = asyncio.Event()
        self.open.set()
        self.parked_first = False

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        if self.parked_first:
            outcome.parked(intended.path, "UNAVAILABLE", "the neighbour does not answer")
            await asyncio.sleep(0)
        while True:
            # Again and again while it is held back, for a watcher that came late has missed the first.
            await outcome.delta(intended.path, "live ")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await self.open.wait()
                return self.world.answer(intended)


class Preparation:
    """Implements `usecases.ports.Neighbours`; counts what it made."""

    def __init__(self) -> None:
        self.budgets = 0
        #: The project of each, by run.
        self.projects: dict[str, str] = {}

    async def open_budget(self, caller: Caller, run_id: str, limit: NanoUsd, *, project: str) -> str:
        """See `Neighbours.open_budget`."""
        self.budgets += 1
        self.projects[run_id] = project
        return "budget_01jd0000000000000000000000"

    async def issue_grant(self, caller: Caller, run_id: str) -> str:
        """See `Neighbours.issue_grant`."""
        return "grant_01jd0000000000000000000000"


class NoTools:
    """Implements `usecases.ports.ToolVersions` where there are none."""

    async def latest(self, caller: Caller, name: str) -> str:
        """See `ToolVersions.latest`."""
        raise NotFound("tool", name)


class TextEmbedder:
    """Implements `usecases.diff_runs.Embedder` by the length of a text; refuses while it is told to."""

    def __init__(self) -> None:
        self.refusal: MeshError | None = None
        self.asked: list[str] = []

    async def vectors(
        self, caller: Caller, texts: Sequence[str], *, of_run: journal_pb2.RunStarted
    ) -> Sequence[Vector]:
        """See `Embedder.vectors`."""
        if self.refusal is not None:
            raise self.refusal
        self.asked += texts
        return [("lengths", [float(len(text)), 1.0]) for text in texts]


class Bundles:
    """Implements `usecases.ports.Bundles`: every bundle is there but one."""

    async def digest(self, caller: Caller, bundle: str) -> str:
        """See `Bundles.digest`."""
        if bundle.startswith("missing@"):
            raise BundleNotFound(bundle, field="policy")
        return sha256(bundle.encode()).hexdigest()


class PlainSigner:
    """Implements `usecases.prove_run.ProvenanceSigner` without a key: the gateway's own tests are about that."""

    async def sign(self, caller: Caller, statement: bytes) -> tuple[str, str]:
        """See `ProvenanceSigner.sign`."""
        return statement.decode(), "{}"


@dataclass(slots=True, kw_only=True)
class Replica:
    """One running orchestrator."""

    server: LocalServer
    engine: Engine
    store: SqlRunStore
    calls: WorldCalls
    preparation: Preparation
    agents: "agent_service_pb2_grpc.AgentServiceAsyncStub"
    sessions: "session_service_pb2_grpc.SessionServiceAsyncStub"
    runs: "run_service_pb2_grpc.RunServiceAsyncStub"
    records: "record_service_pb2_grpc.RecordServiceAsyncStub"
    workflows: "workflow_service_pb2_grpc.WorkflowServiceAsyncStub"
    estimates: "estimate_service_pb2_grpc.EstimateServiceAsyncStub"
    #: What learns from runs, a round at a time, as if they had begun two minutes ago.
    learning: LearnFromRuns
    learnt: SqlEstimates

    def as_tenant(self, tenant: TenantId | None = None) -> tuple[tuple[str, str], ...]:
        """Gives the metadata of an administrator of the tenant."""
        principal: Principal = (
            self.server.keys.principal() if tenant is None else self.server.keys.principal(tenant=tenant)
        )
        return call_metadata(principal)


@dataclass(slots=True, kw_only=True)
class House:
    """Starts and stops replicas on one database."""

    urls: DatabaseUrls
    nats: NatsServer
    folder: Path
    world: World
    gate: MemoryAccessGate = field(default_factory=MemoryAccessGate)
    #: What the gateway tells all replicas.
    tenants: KnownTenants = field(default_factory=KnownTenants)
    embedder: TextEmbedder = field(default_factory=TextEmbedder)
    prices: FixedPrices = field(default_factory=FixedPrices)
    budgets: FixedBudgets = field(default_factory=FixedBudgets)

    async def replica(self, stack: AsyncExitStack, *, name: str = "one", max_runs: int = 50) -> Replica:
        """Starts a replica that lives until the stack is left."""
        clock, ids = SystemClock(), SystemIds()
        app: AsyncEngine = await stack.enter_async_context(sql_engine(self.urls.app, pool_size=4))
        maintenance = await stack.enter_async_context(sql_engine(self.urls.maintenance, pool_size=4))
        nats = await stack.enter_async_context(bus(self.nats.url, token=self.nats.token, streams=[STREAM]))
        await nats.wait_connected()
        kek = self.folder / "kek"
        create_kek_file(kek)
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(kek), clock=clock, ids=ids)
        objects = BlobDirectory(self.folder / "objects")
        codec = JournalCodec(keys, JournalBlobs(store=objects, most_inline=262_144))
        store = SqlRunStore(app=app, commits=app, maintenance=maintenance, codec=codec, tenants=self.tenants)
        await stack.enter_async_context(store.running())
        live = await stack.enter_async_context(live_events(nats, clock=clock))
        calls = WorldCalls(self.world)
        events = await stack.enter_async_context(run_events(nats, clock=clock))
        parts = EngineParts(store=store, calls=calls, steps=step_pools(clock), live=live, events=events, clock=clock)
        owner = f"{name}/{ids.uuid()}"
        engine = Engine(owner=owner, parts=parts, ids=ids, limits=EngineLimits(max_runs=max_runs, end_seconds=0.0))
        agents = AgentRepository(app, tenants=self.tenants)
        workflows = WorkflowRepository(app, tenants=self.tenants)
        threads = await stack.enter_async_context(Threads("orchestrator.workflows", threads=1, most_waiting=64))
        review = ReviewWorkflow(agents=agents, workflows=workflows, threads=threads)
        preparation = Preparation()
        access = RunAccess(self.gate)
        below = RunsBelow(
            workflows=workflows, workflow_facts=workflow_to_proto, agents=agents, agent_facts=agent_to_proto
        )
        learnt = SqlEstimates(app=app, maintenance=maintenance)
        later = ShiftedClock()
        later.shift = timedelta(minutes=2)
        estimate_run = EstimateRun(store=learnt, prices=self.prices, budgets=self.budgets, below=below)
        preflight = Preflight(estimate_run, default=PreflightMode.OFF, own={})
        estimates = EstimateServicer(
            estimate_workflow=EstimateWorkflow(estimate_run=estimate_run, below=below, access=access),
            estimate_session=EstimateSession(
                estimate_run=estimate_run, agents=agents, agent_facts=agent_to_proto, access=access
            ),
            estimates=learnt,
            access=access,
        )
        start = StartSession(
            agents=agents,
            neighbours=preparation,
            runs=engine,
            access=access,
            prompts=load_prompts(),
            agent_facts=agent_to_proto,
            preflight=preflight,
        )
        reader = RunReader(store.journal)
        steer_session = Steering(runs=engine, given=store.inbox, look=reader.session, access=access)
        watch = RunWatch(journal=store.journal, live=live)
        sessions = SessionServicer(
            start_session=start,
            advance_session=AdvanceSession(steer_session),
            cancel_session=CancelSession(steer_session),
            sessions=reader,
            watch=watch,
            access=access,
        )
        steer_run = Steering(runs=engine, given=store.inbox, look=reader.seen, access=access)
        pin_workflow = PinWorkflow(
            workflows=workflows,
            workflow_facts=workflow_to_proto,
            agents=agents,
            agent_facts=agent_to_proto,
            tools=NoTools(),
            prompts=load_prompts(),
        )
        runs = RunServicer(
            start_run=StartRun(
                pin_workflow=pin_workflow,
                preflight=preflight,
                neighbours=preparation,
                runs=engine,
                access=access,
                clock=clock,
            ),
            pause_run=PauseRun(steer_run),
            resume_run=ResumeRun(steer_run, steps=reader.steps),
            cancel_run=CancelRun(steer_run),
            signal_run=SignalRun(steer_run),
            stream_turns=StreamTurns(history=SqlTurnHistory(app), facts=store.journal, access=access),
            runs=reader,
            watch=watch,
            access=access,
        )
        archive = SqlRunArchive(maintenance=maintenance, keys=keys, objects=objects)
        recorded = RecordedRuns(records=SqlRecordStore(app=app, codec=codec, archive=archive), access=access)
        records = RecordServicer(
            replay_run=ReplayRun(runs=recorded, programs=PROGRAMS),
            fork_run=ForkRun(
                recorded=recorded,
                agents=agents,
                agent_facts=agent_to_proto,
                neighbours=preparation,
                runs=engine,
                bundles=Bundles(),
                access=access,
                programs=PROGRAMS,
                clock=clock,
            ),
            diff_runs=DiffRuns(runs=recorded, embedder=self.embedder),
            export_run=ExportRun(runs=recorded),
            prove_run=ProveRun(runs=recorded, signer=PlainSigner()),
        )
        await stack.enter_async_context(engine.running_block())
        folder = self.folder / owner.replace("/", "-")
        folder.mkdir()
        server = await stack.enter_async_context(
            local_server(
                partial(
                    agent_service_pb2_grpc.add_AgentServiceServicer_to_server,
                    AgentServicer(
                        create_agent=CreateAgent(agents=agents),
                        ask_agent=AskAgent(start_session=start, watch=watch, access=access),
                        agents=agents,
                    ),
                ),
                partial(session_service_pb2_grpc.add_SessionServiceServicer_to_server, sessions),
                partial(run_service_pb2_grpc.add_RunServiceServicer_to_server, runs),
                partial(record_service_pb2_grpc.add_RecordServiceServicer_to_server, records),
                partial(estimate_service_pb2_grpc.add_EstimateServiceServicer_to_server, estimates),
                partial(
                    workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server,
                    WorkflowServicer(
                        create_workflow=CreateWorkflow(review=review, workflows=workflows),
                        review=review,
                        workflows=workflows,
                    ),
                ),
                guards=GUARDS,
                folder=folder,
                name="orchestrator",
            )
        )
        return Replica(
            server=server,
            engine=engine,
            store=store,
            calls=calls,
            preparation=preparation,
            agents=agent_service_pb2_grpc.AgentServiceStub(server.channel),
            sessions=session_service_pb2_grpc.SessionServiceStub(server.channel),
            runs=run_service_pb2_grpc.RunServiceStub(server.channel),
            records=record_service_pb2_grpc.RecordServiceStub(server.channel),
            workflows=workflow_service_pb2_grpc.WorkflowServiceStub(server.channel),
            estimates=estimate_service_pb2_grpc.EstimateServiceStub(server.channel),
            learning=LearnFromRuns(plan=learnt, runs=recorded, below=below, clock=later, pause=timedelta(seconds=1)),
            learnt=learnt,
        )


@pytest.fixture
async def house(make_migrated: MakeDatabase, nats_server: NatsServer, tmp_path: Path) -> House:
    """Gives a migrated database on which replicas can start."""
    urls = await make_migrated("orchestrator")
    return House(urls=urls, nats=nats_server, folder=tmp_path, world=World())


@pytest.fixture
async def replica(house: House) -> AsyncIterator[Replica]:
    """Gives one running replica."""
    async with AsyncExitStack() as stack:
        yield await house.replica(stack)
