"""Names every concrete class of the orchestrator, top to bottom."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from random import Random

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from comitia.orchestrator.v1.record_service_pb2_grpc import add_RecordServiceServicer_to_server
from comitia.orchestrator.v1.run_service_pb2_grpc import add_RunServiceServicer_to_server
from comitia.orchestrator.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from comitia.orchestrator.v1.workflow_service_pb2_grpc import add_WorkflowServiceServicer_to_server
from services.meshkit.audit.trail import service_audit
from services.meshkit.batching.threads import Threads
from services.meshkit.blobs.store import blob_store
from services.meshkit.bus.bus import bus
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.server import Server
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard import access_gate
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.sealing import sealing
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData
from services.orchestrator.clients.embedder import MeshEmbedder
from services.orchestrator.clients.live_events import live_events
from services.orchestrator.clients.neighbours import TurnNeighbours, generations, memories
from services.orchestrator.clients.provenance_signer import GatewayProvenanceSigner
from services.orchestrator.clients.run_events import STREAM, EraseRunEvents, run_events
from services.orchestrator.clients.run_preparation import RunPreparation
from services.orchestrator.clients.run_tokens import RunTokens
from services.orchestrator.clients.tool_versions import ToolCatalogue
from services.orchestrator.clients.worker_loans import WorkerLoans
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.journal import JournalBlobs, JournalCodec
from services.orchestrator.engine.lane import EngineParts
from services.orchestrator.engine.run_reader import RunReader
from services.orchestrator.engine.step_pools import PoolLimits, StepPools
from services.orchestrator.engine.watch import RunWatch
from services.orchestrator.programs.run import PROGRAMS
from services.orchestrator.prompts import load_prompts
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.storage.agent_repository import AgentRepository
from services.orchestrator.storage.blob_sweep import SweepBlobs, TenantObjects
from services.orchestrator.storage.journal_months import JournalMonths
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.replicas import SqlReplicas
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.run_store import SqlRunStore
from services.orchestrator.storage.tenant_data import TENANT_DATA
from services.orchestrator.storage.turn_history import SqlTurnHistory
from services.orchestrator.storage.workflow_repository import WorkflowRepository
from services.orchestrator.transport.agent_servicer import AgentServicer
from services.orchestrator.transport.convert import agent_to_proto, workflow_to_proto
from services.orchestrator.transport.record_servicer import RecordServicer
from services.orchestrator.transport.run_servicer import RunServicer
from services.orchestrator.transport.session_servicer import SessionServicer
from services.orchestrator.transport.worker_servicer import WorkerLoanServicer, WorkerServicer
from services.orchestrator.transport.workflow_servicer import WorkflowServicer
from services.orchestrator.usecases.archive_runs import ArchiveRuns
from services.orchestrator.usecases.ask_agent import AskAgent
from services.orchestrator.usecases.create_agent import CreateAgent
from services.orchestrator.usecases.create_workflow import CreateWorkflow
from services.orchestrator.usecases.diff_runs import DiffRuns
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.fork_run import ForkRun
from services.orchestrator.usecases.pin_workflow import PinWorkflow
from services.orchestrator.usecases.prepare_sub_run import PrepareSubRun
from services.orchestrator.usecases.prove_run import ProveRun
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.replay_run import ReplayRun
from services.orchestrator.usecases.review_workflow import ReviewWorkflow
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.start_run import StartRun
from services.orchestrator.usecases.start_session import StartSession
from services.orchestrator.usecases.steer import Steering
from services.orchestrator.usecases.steer_run import CancelRun, PauseRun, ResumeRun, SignalRun
from services.orchestrator.usecases.steer_session import AdvanceSession, CancelSession
from services.orchestrator.usecases.stream_turns import StreamTurns
from services.orchestrator.worker.caller import Caller


@asynccontextmanager
async def orchestrator(settings: OrchestratorSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens everything the orchestrator needs; leaving hands its runs back and closes it."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        size = settings.database_connections
        app = await enter(sql_engine(settings.database_url.get_secret_value(), pool_size=size))
        commits = await enter(sql_engine(settings.database_url.get_secret_value(), pool_size=1))
        maintenance = await enter(sql_engine(settings.maintenance_database_url.get_secret_value(), pool_size=size))
        nats = await enter(bus(settings.nats_url.get_secret_value(), streams=(STREAM,)))
        signer = workload_identity(settings, "orchestrator", clock=clock)
        audit = await enter(service_audit("orchestrator", SqlAuditStore(app=app, maintenance=maintenance), clock=clock))
        guard = await enter(
            mesh_guard(settings, GUARDS, service="orchestrator", clock=clock, workload=signer, audit=audit)
        )
        connect = partial(channel, identity=signer)
        gateway = await enter(connect(settings.gateway_target, idempotent=access_gate.IDEMPOTENT))
        memory = await enter(connect(settings.memory_target))
        inference = await enter(connect(settings.inference_target))
        tools = await enter(connect(settings.tools_target))
        cost = await enter(connect(settings.cost_target))

        sealed = await enter(
            sealing(
                settings,
                service="orchestrator",
                app=app,
                maintenance=maintenance,
                tenants=guard.feed,
                clock=clock,
                ids=ids,
            )
        )
        objects = blob_store(settings.object_store)
        codec = JournalCodec(sealed.keys, JournalBlobs(store=objects, most_inline=settings.max_inline_bytes))
        store = SqlRunStore(app=app, commits=commits, maintenance=maintenance, codec=codec, tenants=guard.feed)
        live = await enter(live_events(nats, clock=clock))
        events = await enter(run_events(nats, clock=clock))
        agents = AgentRepository(app, tenants=guard.feed)
        workflows = WorkflowRepository(app, tenants=guard.feed)
        preparation = RunPreparation(cost=cost, gateway=gateway)
        pin_workflow = PinWorkflow(
            workflows=workflows,
            workflow_facts=workflow_to_proto,
            agents=agents,
            agent_facts=agent_to_proto,
            tools=ToolCatalogue(tools),
            prompts=load_prompts(),
        )
        calls = Caller(
            neighbours=TurnNeighbours(
                memories=await enter(memories(memory, clock=clock)),
                generations=await enter(generations(inference, clock=clock)),
                inference=inference,
                tools=tools,
            ),
            sub_runs=PrepareSubRun(pin_workflow=pin_workflow, neighbours=preparation, clock=clock),
            tokens=RunTokens(gateway, clock=clock),
            clock=clock,
            random=Random(),
        )
        steps = StepPools(
            clock=clock,
            limits=PoolLimits(
                workers=settings.max_workers,
                workers_of_tenant=settings.max_workers_per_tenant,
                waiting=settings.max_waiting_steps,
                waiting_of_tenant=settings.max_waiting_steps_per_tenant,
            ),
        )
        owner = f"{settings.replica}/{ids.uuid()}"
        loans = WorkerLoans(
            steps,
            replicas=SqlReplicas(maintenance, owner=owner, address=settings.reached_at),
            connect=partial(connect, service="orchestrator"),
            clock=clock,
        )
        engine = Engine(
            owner=owner,
            parts=EngineParts(store=store, calls=calls, steps=steps, live=live, events=events, clock=clock),
            ids=ids,
            limits=EngineLimits(max_runs=settings.max_runs),
        )
        threads = await enter(
            Threads(
                "orchestrator.workflows",
                threads=settings.workflow_threads,
                most_waiting=settings.max_waiting_workflows,
            )
        )
        review = ReviewWorkflow(agents=agents, workflows=workflows, threads=threads)
        gate = access_gate.GatewayAccessGate(gateway, clock=clock)
        gate.show("orchestrator")
        access = RunAccess(gate)
        reader, watch = RunReader(store), RunWatch(journal=store, live=live)
        steer_session = Steering(runs=engine, given=store, look=reader.session, access=access)
        start_session = StartSession(
            agents=agents,
            neighbours=preparation,
            runs=engine,
            access=access,
            prompts=load_prompts(),
            agent_facts=agent_to_proto,
        )
        sessions = SessionServicer(
            start_session=start_session,
            advance_session=AdvanceSession(steer_session),
            cancel_session=CancelSession(steer_session),
            sessions=reader,
            watch=watch,
            access=access,
        )
        steer_run = Steering(runs=engine, given=store, look=reader.run, access=access)
        runs = RunServicer(
            start_run=StartRun(
                pin_workflow=pin_workflow, neighbours=preparation, runs=engine, access=access, clock=clock
            ),
            pause_run=PauseRun(steer_run),
            resume_run=ResumeRun(steer_run, steps=reader.steps),
            cancel_run=CancelRun(steer_run),
            signal_run=SignalRun(steer_run),
            stream_turns=StreamTurns(history=SqlTurnHistory(app), facts=store),
            runs=reader,
            watch=watch,
            access=access,
        )
        archive = SqlRunArchive(maintenance=maintenance, keys=sealed.keys, objects=objects)
        recorded = RecordedRuns(records=SqlRecordStore(app=app, codec=codec, archive=archive), access=access)
        records = RecordServicer(
            replay_run=ReplayRun(runs=recorded, programs=PROGRAMS),
            fork_run=ForkRun(
                recorded=recorded,
                agents=agents,
                agent_facts=agent_to_proto,
                neighbours=preparation,
                runs=engine,
                access=access,
                programs=PROGRAMS,
                clock=clock,
            ),
            diff_runs=DiffRuns(runs=recorded, embedder=MeshEmbedder(inference, ids=ids)),
            export_run=ExportRun(runs=recorded),
            prove_run=ProveRun(runs=recorded, signer=GatewayProvenanceSigner(gateway)),
        )
        await enter(engine.running_block())
        yield Server(
            name="orchestrator",
            listen=settings.listen,
            registrations=[
                partial(
                    add_AgentServiceServicer_to_server,
                    AgentServicer(
                        create_agent=CreateAgent(agents=agents),
                        ask_agent=AskAgent(start_session=start_session, watch=watch, access=access),
                        agents=agents,
                    ),
                ),
                partial(add_SessionServiceServicer_to_server, sessions),
                partial(add_RunServiceServicer_to_server, runs),
                WorkerServicer(steps, loans).registration,
                WorkerLoanServicer(steps).registration,
                partial(add_RecordServiceServicer_to_server, records),
                partial(
                    add_WorkflowServiceServicer_to_server,
                    WorkflowServicer(
                        create_workflow=CreateWorkflow(review=review, workflows=workflows),
                        review=review,
                        workflows=workflows,
                    ),
                ),
                TenantData(
                    TenantRows("orchestrator", maintenance, TENANT_DATA),
                    tenants=guard.feed,
                    others=(EraseRunEvents(nats), TenantObjects(objects)),
                    before=(engine.stop,),
                ).registration,
                *guard.registrations,
            ],
            admission=guard.admission,
            tls=signer.tls,
            refusals=audit.refusals,
            background=(
                loans.keep,
                ForgetRequests(maintenance, clock=clock),
                JournalMonths(maintenance, clock=clock),
                ArchiveRuns(
                    archive=archive,
                    runs=recorded,
                    clock=clock,
                    keep=timedelta(days=settings.run_hot_days),
                    own=settings.own_retentions,
                    pause=timedelta(seconds=settings.run_archive_seconds),
                ),
                SweepBlobs(
                    maintenance,
                    objects,
                    clock=clock,
                    grace=timedelta(hours=settings.blob_grace_hours),
                    pause=timedelta(seconds=settings.blob_sweep_seconds),
                ),
                *sealed.background,
                *guard.background,
            ),
            ready=guard.ready,
            metrics_listen=settings.metrics_listen,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
