"""What callers see of a run and of its steps, brought up fact by fact. Whatever program drives it."""

from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2, workflow_pb2
from services.meshkit.content import Usage
from services.meshkit.content.proto import usage_to_proto
from services.orchestrator.programs.call_cost import cost_of
from services.orchestrator.programs.commands import PLANNED_TURN, TURN
from services.orchestrator.programs.graph_steps import RETRY
from services.orchestrator.programs.seen_step import SeenStep
from services.orchestrator.programs.view import ENGINE_FAULT, abandoned_by

STEP_PARKED: Final = "STEP_PARKED"
#: Why a turn waits whose planner is to be shown what somebody outside wrote.
PLAN_SHOWS: Final = "PLAN_SHOWS_OUTSIDE_TEXT"
TERMINAL_STATES: Final = frozenset({run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED})
_KINDS: Final = {
    "agent": run_pb2.STEP_KIND_AGENT,
    "step": run_pb2.STEP_KIND_WORKER,
    "tool": run_pb2.STEP_KIND_TOOL,
    "map": run_pb2.STEP_KIND_MAP,
    "run": run_pb2.STEP_KIND_RUN,
    "wait": run_pb2.STEP_KIND_WAIT,
    "aggregate": run_pb2.STEP_KIND_AGGREGATE,
}
_RUNNING: Final = run_pb2.STEP_STATE_RUNNING
_SUCCEEDED: Final = run_pb2.STEP_STATE_SUCCEEDED
_WAITING: Final = run_pb2.STEP_STATE_WAITING
_CALL_OF_STEP: Final = journal_pb2.CALL_KIND_STEP
_CALL_OF_RUN: Final = journal_pb2.CALL_KIND_RUN
_PARKED: Final = run_pb2.STEP_STATE_PARKED


