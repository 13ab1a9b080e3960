"""Turns what a program decides into facts, and replays facts against the program that decided them (INV-4)."""

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.programs import graph, planned_turn, turn
from services.orchestrator.programs import run as program
from services.orchestrator.programs.commands import (
    PLANNED_TURN,
    TURN,
    Command,
    CompleteStep,
    EndRun,
    ExpandMap,
    FailStep,
    MakeCall,
    ParkStep,
    RecordDecision,
    ScoreRound,
    SkipStep,
    StartStep,
    StartTimer,
    WaitForAdvance,
    encoded,
)

#: Facts that come from outside; all others follow from them by the program.
OUTSIDE: Final = frozenset(
    {
        *("run_started", "call_answered", "call_failed", "run_parked", "run_resumed", "run_advanced"),
        *("run_cancelling", "run_abandoned", "timer_fired", "signal_received", "run_paused", "run_continued"),
        *("deadline_passed", "run_forked", "call_held", "call_decided"),
    }
)
_VERSIONS: Final[Mapping[str, int]] = {
    TURN: turn.VERSION,
    PLANNED_TURN: planned_turn.VERSION,
    graph.NAME: graph.VERSION,
}


def fact_of(command: Command) -> journal_pb2.JournalEntry:
    """Writes a decision as the fact that records it, without its time."""
    entry = journal_pb2.JournalEntry()
    if type(command) is MakeCall:
        # Most facts are calls: written field by field, since copies of messages cost more than all the rest.
        entry.path = command.path
        call = entry.call_intended
        call.call_index = command.index
        call.kind = command.kind
        call.request_digest = command.digest or hashlib.sha256(command.request).digest()
        call.request = command.request
        if command.begins_step:
            call.begins_step = True
        if command.attempt:
            call.attempt = command.attempt
        if command.attempt_group:
            call.attempt_group = command.attempt_group
        if command.origin is not None:
            call.place = command.origin.place
            call.arguments.extend(command.origin.arguments)
            call.choice_label.CopyFrom(command.origin.choice_label)
        return entry
    match command:
        case StartStep():
            entry.path = command.path
            entry.step_started.CopyFrom(
                journal_pb2.StepStarted(
                    program=command.program,
                    program_version=_VERSIONS[command.program],
                    round=command.round,
                    agent=command.agent,
                    prompt=command.prompt,
                    attempt=command.attempt,
                    attempt_group=command.attempt_group,
                )
            )
        case RecordDecision(path=path, fact=fact):
            entry.CopyFrom(fact)
            entry.path = path
        case CompleteStep(path=path, turn=done, output=output):
            entry.path = path
            entry.step_completed.CopyFrom(journal_pb2.StepCompleted(turn=done, output=output))
        case FailStep(path=path, reason=reason, message=message):
            entry.path = path
            entry.step_failed.CopyFrom(journal_pb2.StepFailed(reason=reason, message=message))
        case ParkStep(path=path, reason=reason, message=message):
            entry.path = path
            entry.step_parked.CopyFrom(journal_pb2.StepParked(reason=reason, message=message))
        case SkipStep(path=path, reason=reason):
            entry.path = path
            entry.step_skipped.reason = reason
        case ExpandMap(path=path, count=count):
            entry.path = path
            entry.map_expanded.CopyFrom(journal_pb2.MapExpanded(count=count))
        case StartTimer(path=path, timer=timer, milliseconds=milliseconds):
            entry.path = path
            entry.timer_started.timer = timer
            entry.timer_started.duration.FromMilliseconds(milliseconds)
        case _:
            _write_of_run(entry, command)
    return entry


def _write_of_run(entry: journal_pb2.JournalEntry, command: Command) -> None:
    """Writes a decision about the run as a whole."""
    match command:
        case ScoreRound(score=score):
            entry.round_scored.score.CopyFrom(score)
        case WaitForAdvance(round=round_):
            entry.run_waiting.round = round_
        case EndRun():
            entry.run_ended.CopyFrom(
                journal_pb2.RunEnded(
                    state=command.state,
                    reason=command.reason,
                    message=command.message,
                    topic_final=command.topic_final,
                    converged=command.converged,
                    output=command.output,
                    output_label=command.output_label,
                )
            )
        case _:
            raise TypeError(f"no fact records a {type(command).__name__}")


def advance(
    state: program.RunState, outside: Iterable[journal_pb2.JournalEntry], at: Timestamp
) -> tuple[program.RunState, list[journal_pb2.JournalEntry]]:
    """Applies facts from outside and everything that follows from them, until only calls are left to be made.

    All that follows from one fact is applied before the next: none meets a run that is about to do something else.

    Args:
        at: the time that all these facts are recorded with.
    Returns: the new state, and all facts in the order in which they were applied.
    """
    done: list[journal_pb2.JournalEntry] = []
    for arrived in outside:
        done.append(arrived)
        following = [arrived]
        for entry in following:  # grows meanwhile
            entry.record_time.CopyFrom(at)
            state, commands = program.decide(state, entry)
            for command in commands:
                fact = fact_of(command)
                done.append(fact)
                if type(command) is MakeCall:
                    fact.record_time.CopyFrom(at)  # nothing follows from it before it is answered
                else:
                    following.append(fact)
    return state, done


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The first facts of a run, with their times, and where its program stands after them."""

    state: program.RunState = field(repr=False)
    entries: Sequence[journal_pb2.JournalEntry] = field(repr=False)


def begun(started: journal_pb2.RunStarted, at: Timestamp) -> Beginning:
    """Decides the first facts of a run of its own."""
    state, entries = advance(program.RunState(), [journal_pb2.JournalEntry(run_started=started)], at)
    return Beginning(state=state, entries=entries)


class Replay:
    """Feeds recorded facts to their program and refuses any that does not follow.

    Args:
        programs: what can be driven, where that is not what this release can drive.
    """

    def __init__(self, run_id: str, programs: program.Programs = program.PROGRAMS) -> None:
        self.run_id = run_id
        self._expected: deque[journal_pb2.JournalEntry] = deque()
        self.state = program.RunState(programs=programs)
        self.sequence = 0

    def feed(self, entry: journal_pb2.JournalEntry) -> None:
        """Applies the next recorded fact.

        Raises: RunDiverged: the program decides otherwise. UnknownProgram: it is not in this release.
        """
        self.sequence += 1
        if entry.WhichOneof("fact") not in OUTSIDE:
            decided = self._expected.popleft() if self._expected else None
            if decided is None or not _same_fact(decided, entry):
                raise RunDiverged(self.run_id, self.sequence)
        self.state, commands = program.decide(self.state, entry)
        self._expected.extend(fact_of(command) for command in commands)

    def finish(self) -> None:
        """Checks that everything that was decided was recorded. Raises: RunDiverged."""
        if self._expected:
            raise RunDiverged(self.run_id, self.sequence + 1)


def _same_fact(decided: journal_pb2.JournalEntry, recorded: journal_pb2.JournalEntry) -> bool:
    decided.record_time.CopyFrom(recorded.record_time)
    return encoded(decided) == encoded(recorded)
