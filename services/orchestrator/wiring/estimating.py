"""Puts together estimates: who makes them, who serves them, and who learns from runs."""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from comitia.orchestrator.v1.estimate_service_pb2_grpc import add_EstimateServiceServicer_to_server
from services.meshkit.grpc.server import Background, Registration
from services.orchestrator.clients.budget_levels import CostBudgetLevels
from services.orchestrator.clients.model_prices import MeshModelPrices
from services.orchestrator.storage.estimates import SqlEstimates
from services.orchestrator.transport.convert import agent_to_proto, workflow_to_proto
from services.orchestrator.transport.estimate_servicer import EstimateServicer
from services.orchestrator.usecases.estimate_run import EstimateRun
from services.orchestrator.usecases.estimate_workflow import EstimateSession, EstimateWorkflow
from services.orchestrator.usecases.learn_from_runs import LearnFromRuns
from services.orchestrator.usecases.preflight import Preflight
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.runs_below import RunsBelow
from services.orchestrator.wiring.driving import Driving
from services.orchestrator.wiring.ground import Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimating:
    """What estimates serve and do."""

    preflight: Preflight
    registration: Registration
    background: Background


def estimating(ground: Ground, driving: Driving, *, access: RunAccess, recorded: RecordedRuns) -> Estimating:
    """Gives it."""
    settings = ground.settings
    store = SqlEstimates(app=ground.app, maintenance=ground.maintenance)
    below = RunsBelow(
        workflows=driving.workflows,
        workflow_facts=workflow_to_proto,
        agents=driving.agents,
        agent_facts=agent_to_proto,
    )
    estimate_run = EstimateRun(
        store=store,
        prices=MeshModelPrices(inference=ground.neighbours.inference, cost=ground.neighbours.cost, clock=ground.clock),
        budgets=CostBudgetLevels(ground.neighbours.cost, clock=ground.clock),
        below=below,
    )
    servicer = EstimateServicer(
        estimate_workflow=EstimateWorkflow(estimate_run=estimate_run, below=below, access=access),
        estimate_session=EstimateSession(
            estimate_run=estimate_run, agents=driving.agents, agent_facts=agent_to_proto, access=access
        ),
        estimates=store,
        access=access,
    )
    return Estimating(
        preflight=Preflight(estimate_run, default=settings.default_preflight, own=settings.own_preflights),
        registration=partial(add_EstimateServiceServicer_to_server, servicer),
        background=LearnFromRuns(
            plan=store,
            runs=recorded,
            below=below,
            clock=ground.clock,
            pause=timedelta(seconds=settings.estimate_seconds),
        ),
    )
