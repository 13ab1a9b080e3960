"""How long steps take: a metric of all, and the span of each turn, under which the calls of the turn lie."""

from collections import OrderedDict
from functools import cache
from typing import Any, Final, NamedTuple

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.telemetry import genai, metrics, names
from services.meshkit.telemetry.tracing import is_recording, planned_span, planned_traceparent
from services.orchestrator.engine.run import RunWrite
from services.orchestrator.programs.commands import PLANNED_TURN, TURN

#: Runs with steps at work that are remembered; beyond, the times of the oldest are not measured.
_MAX_RUNS: Final = 20_000
_MODE: Final = len("SESSION_MODE_")


def turn_trace(run_id: str, intended: journal_pb2.JournalEntry) -> str:
    """Gives the trace context of the turn that a call belongs to, whichever replica makes the call."""
    return planned_traceparent(run_id, intended.path, str(intended.call_intended.attempt_group))


class _Begun(NamedTuple):
    #: Unix time, nanoseconds.
    at: int
    program: str
    agent: str
    attempt_group: int


class StepTimes:
    """Watches what is recorded. A step that began at another replica, or in a process before this, is not measured."""

    def __init__(self) -> None:
        self._begun: OrderedDict[str, dict[str, _Begun]] = OrderedDict()
        metrics.show_size("orchestrator.runs_timed", self._begun)

    def recorded(self, write: RunWrite) -> None:
        """Takes what a commit wrote of one run."""
        run_id = write.run.run_id
        for entry in write.entries:
            match entry.WhichOneof("fact"):
                case "step_started":
                    self._begin(run_id, entry)
                case "step_completed":
                    self._end(run_id, entry, "")
                case "step_failed":
                    self._end(run_id, entry, entry.step_failed.reason)
                case "step_skipped" | "step_parked":
                    self._begun.get(run_id, {}).pop(entry.path, None)
                case "run_ended" | "run_abandoned":
                    self._begun.pop(run_id, None)
                    if isinstance(write.view, session_pb2.Session):
                        _count_rounds(write.view)
                case _:
                    pass

    def _begin(self, run_id: str, entry: journal_pb2.JournalEntry) -> None:
        begun = entry.step_started
        if len(self._begun) >= _MAX_RUNS and run_id not in self._begun:
            self._begun.popitem(last=False)
        of_run = self._begun.setdefault(run_id, {})
        of_run[entry.path] = _Begun(_time(entry), begun.program, begun.agent, begun.attempt_group)

    def _end(self, run_id: str, entry: journal_pb2.JournalEntry, failed: str) -> None:
        begun = self._begun.get(run_id, {}).pop(entry.path, None)
        if begun is None:
            return
        ended = _time(entry)
        _duration(begun.program, "failed" if failed else "completed").observe((ended - begun.at) / 1e9)
        if begun.program in (TURN, PLANNED_TURN) and is_recording():
            planned_span(
                names.SPAN_TURN,
                traceparent=planned_traceparent(run_id, entry.path, str(begun.attempt_group)),
                began=begun.at,
                ended=ended,
                failed=failed,
                attributes={
                    genai.OPERATION: genai.INVOKE_AGENT,
                    genai.CONVERSATION_ID: run_id,
                    genai.AGENT_NAME: begun.agent.partition("@")[0],
                    names.ATTRIBUTE_PATH: entry.path,
                    names.ATTRIBUTE_CORRELATION_ID: run_id,
                },
            )


def _count_rounds(session: session_pb2.Session) -> None:
    mode = session_pb2.SessionMode.Name(session.mode)[_MODE:].lower()
    metrics.SESSION_ROUNDS.labels(mode, str(session.converged).lower()).observe(session.rounds_executed)


@cache
def _duration(program: str, outcome: str) -> Any:
    """Gives the child of the metric: to look it up is most of its price."""
    return metrics.STEP_DURATION.labels(program, outcome)


def _time(entry: journal_pb2.JournalEntry) -> int:
    at = entry.record_time
    return at.seconds * 1_000_000_000 + at.nanos
