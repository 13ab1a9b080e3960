"""What others are told of recorded facts. Pure: what a commit wrote in, events out."""

from collections.abc import Iterator
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, run_event_pb2, session_pb2
from services.meshkit.core.ids import from_uuid
from services.orchestrator.engine.run import RunWrite

_TENANT: Final = "tenant"
#: Facts that are told of, and as what. All others are the run's own business.
_TOLD: Final = {
    "run_started": "started",
    "run_waiting": "waiting",
    "run_paused": "paused",
    "run_resumed": "resumed",
    "run_continued": "resumed",
    "run_advanced": "resumed",
    "run_parked": "parked",
    "step_parked": "step_parked",
    "step_completed": "turn_recorded",
    "run_cancelling": "cancelling",
    "run_ended": "",
    "run_abandoned": "cancelled",
}
_ENDS: Final = {
    session_pb2.SESSION_STATE_SUCCEEDED: "succeeded",
    session_pb2.SESSION_STATE_FAILED: "failed",
    session_pb2.SESSION_STATE_CANCELLED: "cancelled",
}
#: What an event may be of.
KINDS: Final = frozenset({*filter(None, _TOLD.values()), *_ENDS.values()})


def events_of(write: RunWrite) -> Iterator[run_event_pb2.RunEvent]:
    """Gives the events of what was recorded, in order, without their hashes."""
    for sequence, entry in enumerate(write.entries, write.first_sequence):
        fact = entry.WhichOneof("fact") or ""
        if fact not in _TOLD or (fact == "step_completed" and not entry.step_completed.HasField("turn")):
            continue
        event = run_event_pb2.RunEvent(
            event_id=f"{write.run.run_id}/{sequence}",
            tenant_id=from_uuid(_TENANT, write.run.tenant),
            run_id=write.run.run_id,
            sequence=sequence,
            kind=_TOLD[fact],
            event_time=entry.record_time,
            path=entry.path,
        )
        _describe(event, entry, fact)
        yield event


def _describe(event: run_event_pb2.RunEvent, entry: journal_pb2.JournalEntry, fact: str) -> None:
    """Adds what the fact says and everybody of the tenant may know: no content, and no messages of errors."""
    match fact:
        case "run_started":
            _describe_start(event, entry.run_started)
        case "step_completed":
            turn = entry.step_completed.turn
            event.agent = f"{turn.agent_name}@{turn.agent_version}"
            event.cost_nano_usd = turn.cost.cost_nano_usd
        case "run_ended":
            event.kind, event.reason = _ENDS[entry.run_ended.state], entry.run_ended.reason
        case "run_parked" | "step_parked" | "run_abandoned":
            event.reason = getattr(entry, fact).reason
        case _:
            pass


def _describe_start(event: run_event_pb2.RunEvent, started: journal_pb2.RunStarted) -> None:
    event.program, event.parent_run_id = started.program, started.run.parent_run_id
    event.forked_from_run_id = started.fork.run_id
    if started.HasField("workflow"):
        event.workflow = f"{started.workflow.name}@{started.workflow.version}"
