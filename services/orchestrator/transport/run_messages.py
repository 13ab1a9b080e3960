"""What is asked of runs: proto to domain; pure."""

from datetime import timedelta

from comitia.orchestrator.v1 import run_service_pb2
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.money import NanoUsd
from services.orchestrator.domain.run import RunSpec
from services.orchestrator.engine.run import RunKind
from services.orchestrator.programs.values import from_struct
from services.orchestrator.transport.convert import key_of
from services.orchestrator.usecases.start_run import StartRunCommand


def to_start_run_command(request: run_service_pb2.StartRunRequest, *, caller: Caller) -> StartRunCommand:
    """Reads what a run is asked for.

    Raises: Invalid: `request_id` is no UUID, `deadline` is none.
    """
    spec = RunSpec(
        workflow=request.workflow,
        input=from_struct(request.input),
        max_cost=NanoUsd(request.max_cost_nano_usd),
        deadline=_deadline_of(request),
        metadata=dict(request.metadata),
        model=request.model,
    )
    return StartRunCommand(caller=caller, spec=spec, key=key_of(request, caller, RunKind.RUN))


def _deadline_of(request: run_service_pb2.StartRunRequest) -> timedelta | None:
    if not request.HasField("deadline"):
        return None
    try:
        return request.deadline.ToTimedelta()
    except (ValueError, OverflowError) as cause:
        raise Invalid("deadline", "must be a duration") from cause
