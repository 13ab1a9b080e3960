"""Runs that cannot go on by a fault of ours: tried three times where they stand, and then parked there.

    raised, refused, unreadable ──▶ set aside ──▶ the same, the third time ──▶ PARKED, with the id of the incident
                                                                                 │ResumeRun          │CancelRun
                                                                                 ▼                   ▼
                                                                              three more times    CANCELLED

Nothing is called for a run that is parked, and its facts stay as they are: they are the evidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.blobs.store import BlobMissing
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.crypto.errors import KeyDestroyed, SealBroken
from services.meshkit.telemetry import metrics, names
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.journal import JournalUnknown
from services.orchestrator.engine.run import SIGNAL, OwnedRun, RunCommand, RunView, RunWrite
from services.orchestrator.programs.view import ENGINE_FAULT, abandoned_by

log = logger(__name__)

#: The same numbers in runs and sessions.
_PARKED: Final = session_pb2.SESSION_STATE_PARKED
_CANCELLED: Final = session_pb2.SESSION_STATE_CANCELLED
#: Tries without any fact that follows.
_TRIES: Final = 3
#: Runs whose faults are remembered. One more is tried for longer.
_MOST: Final = 10_000
#: Why a journal cannot be read, in words for callers.
UNREADABLE: Final = (KeyDestroyed, SealBroken, JournalUnknown, BlobMissing)
#: Failures that pass by themselves, and are nobody's fault here.
_PASSING: Final = frozenset(
    {
        *(ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.DEADLINE, ErrorKind.CANCELLED),
        ErrorKind.CONFLICT,  # somebody else's lock
    }
)


class EngineFault(Exception):
    """What the engine did for a run failed again and again. The run is parked; its facts are left as they are.

    Args:
        reason: why callers see it parked.
    """

    def __init__(self, message: str, *, reason: str = ENGINE_FAULT) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class _Tried:
    """What a run failed by last, and how often."""

    sequence: int
    incident_id: str
    error: Exception
    times: int = 1


class Faults:
    """How often each run of this replica failed where it stands.

    Args:
        new_id: names incidents.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._tried: dict[str, _Tried] = {}

    def note(self, run_id: str, sequence: int, error: Exception) -> None:
        """Counts a failure of a run after one of its facts; what passes by itself does not count."""
        if isinstance(error, MeshError) and error.kind in _PASSING:
            return
        tried = self._tried.get(run_id)
        if tried is not None and tried.sequence == sequence:
            tried.times, tried.error = tried.times + 1, error
        elif tried is not None or len(self._tried) < _MOST:
            tried = self._tried[run_id] = _Tried(sequence, self._new_id(), error)
        else:
            return
        where = {"run_id": run_id, "sequence": sequence, names.LOG_INCIDENT_ID: tried.incident_id}
        log.error("a run fails where it stands", times=tried.times, exc_info=error, **where)

    def counts(self, run_id: str) -> bool:
        """Says whether a run has failed by more than what passes by itself."""
        return run_id in self._tried

    def forget(self, run_id: str) -> None:
        """Has a run begin anew: it got further, or somebody else has it."""
        self._tried.pop(run_id, None)

    def of(self, run_id: str, sequence: int) -> EngineFault | None:
        """Gives why a run that stands at a fact is not to be tried again; None while it is."""
        tried = self._tried.get(run_id)
        if tried is None or tried.sequence != sequence or tried.times < _TRIES:
            return None
        error, incident = tried.error, f"incident {tried.incident_id}"
        if isinstance(error, UNREADABLE):
            return EngineFault(f"{error.message} ({incident}); CancelRun ends it", reason=error.reason)
        return EngineFault(
            f"the engine fails by this run, which is a fault of the mesh: report {incident}; ResumeRun tries again, "
            "CancelRun ends it"
        )


def parked(run_id: str, reason: str, cause: str) -> None:
    """Has operators hear of a run that waits for somebody."""
    metrics.RUNS_PARKED.labels(reason).inc()
    log.error("run cannot go on", run_id=run_id, reason=reason, cause=cause)


def unread(
    run: OwnedRun, view: RunView, last: int, fault: EngineFault, commands: Sequence[RunCommand], at: Timestamp
) -> RunWrite | None:
    """Has a run whose journal cannot be read show that it is parked, or end where somebody has cancelled it.

    Args:
        view: what callers see of it.
        last: sequence of the last fact of its journal.
        commands: that wait for it. Signals go on waiting.
    Returns: what is to be written; None when it shows already why it is parked, and nobody asks anything of it.
    """
    asked = [command for command in commands if command.kind != SIGNAL]
    entry = journal_pb2.JournalEntry(record_time=at)
    seen = type(view)()
    seen.CopyFrom(view)  # type: ignore[arg-type]  # of its own type
    seen.sequence = last + 1
    cancel = next((command for command in asked if command.kind == "cancel"), None)
    if cancel is not None:
        entry.run_abandoned.CopyFrom(journal_pb2.RunAbandoned(by=cancel.by, reason=fault.reason))
        seen.state = _CANCELLED  # pyright: ignore[reportAttributeAccessIssue]  # the same number in both
        seen.state_reason, seen.state_message = fault.reason, abandoned_by(cancel.by)
        seen.end_time.CopyFrom(at)
    elif (seen.state, seen.state_reason) != (_PARKED, fault.reason):
        entry.run_parked.CopyFrom(journal_pb2.RunParked(reason=fault.reason, message=str(fault)))
        seen.state = _PARKED  # pyright: ignore[reportAttributeAccessIssue]  # the same number in both
        seen.state_reason, seen.state_message = fault.reason, str(fault)
        parked(run.run_id, fault.reason, str(fault))
    elif not asked:
        return None
    done = [command.command_id for command in asked]
    shown = entry.WhichOneof("fact") is not None
    return RunWrite(
        run=run, first_sequence=last + 1, entries=[entry] if shown else [], view=seen if shown else None, commands=done
    )
