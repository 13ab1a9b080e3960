"""What is asked of estimates, and what is told of them: proto to domain and back. Pure."""

from comitia.orchestrator.v1 import estimate_pb2, run_pb2, session_service_pb2
from comitia.orchestrator.v1 import estimate_service_pb2 as pb
from services.meshkit.core.identity import Caller
from services.meshkit.core.money import NanoUsd
from services.orchestrator.domain.run import RunSpec
from services.orchestrator.programs.values import from_struct
from services.orchestrator.transport.convert import session_spec
from services.orchestrator.usecases.estimate_message import set_ranges
from services.orchestrator.usecases.estimate_ports import EstimatedRun
from services.orchestrator.usecases.estimate_workflow import EstimateSessionQuery, EstimateWorkflowQuery
from services.orchestrator.usecases.run_access import PROJECT


def to_workflow_query(request: pb.EstimateWorkflowRequest, *, caller: Caller) -> EstimateWorkflowQuery:
    """Reads which run is to be estimated."""
    spec = RunSpec(
        workflow=request.workflow,
        input=from_struct(request.input),
        max_cost=NanoUsd(request.max_cost_nano_usd),
        metadata=_labels(request.project),
        model=request.model,
    )
    return EstimateWorkflowQuery(caller=caller, spec=spec)


def to_session_query(request: pb.EstimateSessionRequest, *, caller: Caller) -> EstimateSessionQuery:
    """Reads which session is to be estimated."""
    asked = session_service_pb2.StartSessionRequest(
        topic=request.topic,
        mode=request.mode,
        strategy=request.strategy,
        agents=request.agents,
        max_rounds=request.max_rounds if request.HasField("max_rounds") else None,
        convergence=request.convergence,
        max_cost_nano_usd=request.max_cost_nano_usd,
        model=request.model,
        metadata=_labels(request.project),
        moderator=request.moderator,
        strategy_step=request.strategy_step if request.HasField("strategy_step") else None,
    )
    return EstimateSessionQuery(caller=caller, spec=session_spec(asked))


def estimated_to_proto(run: EstimatedRun) -> estimate_pb2.EstimatedRun:
    """Writes what a run was estimated at and took."""
    message = estimate_pb2.EstimatedRun(
        run_id=run.run_id,
        reference=run.reference,
        input_tokens=run.actual[0],
        output_tokens=run.actual[1],
        cost_nano_usd=run.actual[2],
        work_milliseconds=run.actual[3],
    )
    message.estimate.calibrated_on = run.calibrated_on
    set_ranges(message.estimate, run.estimated)
    message.end_time.FromDatetime(run.end_time)
    return message


def as_run(run: EstimatedRun) -> run_pb2.Run:
    """Gives what decides who may see it."""
    return run_pb2.Run(run_id=run.run_id, metadata=_labels(run.project))


def _labels(project: str) -> dict[str, str]:
    return {PROJECT: project} if project else {}
