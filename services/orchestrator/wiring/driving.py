"""Puts together what drives runs: the journal, the calls that runs make, workers, and the engine."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

from services.meshkit.blobs.store import BlobStore, blob_store
from services.meshkit.grpc.channel import channel
from services.orchestrator.clients.acknowledgements import acknowledging
from services.orchestrator.clients.live_events import live_events
from services.orchestrator.clients.neighbours import TurnNeighbours, generations, memories
from services.orchestrator.clients.run_events import run_events
from services.orchestrator.clients.run_preparation import RunPreparation
from services.orchestrator.clients.run_tokens import RunTokens
from services.orchestrator.clients.tool_versions import ToolCatalogue
from services.orchestrator.clients.worker_loans import WorkerLoans
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.journal import JournalBlobs, JournalCodec
from services.orchestrator.engine.lane import EngineParts
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.step_room import PoolLimits
from services.orchestrator.engine.watch import RunWatch
from services.orchestrator.prompts import load_prompts
from services.orchestrator.storage.agent_repository import AgentRepository
from services.orchestrator.storage.replicas import SqlReplicas
from services.orchestrator.storage.run_store import SqlRunStore
from services.orchestrator.storage.run_trees import SqlRunTrees
from services.orchestrator.storage.storage_used import SqlStorageRoom
from services.orchestrator.storage.workflow_repository import WorkflowRepository
from services.orchestrator.transport.convert import agent_to_proto, workflow_to_proto
from services.orchestrator.usecases.pin_workflow import PinWorkflow
from services.orchestrator.usecases.prepare_sub_run import PrepareSubRun
from services.orchestrator.wiring.ground import Ground
from services.orchestrator.worker.caller import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Driving:
    """What drives runs, and what the doors share with it."""

    objects: BlobStore
    codec: JournalCodec
    store: SqlRunStore
    agents: AgentRepository
    workflows: WorkflowRepository
    preparation: RunPreparation
    pin_workflow: PinWorkflow
    steps: StepPools
    loans: WorkerLoans
    watch: RunWatch
    engine: Engine


@asynccontextmanager
async def driving(ground: Ground) -> AsyncGenerator[Driving]:
    """Opens it while the block runs; the engine itself runs once its `running_block` is entered."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        settings, clock, neighbours = ground.settings, ground.clock, ground.neighbours
        objects = blob_store(settings.object_store)
        codec = JournalCodec(ground.sealed.keys, JournalBlobs(store=objects, most_inline=settings.max_inline_bytes))
        store = SqlRunStore(
            app=ground.app,
            commits=ground.commits,
            maintenance=ground.maintenance,
            codec=codec,
            tenants=ground.guard.feed,
        )
        await enter(store.running())
        live = await enter(live_events(ground.nats, clock=clock))
        agents = AgentRepository(ground.app, tenants=ground.guard.feed)
        workflows = WorkflowRepository(ground.app, tenants=ground.guard.feed)
        preparation = RunPreparation(cost=neighbours.cost, gateway=neighbours.gateway)
        pin_workflow = PinWorkflow(
            workflows=workflows,
            workflow_facts=workflow_to_proto,
            agents=agents,
            agent_facts=agent_to_proto,
            tools=ToolCatalogue(neighbours.tools),
            prompts=load_prompts(),
        )
        to_models = await enter(generations(neighbours.inference, clock=clock))
        tokens = RunTokens(neighbours.gateway, clock=clock)
        acknowledgements = await enter(acknowledging(to_models, tokens, clock=clock))
        calls = Caller(
            neighbours=TurnNeighbours(
                memories=await enter(memories(neighbours.memory, clock=clock)),
                generations=to_models,
                inference=neighbours.inference,
                tools=neighbours.tools,
            ),
            sub_runs=PrepareSubRun(
                trees=SqlRunTrees(ground.app), pin_workflow=pin_workflow, neighbours=preparation, clock=clock
            ),
            tokens=tokens,
            storage=SqlStorageRoom(app=ground.app, tenants=ground.guard.feed, clock=clock),
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
        owner = f"{settings.replica}/{ground.ids.uuid()}"
        loans = WorkerLoans(
            steps,
            replicas=SqlReplicas(ground.maintenance, owner=owner, address=settings.reached_at),
            connect=partial(channel, identity=ground.signer, service="orchestrator"),
            clock=clock,
        )
        events = await enter(run_events(ground.nats, clock=clock))
        engine = Engine(
            owner=owner,
            parts=EngineParts(
                store=store,
                calls=calls,
                steps=steps,
                live=live,
                events=events,
                clock=clock,
                settled=acknowledgements.add,
            ),
            ids=ground.ids,
            limits=EngineLimits(max_runs=settings.max_runs, end_seconds=settings.drain_seconds),
        )
        yield Driving(
            objects=objects,
            codec=codec,
            store=store,
            agents=agents,
            workflows=workflows,
            preparation=preparation,
            pin_workflow=pin_workflow,
            steps=steps,
            loans=loans,
            watch=RunWatch(journal=store.journal, live=live),
            engine=engine,
        )
