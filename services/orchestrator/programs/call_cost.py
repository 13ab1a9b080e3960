"""What a call cost, as its answer says."""

from comitia.inference.v1 import generation_pb2
from comitia.orchestrator.v1 import journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Usage
from services.meshkit.content.proto import usage_from_proto
from services.orchestrator.programs.commands import MODEL_CALLS


def cost_of(answered: journal_pb2.CallAnswered) -> tuple[int, Usage | None]:
    """Gives the nano-USD that a call cost, and what it used of a model, if it is of a kind that asks one."""
    match answered.kind:
        case kind if kind in MODEL_CALLS:
            generation = generation_pb2.Generation.FromString(answered.response)
            return generation.cost_nano_usd, usage_from_proto(generation.usage)
        case journal_pb2.CALL_KIND_TOOL:
            return tool_service_pb2.Invocation.FromString(answered.response).cost_nano_usd, None
        case journal_pb2.CALL_KIND_RUN:
            result = journal_pb2.StepResult.FromString(answered.response)
            return result.cost_nano_usd, usage_from_proto(result.usage)
        case _:
            return 0, None
