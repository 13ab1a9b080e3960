"""Reads what a worker says of a step as the fact that settles it."""

import re
from math import isfinite
from typing import Final

from google.protobuf import struct_pb2

from comitia.orchestrator.v1 import journal_pb2, worker_service_pb2
from services.meshkit.core.errors import ErrorKind, MeshError
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.wire import head_of

#: Largest output, encoded.
MAX_OUTPUT_BYTES: Final = 256 * 1024
MAX_MESSAGE: Final = 4_000
#: Largest outcome that is passed on: an output, or a failure with its message, and little more.
MAX_OUTCOME_BYTES: Final = MAX_OUTPUT_BYTES + 1_024
#: Where an encoded value may hold a number that is not finite: tag, six bytes, and an exponent of ones. It is found in
#: other places too, but rarely, so that a value is walked through only when there may be a reason.
_NOT_FINITE: Final = re.compile(rb"\x11.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)


#: Refusals that stay until somebody asks otherwise, or is allowed more.
_STANDING: Final = frozenset(
    {
        ErrorKind.INVALID,
        ErrorKind.UNAUTHENTICATED,
        ErrorKind.DENIED,
        ErrorKind.NOT_FOUND,
        ErrorKind.EXISTS,
        ErrorKind.PRECONDITION,
    }
)
#: Failures that may pass by themselves.
_PASSING: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.CANCELLED})
#: Another replica makes the call: its answer is there for whoever asks again.
_BEING_MADE: Final = "CALL_IN_PROGRESS"
#: Limits that a person has to raise; trying again would only wait for nothing.
_STANDING_LIMITS: Final = frozenset({"BUDGET_EXHAUSTED", "BUDGET_DEGRADES"})
#: What cost says of a budget whose money is not spent: calls in progress hold it, and give some of it back.
_HELD: Final = "held"


class OutcomeRefused(Exception):
    """The outcome is none that can be recorded. The lease goes on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def fact_of_output(call: CallKey, output: struct_pb2.Value) -> journal_pb2.JournalEntry:
    """Writes an output as the fact that settles a call.

    Raises: OutcomeRefused: OUTPUT_TOO_LARGE, OUTPUT_NOT_JSON.
    """
    result = _encoded(output)
    fact = journal_pb2.JournalEntry()
    answered = fact.call_answered
    fact.path, answered.call_index = call
    answered.kind = journal_pb2.CALL_KIND_STEP
    answered.response = result
    return fact


def fact_of_failure(call: CallKey, failure: worker_service_pb2.StepFailure) -> journal_pb2.JournalEntry:
    """Writes a failure as the fact that settles a call."""
    return failed(call, failure.reason or "STEP_FAILED", failure.message[:MAX_MESSAGE], final=failure.permanent)


def check(outcome: worker_service_pb2.StepOutcome) -> None:
    """Looks whether it can be recorded, for whoever passes it on, and cuts it.

    Raises: OutcomeRefused, as `fact_of_output`.
    """
    if outcome.HasField("output"):
        _encoded(outcome.output)
    elif outcome.HasField("failure"):
        outcome.failure.message = outcome.failure.message[:MAX_MESSAGE]
    # It may hold what this release does not know, and the next replica takes no more than 4 MB at once.
    if outcome.ByteSize() > MAX_OUTCOME_BYTES:
        raise OutcomeRefused("OUTPUT_TOO_LARGE")


def _encoded(output: struct_pb2.Value) -> bytes:
    encoded = output.SerializeToString()
    if len(encoded) > MAX_OUTPUT_BYTES:
        raise OutcomeRefused("OUTPUT_TOO_LARGE")
    # `StepResult(output=output)` as it would be encoded, without the copy.
    result = head_of(len(encoded)) + encoded
    if _NOT_FINITE.search(result) is not None and not _is_json(output):
        raise OutcomeRefused("OUTPUT_NOT_JSON")
    return result


def stands(error: MeshError) -> bool:
    """Says whether the same call would fail again: law, money, permission or a wrong argument stopped it."""
    return error.kind in _STANDING or (error.kind is ErrorKind.EXHAUSTED and error.retry_after is None)


def may_pass(error: MeshError) -> bool:
    """Says whether the same call can succeed later without anybody's help."""
    if error.kind is ErrorKind.EXHAUSTED:
        return held_by_others(error) or (error.reason not in _STANDING_LIMITS and error.retry_after is not None)
    return error.kind in _PASSING or error.reason == _BEING_MADE


def held_by_others(error: MeshError) -> bool:
    """Says whether the money of a call is there and only held by others, who were waited for in vain."""
    return error.reason == "BUDGET_EXHAUSTED" and error.metadata.get("cause") == _HELD


def failed(call: CallKey, reason: str, message: str, *, final: bool = False) -> journal_pb2.JournalEntry:
    """Writes the failure of a call.

    Args:
        final: True when the same would fail again.
    """
    path, call_index = call
    return journal_pb2.JournalEntry(
        path=path,
        call_failed=journal_pb2.CallFailed(
            call_index=call_index,
            kind=journal_pb2.CALL_KIND_STEP,
            reason=reason,
            message=message,
            final=final,
        ),
    )


def _is_json(value: struct_pb2.Value) -> bool:
    match value.WhichOneof("kind"):
        case "number_value":
            return isfinite(value.number_value)
        case "struct_value":
            return all(map(_is_json, value.struct_value.fields.values()))
        case "list_value":
            return all(map(_is_json, value.list_value.values))
        case _:
            return True
