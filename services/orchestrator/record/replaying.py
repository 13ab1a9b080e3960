"""Executes a run again from its facts and says where it parts from them.

Unlike `engine.facts.Replay`, which refuses to go on from a journal that does not follow, this one goes on with what was
recorded, so that one look shows every place.
"""

from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Final

from google.protobuf.message import Message

from comitia.orchestrator.v1 import journal_pb2, record_pb2
from services.orchestrator.engine.facts import OUTSIDE, fact_of
from services.orchestrator.programs import run as program
from services.orchestrator.programs.commands import encoded
from services.orchestrator.record.differences import differences
from services.orchestrator.record.rows import RecordedRow

MOST_DRIFTS: Final = 20
_MOST_FIELDS: Final = 20
#: A decision that was recorded later than this many others counts as another one.
_LOOK_AHEAD: Final = 1_000
#: Facts that plans have many of, each with a place of its own.
_AT_PLACES: Final = frozenset(
    {"variable_bound", "branch_taken", "list_mapped", "loop_turned", "choice_made", "replan_asked"}
)


@dataclass(slots=True)
class _Expected:
    """A fact that was decided and is still to be found in the record."""

    #: Sequence of the fact from which it follows.
    after: int
    entry: journal_pb2.JournalEntry


class Rerun:
    """Takes the facts of a run in order, or of one whose key was destroyed its commits; then `finish`."""

    def __init__(self, run_id: str, programs: program.Programs = program.PROGRAMS) -> None:
        self._report = record_pb2.Replay(run_id=run_id)
        self._state = program.RunState(programs=programs)
        self._expected: deque[_Expected] = deque()
        #: Decisions that other facts were recorded before, in the order of the decisions.
        self._overdue: list[_Expected] = []
        self._sequence = 0
        self._decided_now = sha256()
        self._commitments = sha256()
        self._drifts: list[record_pb2.Drift] = []
        #: True once a fact could not be read: what follows cannot be decided.
        self._stopped = False

    def take_commit(self, row: RecordedRow) -> None:
        """Takes what stays of a commit, whoever can read its facts. Those come next, by `take_fact`."""
        first_sequence, commitments = row.first_sequence, row.commitments
        self._report.structure_only |= row.content is None
        following = self._report.fact_count + 1
        if first_sequence != following:
            self._drift(
                following,
                record_pb2.DRIFT_KIND_GAP,
                f"fact {following} comes next, and the journal goes on with fact {first_sequence}",
            )
        self._report.fact_count += len(commitments)
        self._report.commit_count += 1
        if self._report.commit_count == 1:
            self._report.first_commit_time.FromDatetime(row.record_time)
        self._report.last_commit_time.FromDatetime(row.record_time)
        for commitment in commitments:
            self._commitments.update(commitment)

    def take_fact(self, entry: journal_pb2.JournalEntry, *, committed: bool = True) -> None:
        """Takes the next fact.

        Args:
            committed: False when it is not what its commitment was made of.
        """
        self._sequence += 1
        fact = entry.WhichOneof("fact") or ""
        if not committed:
            sentence = "the fact is not what its commitment was made of: the record was changed"
            self._drift(self._sequence, record_pb2.DRIFT_KIND_COMMITMENT_BROKEN, sentence, entry)
        if fact == "run_started" and self._sequence == 1:
            self._report.program = entry.run_started.program
            self._report.program_version = entry.run_started.program_version
        if self._stopped:
            return
        if fact in OUTSIDE:
            # All that follows from one fact is recorded before the next.
            self._overdue += self._expected
            self._expected.clear()
            self._hash(entry)
        else:
            self._report.decided_count += 1
            self._compare(entry)
        self._apply(entry)

    def finish(self) -> record_pb2.Replay:
        """Gives what came of it."""
        report = self._report
        for left in () if self._stopped or report.structure_only else (*self._overdue, *self._expected):
            self._hash(left.entry)
            sentence = f"the program decides this after fact {left.after}, and it was never recorded"
            self._drift(left.after + 1, record_pb2.DRIFT_KIND_NOT_RECORDED, sentence, left.entry)
        report.drifts.extend(sorted(self._drifts, key=lambda drift: drift.sequence)[:MOST_DRIFTS])
        report.fact_count = max(report.fact_count, self._sequence)
        report.commitments_sha256 = self._commitments.hexdigest() if report.commit_count else ""
        if not report.structure_only and not self._stopped:
            report.replay_sha256 = self._decided_now.hexdigest()
        report.same = report.drift_count == 0
        return report

    def _compare(self, recorded: journal_pb2.JournalEntry) -> None:
        found = self._decided_as(recorded)
        if found is None:
            sentence = "the program does not decide this"
            self._drift(self._sequence, record_pb2.DRIFT_KIND_NOT_DECIDED, sentence, recorded)
            return
        moved, decided = found
        decided.record_time.CopyFrom(recorded.record_time)
        self._hash(decided)
        if encoded(decided) != encoded(recorded):
            sentence = "the program decides this with other values"
            kind = record_pb2.DRIFT_KIND_CHANGED
            self._drift(self._sequence, kind, sentence, recorded, decided=decided)
        elif moved:
            sentence = "the program decides this before facts that are recorded before it"
            self._drift(self._sequence, record_pb2.DRIFT_KIND_MOVED, sentence, recorded)

    def _decided_as(self, recorded: journal_pb2.JournalEntry) -> tuple[bool, journal_pb2.JournalEntry] | None:
        """Takes the decision that a recorded fact stands for off those that are awaited.

        Returns: whether it was to come before others that are recorded already, and the decision.
        """
        wanted = _identity(recorded)
        for position, awaited in enumerate(islice(self._expected, _LOOK_AHEAD)):
            if _identity(awaited.entry) == wanted:
                self._overdue += islice(self._expected, position)
                for _ in range(position + 1):
                    self._expected.popleft()
                return False, awaited.entry
        for position, awaited in enumerate(self._overdue[:_LOOK_AHEAD]):
            if _identity(awaited.entry) == wanted:
                del self._overdue[position]
                return True, awaited.entry
        return None

    def _apply(self, entry: journal_pb2.JournalEntry) -> None:
        try:
            self._state, commands = program.decide(self._state, entry)
            decided = [_Expected(self._sequence, fact_of(command)) for command in commands]
        except program.UnknownProgram as error:
            self._stop(record_pb2.DRIFT_KIND_PROGRAM_UNKNOWN, str(error), entry)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # a file of somebody else's may hold anything, and this says so
            sentence = f"the program cannot read the fact: {type(error).__name__}: {error}"[:500]
            self._stop(record_pb2.DRIFT_KIND_UNREADABLE, sentence, entry)
        else:
            self._expected.extend(decided)

    def _stop(self, kind: record_pb2.DriftKind.ValueType, sentence: str, entry: journal_pb2.JournalEntry) -> None:
        self._stopped = True
        self._drift(self._sequence, kind, sentence, entry)

    def _drift(
        self,
        sequence: int,
        kind: record_pb2.DriftKind.ValueType,
        sentence: str,
        entry: journal_pb2.JournalEntry | None = None,
        *,
        decided: journal_pb2.JournalEntry | None = None,
    ) -> None:
        self._report.drift_count += 1
        # The first ones are shown, by their place: those that were never recorded are known last.
        if len(self._drifts) >= 2 * MOST_DRIFTS:
            return
        if len(self._drifts) >= MOST_DRIFTS and kind != record_pb2.DRIFT_KIND_NOT_RECORDED:
            return
        drift = record_pb2.Drift(sequence=sequence, kind=kind, message=sentence)
        if entry is not None:
            drift.path, drift.fact = entry.path, entry.WhichOneof("fact") or ""
        if entry is not None and decided is not None:
            drift.fields.extend(differences(_body(entry), _body(decided), most=_MOST_FIELDS))
        self._drifts.append(drift)

    def _hash(self, entry: journal_pb2.JournalEntry) -> None:
        content = encoded(entry)
        self._decided_now.update(len(content).to_bytes(8, "big"))
        self._decided_now.update(content)


def _identity(entry: journal_pb2.JournalEntry) -> tuple[str, str, int, str]:
    """What makes two facts the same decision, whatever values they hold."""
    fact = entry.WhichOneof("fact") or ""
    # Of a plan, one step of the run decides many things, each at its place.
    place = getattr(entry, fact).place if fact in _AT_PLACES else ""
    return entry.path, fact, entry.call_intended.call_index, place


def _body(entry: journal_pb2.JournalEntry) -> Message:
    """Gives what the fact says, without its frame."""
    fact = entry.WhichOneof("fact")
    return entry if fact is None else getattr(entry, fact)
