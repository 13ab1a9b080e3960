"""Turns what a program decides into facts, and replays facts against the program that decided them (INV-4)."""

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.programs import run as program
from services.orchestrator.programs import turn
from services.orchestrator.programs.commands import (
    Command,
    CompleteStep,
    EndRun,
    FailStep,
    MakeCall,
    ScoreRound,
    StartStep,
    WaitForAdvance,
)

#: Facts that come from outside; all others follow from them by the program.
OUTSIDE: Final = frozenset(
    {
        *("run_started", "call_answered", "call_failed", "run_parked", "run_resumed", "run_advanced"),
        *("run_cancelling", "run_abandoned"),
    }
)


def fact_of(command: Command) -> journal_pb2.JournalEntry:
    """Writes a decision as the fact that records it, without its time."""
    entry = journal_pb2.JournalEntry()
    match command:
        case StartStep(path=path, round=round_, agent=agent):
            entry.path = path
            entry.step_started.CopyFrom(
                journal_pb2.StepStarted(program="turn", program_version=turn.VERSION, round=round_, agent=agent)
            )
        case MakeCall(path=path, index=index, kind=kind, request=request):
            entry.path = path
            encoded = _encoded(request)
            entry.call_intended.CopyFrom(
                journal_pb2.CallIntended(
                    call_index=index, kind=kind, request=encoded, request_digest=hashlib.sha256(encoded).digest()
                )
            )
        case CompleteStep(path=path, turn=done):
            entry.path = path
            entry.step_completed.turn.CopyFrom(done)
        case FailStep(path=path, reason=reason, message=message):
            entry.path = path
            entry.step_failed.CopyFrom(journal_pb2.StepFailed(reason=reason, message=message))
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
                )
            )
    return entry


def advance(
    state: program.RunState, outside: Iterable[journal_pb2.JournalEntry], at: Timestamp
) -> tuple[program.RunState, list[journal_pb2.JournalEntry]]:
    """Applies facts from outside and everything that follows from them, until only calls are left to be made.

    Args:
        at: the time that all these facts are recorded with.
    Returns: the new state, and all facts in the order in which they were applied.
    """
    waiting = deque(outside)
    done: list[journal_pb2.JournalEntry] = []
    while waiting:
        entry = waiting.popleft()
        entry.record_time.CopyFrom(at)
        state, commands = program.decide(state, entry)
        done.append(entry)
        waiting.extend(fact_of(command) for command in commands)
    return state, done


class Replay:
    """Feeds recorded facts to their program and refuses any that does not follow."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._expected: deque[journal_pb2.JournalEntry] = deque()
        self.state = program.RunState()
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
    return _encoded(decided) == _encoded(recorded)


def _encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
