"""How long steps take: a metric of all, and the span of each turn, under which the calls of the turn lie."""

from collections import OrderedDict
from functools import cache
from typing import Any, Final

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.telemetry import genai, metrics, names
from services.meshkit.telemetry.tracing import is_recording, planned_span, planned_traceparent
from services.orchestrator.engine.run import OwnedRun, RunWrite
from services.orchestrator.programs.commands import PLANNED_TURN, TURN

#: Runs with steps at work that are remembered; beyond, the times of the oldest are not measured.
_MAX_RUNS: Final = 20_000
_MODE: Final = len("SESSION_MODE_")


def turn_trace(run_id: str, intended: journal_pb2.JournalEntry) -> str:
    """Gives the trace context of the turn that a call belongs to, whichever replica makes the call."""
    return planned_traceparent(run_id, intended.path, str(intended.call_intended.attempt_group))


#: When a step began (Unix time, nanoseconds), its program, its agent and its attempt group.
_Begun = tuple[int, str, str, int]


class StepTimes:
    """Watches what is recorded. A step that began at another replica, or in a process before this, is not measured."""

    def __init__(self) -> None:
        self._begun: OrderedDict[tuple[int, str], dict[str, _Begun]] = OrderedDict()
        metrics.show_size("orchestrator.runs_timed", self._begun)

    def recorded(self, write: RunWrite) -> None:
        """Takes what a commit wrote of one run. Written for speed: it sees every step of every run."""
        run, now = write.run, 0
        for entry in write.entries:
            fact = entry.WhichOneof("fact")
            if fact == "step_started":
                now = now or _time(entry)
                step, of_run = entry.step_started, self._of(run)
                earlier = of_run.get(entry.path)
                # A step that is tried again began with its first attempt, under which the calls of that lie as well.
                if earlier is None or earlier[3] != step.attempt_group:
                    of_run[entry.path] = now, step.program, step.agent, step.attempt_group
            elif fact == "step_completed" or fact == "step_failed":
                now = now or _time(entry)
                begun = self._of(run).pop(entry.path, None)
                if begun is not None:
                    self._ended(run.run_id, entry, begun, now)
            elif fact == "step_skipped" or fact == "step_parked":
                self._of(run).pop(entry.path, None)
            elif fact == "run_ended" or fact == "run_abandoned":
                self._begun.pop((run.shard, run.run_id), None)
                if isinstance(write.view, session_pb2.Session):
                    _count_rounds(write.view)

    def forget(self, shard: int) -> None:
        """Measures nothing further of the runs of a shard: they belong to another replica, those that rest as well."""
        for key in [key for key in self._begun if key[0] == shard]:
            del self._begun[key]

    def _of(self, run: OwnedRun) -> dict[str, _Begun]:
        key = run.shard, run.run_id
        of_run = self._begun.get(key)
        if of_run is None:
            if len(self._begun) >= _MAX_RUNS:
                self._begun.popitem(last=False)
            of_run = self._begun[key] = {}
        return of_run

    def _ended(self, run_id: str, entry: journal_pb2.JournalEntry, begun: _Begun, now: int) -> None:
        at, program, agent, attempt_group = begun
        failed = entry.step_failed.reason if entry.HasField("step_failed") else ""
        _duration(program, "failed" if failed else "completed").observe((now - at) / 1e9)
        if is_recording() and program in (TURN, PLANNED_TURN):
            planned_span(
                names.SPAN_TURN,
                traceparent=planned_traceparent(run_id, entry.path, str(attempt_group)),
                began=at,
                ended=now,
                failed=failed,
                attributes=lambda: {
                    genai.OPERATION: genai.INVOKE_AGENT,
                    genai.CONVERSATION_ID: run_id,
                    genai.AGENT_NAME: agent.partition("@")[0],
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
