"""What callers see of a run: the session as it stands, and the events of its stream."""

from collections.abc import Callable, Mapping
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, session_pb2, session_service_pb2
from services.meshkit.content.proto import usage_from_proto, usage_to_proto

#: Why a run is parked that cannot go on by a fault of the mesh. It shows that though it is paused as well: it takes a
#: ResumeRun, which ends both.
ENGINE_FAULT: Final = "ENGINE_FAULT"
TERMINAL_STATES: Final = frozenset(
    {
        session_pb2.SESSION_STATE_SUCCEEDED,
        session_pb2.SESSION_STATE_FAILED,
        session_pb2.SESSION_STATE_CANCELLED,
    }
)


def project(session: session_pb2.Session, entry: journal_pb2.JournalEntry, sequence: int) -> None:
    """Applies one fact to the session as callers see it."""
    session.sequence = sequence
    match entry.WhichOneof("fact"):
        case "run_started":
            session.CopyFrom(entry.run_started.session)
            session.state = session_pb2.SESSION_STATE_RUNNING
            session.start_time.CopyFrom(entry.record_time)
            session.sequence = sequence
        case "step_completed":
            _add_turn(session, entry.step_completed.turn)
        case "round_scored":
            session.scores.append(entry.round_scored.score)
            session.rounds_executed = entry.round_scored.score.round
        case "run_parked" if entry.run_parked.reason == ENGINE_FAULT:
            _set_state(session, session_pb2.SESSION_STATE_PARKED, entry.run_parked.reason, entry.run_parked.message)
        case "run_paused" if session.state_reason == ENGINE_FAULT:
            pass  # it stays parked until somebody lets it go on
        case "run_parked" | "run_resumed" | "run_waiting" if session.state == session_pb2.SESSION_STATE_PAUSED:
            pass  # it stays paused until somebody lets it go on
        case "run_waiting":
            _set_state(session, session_pb2.SESSION_STATE_WAITING)
        case "run_parked":
            _set_state(session, session_pb2.SESSION_STATE_PARKED, entry.run_parked.reason, entry.run_parked.message)
        case "run_paused":
            _set_state(session, session_pb2.SESSION_STATE_PAUSED)
        case "run_resumed" if entry.run_resumed.waiting:
            _set_state(session, session_pb2.SESSION_STATE_WAITING)
        case "run_continued" if entry.run_continued.waiting:
            _set_state(session, session_pb2.SESSION_STATE_WAITING)
        case "run_resumed" | "run_advanced" | "run_continued":
            _set_state(session, session_pb2.SESSION_STATE_RUNNING)
        case "run_cancelling":
            _set_state(session, session_pb2.SESSION_STATE_CANCELLING)
        case "run_forked":
            # What was taken over, the other run has paid for.
            session.cost_nano_usd = 0
            session.usage.Clear()
            session.start_time.CopyFrom(entry.record_time)
            pinned = entry.run_forked.started.session
            session.topic_start, session.topic_final = pinned.topic_start, pinned.topic_final
            session.agents[:] = pinned.agents
            session.moderator = pinned.moderator
            session.policy, session.policy_digest = pinned.policy, pinned.policy_digest
        case "run_ended":
            ended = entry.run_ended
            _set_state(session, ended.state, ended.reason, ended.message)
            session.topic_final = ended.topic_final
            session.converged = ended.converged
            session.end_time.CopyFrom(entry.record_time)
        case "run_abandoned":
            message = abandoned_by(entry.run_abandoned.by)
            _set_state(session, session_pb2.SESSION_STATE_CANCELLED, entry.run_abandoned.reason, message)
            session.end_time.CopyFrom(entry.record_time)
        case _:
            pass


def abandoned_by(subject: str) -> str:
    """Says why a run ended that could not go on."""
    return f"cancelled by {subject} while it could not go on"


def _add_turn(session: session_pb2.Session, turn: session_pb2.Turn) -> None:
    session.turn_count += 1
    session.cost_nano_usd += turn.cost.cost_nano_usd
    total = usage_from_proto(session.usage) + usage_from_proto(turn.output.usage)
    session.usage.CopyFrom(usage_to_proto(total))


def _set_state(
    session: session_pb2.Session, state: session_pb2.SessionState.ValueType, reason: str = "", message: str = ""
) -> None:
    session.state = state
    session.state_reason = reason
    session.state_message = message


_Event = Callable[[session_pb2.Session, journal_pb2.JournalEntry, session_service_pb2.WatchSessionResponse], object]
#: How each fact that callers see is shown; the others are the engine's own.
_EVENTS: Final[Mapping[str, _Event]] = {
    "run_started": lambda session, _, event: event.session_started.CopyFrom(session),
    "step_started": lambda _, entry, event: event.turn_started.CopyFrom(
        session_service_pb2.TurnStarted(round=entry.step_started.round, agent=entry.step_started.agent, path=entry.path)
    ),
    "step_completed": lambda _, entry, event: event.turn_completed.CopyFrom(entry.step_completed.turn),
    "round_scored": lambda _, entry, event: event.round_scored.CopyFrom(entry.round_scored.score),
    "run_waiting": lambda session, _, event: event.state_changed.CopyFrom(session),
    "run_parked": lambda session, _, event: event.state_changed.CopyFrom(session),
    "run_resumed": lambda session, _, event: event.state_changed.CopyFrom(session),
    "run_advanced": lambda session, _, event: event.state_changed.CopyFrom(session),
    "run_paused": lambda session, _, event: event.state_changed.CopyFrom(session),
    "run_continued": lambda session, _, event: event.state_changed.CopyFrom(session),
    "run_cancelling": lambda session, _, event: event.state_changed.CopyFrom(session),
    "run_ended": lambda session, _, event: event.session_ended.CopyFrom(session),
    "run_abandoned": lambda session, _, event: event.session_ended.CopyFrom(session),
}


def event_of(
    session: session_pb2.Session, entry: journal_pb2.JournalEntry, sequence: int
) -> session_service_pb2.WatchSessionResponse | None:
    """Shows one fact as an event of the session's stream; None when it is none of the callers' business.

    Args:
        session: the session after this fact.
    """
    show = _EVENTS.get(entry.WhichOneof("fact") or "")
    if show is None:
        return None
    event = session_service_pb2.WatchSessionResponse(sequence=sequence, event_time=entry.record_time)
    show(session, entry, event)
    return event
