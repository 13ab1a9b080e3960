"""What is asked of the record of runs: proto to domain; pure."""

from comitia.orchestrator.v1 import record_service_pb2 as pb
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.once import request_uuid
from services.meshkit.grpc.once import body_of
from services.orchestrator.programs.values import from_struct
from services.orchestrator.record.forking import Place
from services.orchestrator.record.pins import AgentChange, Changes
from services.orchestrator.usecases.fork_run import ForkRunCommand, ForkSpec


def to_fork_command(request: pb.ForkRunRequest, *, caller: Caller) -> ForkRunCommand:
    """Reads what a fork is asked for.

    Raises: Invalid: `request_id` is no UUID, `effects` is none that this release has.
    """
    if request.effects not in (pb.FORK_EFFECTS_UNSPECIFIED, pb.FORK_EFFECTS_DRY, pb.FORK_EFFECTS_REAL):
        raise Invalid("effects", "must be FORK_EFFECTS_DRY or FORK_EFFECTS_REAL")
    spec = ForkSpec(
        run_id=request.run_id,
        place=Place(path=request.path, at_sequence=request.at_sequence),
        changes=Changes(
            topic=request.topic,
            input=from_struct(request.input) if request.HasField("input") else None,
            model=request.model,
            agents=[
                AgentChange(
                    name=change.name,
                    version=change.version,
                    instructions=change.instructions,
                    model=change.model,
                )
                for change in request.agents
            ],
        ),
        dry_effects=request.effects != pb.FORK_EFFECTS_REAL,
        max_cost=request.max_cost_nano_usd,
        policy=request.policy,
    )
    request_id = request_uuid(request.request_id)
    body = body_of(request, caller.principal.project)
    return ForkRunCommand(caller=caller, spec=spec, request=None if request_id is None else (request_id, body))