class RunProjection:
    """A run as it stands after the facts that it was shown, in order.

    Args:
        keep_steps: keeps the steps that have ended as well.
    """

    __slots__ = (
        *("_cancelling", "_cost", "_failed", "_held", "_kept", "_nodes", "_open", "_parked", "_paused"),
        *("_run", "_settled", "_skipped", "_succeeded", "_usage", "_waiting", "_workflow"),
        *("_working", "sequence"),
    )

    def __init__(self, *, keep_steps: bool = False) -> None:
        self._run = run_pb2.Run()
        self._workflow = workflow_pb2.Workflow()
        self._nodes: dict[str, workflow_pb2.Node] | None = None
        #: Steps in progress by path, and all steps, where they are kept, in the order in which they began.
        self._open: dict[str, SeenStep] = {}
        self._kept: list[SeenStep] | None = [] if keep_steps else None
        #: So many of those that are kept, from the first one on, are known to have ended.
        self._settled = 0
        #: Of the last fact.
        self.sequence = 0
        self._succeeded = self._failed = self._skipped = self._cost = 0
        self._usage = Usage()
        #: Steps in progress that something is done for, and those that are parked.
        self._working = 0
        self._parked: dict[str, SeenStep] = {}
        self._waiting = self._paused = self._cancelling = False
        #: Why the engine cannot go on for now.
        self._held: journal_pb2.RunParked | None = None

    @property
    def run(self) -> run_pb2.Run:
        """The run as it stands. The same message each time: copy what is to stay as it is."""
        run = self._run
        run.sequence = self.sequence
        counts = run.steps
        counts.running = len(self._open)
        counts.succeeded, counts.failed, counts.skipped = self._succeeded, self._failed, self._skipped
        run.cost_nano_usd = self._cost
        run.usage.CopyFrom(usage_to_proto(self._usage))
        if run.state not in TERMINAL_STATES:
            run.state, run.state_reason, run.state_message = self._state()
        return run

    @property
    def state(self) -> run_pb2.RunState.ValueType:
        """State of the run."""
        final = self._run.state
        return final if final in TERMINAL_STATES else self._state()[0]

    def take(self, entry: journal_pb2.JournalEntry, sequence: int) -> SeenStep | None:
        """Takes the next fact; gives the step that it tells of, if callers see any of it."""
        return self.take_fact(entry.WhichOneof("fact"), entry, sequence)

    def take_fact(self, fact: str | None, entry: journal_pb2.JournalEntry, sequence: int) -> SeenStep | None:
        """The same for whoever knows what fact it is."""
        self.sequence = sequence
        # Most facts are calls and their answers.
        if fact == "call_intended":
            return self._on_call(entry)
        if fact == "call_answered":
            return self._on_answer(entry)
        match fact:
            case "call_failed":
                self._hang_up(entry.path)
            case "step_started":
                return self._on_start(entry)
            case "step_completed":
                return self._end(entry, _SUCCEEDED)
            case "step_failed":
                failure = entry.step_failed
                return self._end(entry, run_pb2.STEP_STATE_FAILED, failure.reason, failure.message)
            case "step_skipped":
                skipped = SeenStep(entry.path, entry.record_time, run_pb2.STEP_STATE_SKIPPED)
                skipped.attempts = 0
                self._begin(skipped)
                return self._end(entry, run_pb2.STEP_STATE_SKIPPED, entry.step_skipped.reason)
            case "step_parked" | "timer_started" | "timer_fired" | "map_expanded" | "replan_asked":
                return self._on_change(entry)
            case _:
                self._on_run(entry)
        return None

    def steps(self, after: int = 0, until: int | None = None) -> list[run_pb2.RunStep]:
        """Gives the steps that it knows, or some of them, in the order in which they began."""
        known = list(self._open.values()) if self._kept is None else self._kept
        return [self.step(seen) for seen in known[after:until]]

    def have_ended(self, count: int) -> bool:
        """Tells whether nothing changes any more of so many steps, the first ones that are kept."""
        if self._kept is None or len(self._kept) < count:
            return False
        while self._settled < count and self._kept[self._settled].end is not None:
            self._settled += 1
        return self._settled >= count

    def step(self, seen: SeenStep) -> run_pb2.RunStep:
        """Writes a step as callers see it."""
        node_id, kind, sla_ms = self._node_of(seen.path)
        step = run_pb2.RunStep(
            path=seen.path,
            node=node_id,
            kind=kind,
            state=seen.state,
            state_reason=seen.reason,
            state_message=seen.message,
            attempts=seen.attempts,
            attempt_group=seen.group,
            agent=seen.agent,
            item_count=max(seen.items, 0),
            started_run_id=seen.run_id,
            start_time=seen.start,
            end_time=seen.end,
            cost_nano_usd=seen.cost,
            usage=usage_to_proto(seen.usage or Usage()),
        )
        if sla_ms and seen.end is not None:
            step.missed_sla = _time(seen.end) - _time(seen.start) > timedelta(milliseconds=sla_ms)
        return step

    def _state(self) -> tuple[run_pb2.RunState.ValueType, str, str]:
        if self._cancelling:
            return run_pb2.RUN_STATE_CANCELLING, "", ""
        if self._paused and (self._held is None or self._held.reason != ENGINE_FAULT):
            return run_pb2.RUN_STATE_PAUSED, "", ""
        if self._held is not None:
            return run_pb2.RUN_STATE_PARKED, self._held.reason, self._held.message
        if self._waiting:
            return run_pb2.RUN_STATE_WAITING, "", ""
        if self._working or not self._open:
            return run_pb2.RUN_STATE_RUNNING, "", ""
        first = next(iter(self._parked.values()), None)
        if first is not None:
            more = f" (and {len(self._parked) - 1} more)" if len(self._parked) > 1 else ""
            message = (
                f"{first.path}{more} failed in all attempts with {first.reason}: {first.message}; ResumeRun tries again"
            )
            return run_pb2.RUN_STATE_PARKED, STEP_PARKED, message
        return run_pb2.RUN_STATE_WAITING, "", ""

    def _on_run(self, entry: journal_pb2.JournalEntry) -> None:
        """Takes a fact about the run as a whole."""
        match entry.WhichOneof("fact"):
            case "run_started":
                self._on_run_started(entry)
            case "run_waiting":
                self._waiting = True
            case "run_advanced":
                self._waiting = False
            case "run_parked":
                self._held = entry.run_parked
            case "run_resumed":
                self._held = None
            case "run_paused":
                self._paused = True
            case "run_continued":
                self._paused = False
            case "run_cancelling":
                self._cancelling = True
            case "run_forked":
                # What was taken over, the other run has paid for.
                self._cost, self._usage = 0, Usage()
                self._run.start_time.CopyFrom(entry.record_time)
            case "run_ended":
                ended = entry.run_ended
                if ended.HasField("output"):
                    self._run.output.CopyFrom(ended.output)
                state = session_pb2.SessionState.Name(ended.state).replace("SESSION", "RUN")
                self._on_end(entry, state, ended.reason, ended.message)
            case "run_abandoned":
                abandoned = entry.run_abandoned
                self._on_end(entry, "RUN_STATE_CANCELLED", abandoned.reason, abandoned_by(abandoned.by))
            case _:
                pass

    def _on_run_started(self, entry: journal_pb2.JournalEntry) -> None:
        started, run = entry.run_started, self._run
        self._workflow = started.workflow
        if started.HasField("run"):
            run.CopyFrom(started.run)
        else:
            session = started.session
            run.run_id, run.budget_id = session.session_id, session.budget_id
            run.max_cost_nano_usd = session.max_cost_nano_usd
            run.metadata.update(session.metadata)
            run.forked_from_run_id, run.forked_at_sequence = session.forked_from_run_id, session.forked_at_sequence
            run.policy, run.policy_digest = session.policy, session.policy_digest
        run.program, run.program_version = started.program, started.program_version
        run.start_time.CopyFrom(entry.record_time)

    def _on_end(self, entry: journal_pb2.JournalEntry, state: str, reason: str, message: str) -> None:
        run = self._run
        run.state, run.state_reason, run.state_message = run_pb2.RunState.Value(state), reason, message
        run.end_time.CopyFrom(entry.record_time)
        for seen in self._open.values():
            seen.state, seen.end = run_pb2.STEP_STATE_CANCELLED, entry.record_time
        self._open.clear()
        self._parked.clear()
        self._working = 0

    def _on_start(self, entry: journal_pb2.JournalEntry) -> SeenStep:
        started = entry.step_started
        seen = self._open.get(entry.path)
        if seen is None:
            # What is no turn waits until it turns out to make a call or to have items.
            state = _RUNNING if started.program in (TURN, PLANNED_TURN) else _WAITING
            seen = SeenStep(entry.path, entry.record_time, state)
            self._begin(seen)
        else:
            self._become(seen, _RUNNING)
        seen.attempts, seen.group, seen.agent = started.attempt or 1, started.attempt_group, started.agent
        return seen

    def _on_call(self, entry: journal_pb2.JournalEntry) -> SeenStep | None:
        call, path = entry.call_intended, entry.path
        seen = self._open.get(path)
        if seen is None:
            if not call.begins_step:
                return None
            seen = SeenStep(path, entry.record_time)
            seen.alone = True
            self._begin(seen)
        seen.call = call.call_index
        if seen.agent:
            return self._goes_on(seen)
        if seen.state != _RUNNING:
            self._become(seen, _RUNNING)
        seen.attempts, seen.group = call.attempt or 1, call.attempt_group
        if call.kind == _CALL_OF_RUN:
            seen.run_id = journal_pb2.SubRunTask.FromString(call.request).run_id
        return seen

    def _goes_on(self, seen: SeenStep) -> SeenStep | None:
        """Shows that a turn which waited for a reader goes on; None for one that did not wait."""
        if seen.reason != PLAN_SHOWS:
            return None
        seen.reason = seen.message = ""
        self._become(seen, _RUNNING)
        return seen

    def _on_answer(self, entry: journal_pb2.JournalEntry) -> SeenStep | None:
        seen = self._open.get(entry.path)
        if seen is None:
            return None
        answered = entry.call_answered
        if seen.call != answered.call_index:
            return None
        seen.call = -1
        if answered.kind != _CALL_OF_STEP:
            self._spend(seen, answered)
        return self._ended(seen, entry.record_time, _SUCCEEDED) if seen.alone else None

    def _on_change(self, entry: journal_pb2.JournalEntry) -> SeenStep | None:
        seen = self._open.get(entry.path)
        if seen is None:
            return None
        match entry.WhichOneof("fact"):
            case "step_parked":
                seen.reason, seen.message, seen.call = entry.step_parked.reason, entry.step_parked.message, -1
                self._become(seen, _PARKED)
            case "map_expanded":
                seen.items = entry.map_expanded.count
                seen.state = _RUNNING
            case "timer_started" if entry.timer_started.timer.startswith(RETRY):
                self._become(seen, _WAITING)
            case "replan_asked":
                # The call for the new plan follows at once, unless somebody has to read first.
                digests = ", ".join(f"{one.name} ({one.value_digest.hex()})" for one in entry.replan_asked.shown)
                seen.reason, seen.message = PLAN_SHOWS, f"somebody is to read {digests}, then send signal plan.read"
                self._become(seen, _WAITING)
            case "timer_fired":
                self._hang_up(entry.path)
                return None
            case _:
                return None
        return seen

    def _begin(self, seen: SeenStep) -> None:
        self._open[seen.path] = seen
        # Something is done for it; a map has steps of its own for that.
        self._working += seen.state == _RUNNING and seen.items < 0
        if self._kept is not None:
            self._kept.append(seen)

    def _become(self, seen: SeenStep, state: run_pb2.StepState.ValueType) -> None:
        before = seen.state
        if before == state:
            return
        if before == _PARKED:
            del self._parked[seen.path]
            seen.reason = seen.message = ""
        seen.state = state
        if seen.items < 0:
            self._working += (state == _RUNNING) - (before == _RUNNING)
        if state == _PARKED:
            self._parked[seen.path] = seen

    def _end(
        self, entry: journal_pb2.JournalEntry, state: run_pb2.StepState.ValueType, reason: str = "", message: str = ""
    ) -> SeenStep:
        seen = self._open.get(entry.path)
        if seen is None:
            # A step that began and ended at once.
            seen = SeenStep(entry.path, entry.record_time)
            self._begin(seen)
        return self._ended(seen, entry.record_time, state, reason, message)

    def _ended(
        self, seen: SeenStep, at: Timestamp, state: run_pb2.StepState.ValueType, reason: str = "", message: str = ""
    ) -> SeenStep:
        self._become(seen, state)
        del self._open[seen.path]
        seen.reason, seen.message, seen.end = reason, message, at
        if state == _SUCCEEDED:
            self._succeeded += 1
        elif state == run_pb2.STEP_STATE_FAILED:
            self._failed += 1
        else:
            self._skipped += 1
        return seen

    def _hang_up(self, path: str) -> None:
        """Waits for no call of a step any more: what it answers comes too late."""
        seen = self._open.get(path)
        if seen is not None:
            seen.call = -1

    def _spend(self, seen: SeenStep, answered: journal_pb2.CallAnswered) -> None:
        cost, usage = cost_of(answered)
        self._cost += cost
        seen.cost += cost
        if usage is not None:
            self._usage = self._usage + usage
            seen.usage = usage if seen.usage is None else seen.usage + usage

    def _node_of(self, path: str) -> tuple[str, run_pb2.StepKind.ValueType, int]:
        """Gives node, kind and goal in milliseconds of the step at a path."""
        if self._nodes is None:
            self._nodes = {node.id: node for node in self._workflow.nodes}
        parts = path.split("/")
        node = self._nodes.get(parts[1]) if parts[0] == "nodes" else None
        if node is None:
            return "", run_pb2.STEP_KIND_AGENT, 0
        body = node.map.body if len(parts) > 2 else node
        return node.id, _KINDS[body.WhichOneof("kind") or ""], body.policy.sla_ms


def _time(at: Timestamp) -> datetime:
    return at.ToDatetime(tzinfo=UTC)
