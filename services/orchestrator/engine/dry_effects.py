"""What a dry fork does in place of acting on the world: it answers from the record of the run that it was forked from.

Models and memory are asked as in any run. Tools, workers and sub-runs are not: what they did is done, and what they
would do is nobody's wish yet.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

from google.protobuf.message import DecodeError, Message

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2
from comitia.orchestrator.v1 import journal_pb2
from comitia.tools.v1 import tool_service_pb2
from services.orchestrator.programs.commands import MODEL_CALLS, encoded

FORK_IS_DRY: Final = "FORK_IS_DRY"
_SENTENCE: Final = (
    "this run is a dry fork, so nothing was called; the run that it was forked from made no such call. Fork with real "
    "effects to have it made"
)
#: Kinds of calls that may act on the world.
ACTING: Final = frozenset({journal_pb2.CALL_KIND_TOOL, journal_pb2.CALL_KIND_STEP, journal_pb2.CALL_KIND_RUN})
_WHOLE: Final[Mapping[int, type[Message]]] = {
    journal_pb2.CALL_KIND_TOOL: tool_service_pb2.InvokeToolRequest,
    journal_pb2.CALL_KIND_STEP: journal_pb2.StepTask,
    journal_pb2.CALL_KIND_RUN: journal_pb2.SubRunTask,
}
_COSTLY: Final[Mapping[int, type[Message]]] = {
    **dict.fromkeys(MODEL_CALLS, generation_pb2.Generation),
    journal_pb2.CALL_KIND_TOOL: tool_service_pb2.Invocation,
    journal_pb2.CALL_KIND_RUN: journal_pb2.StepResult,
}
_PAID: Final = ("cost_nano_usd", "usage")
#: What of a request belongs to its run alone.
_OF_ITS_RUN: Final = ("context", "choice_label", "request_id", "run_id", "input_label")


def digest_of(call: journal_pb2.CallIntended) -> bytes:
    """Gives the name under which the answer to a call is found again. Raises: DecodeError."""
    asked = _WHOLE[call.kind].FromString(call.request)
    clear(asked, _OF_ITS_RUN)
    return sha256(bytes([call.kind]) + encoded(asked)).digest()


def dry_outcome(started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry) -> journal_pb2.JournalEntry | None:
    """Gives what comes of a call in a dry fork; None for one that is to be made."""
    call = intended.call_intended
    if not started.fork.dry_effects or call.kind not in ACTING:
        return None
    entry = journal_pb2.JournalEntry(path=intended.path)
    answer = _recorded(started.fork, intended)
    if answer is not None or call.kind == journal_pb2.CALL_KIND_TOOL:
        response = encoded(_unmade(call)) if answer is None else answer
        entry.call_answered.CopyFrom(
            journal_pb2.CallAnswered(call_index=call.call_index, kind=call.kind, response=response)
        )
        return unpaid(entry)
    entry.call_failed.CopyFrom(
        journal_pb2.CallFailed(
            call_index=call.call_index, kind=call.kind, reason=FORK_IS_DRY, message=_SENTENCE, final=True
        )
    )
    return entry


def unpaid(entry: journal_pb2.JournalEntry) -> journal_pb2.JournalEntry:
    """Gives an answer that a fork takes over without what it cost: the other run has paid for it."""
    answered = entry.call_answered
    kind = _COSTLY.get(answered.kind) if entry.HasField("call_answered") else None
    if kind is not None:
        response = kind.FromString(answered.response)
        clear(response, _PAID)
        answered.response = encoded(response)
    return entry


def clear(message: Message, names: Iterable[str]) -> None:
    """Empties those of these fields that a message has."""
    for name in names:
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)


def _recorded(fork: journal_pb2.Fork, intended: journal_pb2.JournalEntry) -> bytes | None:
    """Finds what the same call was answered: of the same place and position, else of the same place, else of any."""
    path, call = intended.path, intended.call_intended
    try:
        wanted = digest_of(call)
    except DecodeError:
        return None
    same = [answer for answer in fork.answers if answer.request_digest == wanted]
    here = [answer for answer in same if answer.path == path]
    exactly = [answer for answer in here if answer.call_index == call.call_index]
    return next((answer.response for answer in (*exactly, *here, *same)), None)


def _unmade(call: journal_pb2.CallIntended) -> tool_service_pb2.Invocation:
    """Tells the model that nothing was called, so that it can go on."""
    asked = tool_service_pb2.InvokeToolRequest.FromString(call.request)
    part = content_pb2.Part(text=content_pb2.TextPart(text=f"{FORK_IS_DRY}: {_SENTENCE}"))
    part.label.integrity = content_pb2.INTEGRITY_TRUSTED
    return tool_service_pb2.Invocation(parts=[part], failed=True, tool=asked.name)
