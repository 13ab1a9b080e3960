"""Makes the first facts of a fork from those of the run that it is forked from.

The fork's own ids stand in what its program decides, so everything that was decided is decided anew; what came from
outside is taken over as it is. So a fork's journal follows from its program alone, like any other.

    RunStarted ─▶ … facts taken over … ─▶ RunForked (what is pinned from here on) ─▶ … ─▶ calls that are to be made

A fork at a step begins right before it: what that step waited for, an answer or a signal, is the last fact taken over,
and comes after RunForked, so that the step begins with what the fork pins. Only what was written to memory for it is
written again, under the fork's own id, for its later turns to recall.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.errors import Invalid
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.engine.dry_effects import ACTING, digest_of, unpaid
from services.orchestrator.engine.facts import OUTSIDE, Beginning, Replay, advance
from services.orchestrator.programs import run as program
from services.orchestrator.record.pins import Own, owned

Entry = journal_pb2.JournalEntry

#: Facts that a fork takes over at most; one commit has to hold them.
MAX_FACTS: Final = 20_000
MAX_BYTES: Final = 32 * 1024 * 1024
#: Answers of calls that act on the world, kept for a dry fork, and their bytes.
MAX_ANSWERS: Final = 256
MAX_ANSWER_BYTES: Final = 1024 * 1024
#: Facts that only say how calls fare. The fork's calls fare by themselves.
_OF_THE_ENGINE: Final = frozenset({"run_parked", "run_resumed"})
_PAUSES: Final = frozenset({"run_paused", "run_continued"})
#: With these a run goes to its end, so nothing can go on from them.
_LAST: Final = frozenset({"run_cancelling", "run_abandoned", "deadline_passed", "run_ended"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a fork begins: right before a step, or after a fact; neither means from the beginning."""

    path: str = ""
    at_sequence: int = 0


@dataclass(slots=True, kw_only=True)
class Shared:
    """What a fork has in common with the run that it is forked from."""

    #: The run's first fact.
    first: Entry = field(repr=False)
    #: What it pinned last before the place.
    pinned: journal_pb2.RunStarted = field(repr=False)
    #: The last fact that both have. 0: nothing but what the run was started with.
    at_sequence: int = 0
    #: Facts from outside up to that one, without the first.
    taken: Sequence[Entry] = field(default=(), repr=False)
    #: The one that follows and is taken over, too: by it the step begins that is made anew.
    then: Entry | None = field(default=None, repr=False)

    @property
    def bundle(self) -> str:
        """Which bundle of rules judged what is taken over in place of the law; empty when the law did."""
        return self.pinned.fork.bundle if self.at_sequence else ""

    @property
    def until(self) -> datetime:
        """When the last of them was recorded."""
        return _time(self.taken[-1] if self.taken else self.first)

    @property
    def paused(self) -> bool:
        """Whether the run stood still there."""
        held = [entry for entry in self.taken if entry.WhichOneof("fact") in _PAUSES]
        return bool(held) and held[-1].HasField("run_paused")


class SharedFacts:
    """Reads a run up to the place where a fork begins. Takes its facts in order; then `finish`.

    Raises: Invalid: it cannot be forked there. RunDiverged, UnknownProgram: nothing could go on from its facts.
    """

    def __init__(self, run_id: str, place: Place, *, programs: program.Programs = program.PROGRAMS) -> None:
        self._run_id = run_id
        self._place = place
        self._replay = Replay(run_id, programs)
        self._shared: Shared | None = None
        #: Facts from outside up to the last boundary, and the one after it with what followed from that.
        self._outside: list[Entry] = []
        self._open: Entry | None = None
        self._sequence = 0
        self._boundary = 0
        self._bytes = 0
        self._pinned: journal_pb2.RunStarted | None = None

    @property
    def found(self) -> bool:
        """True once the place is known; what comes later is not needed any more."""
        return self._shared is not None

    def take(self, entry: Entry) -> None:
        """Takes the next fact of the run."""
        fact = entry.WhichOneof("fact") or ""
        if fact in OUTSIDE and not self.found:
            self._close(at=self._sequence)
        elif self._place.path and entry.path == self._place.path and not self.found:
            self._begin_before_step()
        if self.found:
            return
        if fact in OUTSIDE:
            self._open = entry
        self._sequence += 1
        self._feed(entry)
        self._refuse_last(fact)
        self._count(entry)

    def finish(self) -> Shared:
        """Gives what the fork shares, once all facts were taken or the place was found."""
        if not self.found:
            self._close(at=self._sequence)
        if self._shared is None:
            raise self._unreached()
        return self._shared

    def _feed(self, entry: Entry) -> None:
        try:
            self._replay.feed(entry)
        except (ValueError, LookupError, DecodeError) as error:
            raise RunDiverged(self._run_id, self._sequence) from error

    def _close(self, *, at: int) -> None:
        """Ends what followed from one fact, if all of it was recorded: here a fork may begin."""
        place = self._place
        if not place.path and at > place.at_sequence:
            self._share(then=None)
            return
        if self._open is not None:
            self._note(self._open)
            self._open = None
        self._boundary = at
        if not place.path and at == place.at_sequence and at:
            self._share(then=None)

    def _note(self, entry: Entry) -> None:
        match entry.WhichOneof("fact"):
            case "run_started":
                self._pinned = entry.run_started
            case "run_forked":
                self._pinned = entry.run_forked.started
            case _:
                pass
        self._outside.append(entry)

    def _begin_before_step(self) -> None:
        opened = self._open
        if opened is None:
            raise ValueError("what is decided follows from a fact")
        own = opened.call_answered.kind or opened.call_failed.kind
        then = None if opened.HasField("run_started") or own == journal_pb2.CALL_KIND_REMEMBER else opened
        self._share(then=then)

    def _share(self, *, then: Entry | None) -> None:
        first = self._outside[0] if self._outside else self._open
        if first is None:
            raise ValueError("a run has a first fact")
        self._shared = Shared(
            first=first,
            pinned=self._pinned or first.run_started,
            at_sequence=self._boundary,
            taken=[entry for entry in self._outside[1:] if entry.WhichOneof("fact") not in _OF_THE_ENGINE],
            then=then,
        )

    def _refuse_last(self, fact: str) -> None:
        """Refuses a place from which the run only went to its end."""
        place = self._place
        if fact in _LAST and not place.path and place.at_sequence >= self._sequence:
            sentence = f"must be at most {self._sequence - 1}: with the fact after that the run goes to its end"
            raise Invalid("at_sequence", sentence)

    def _count(self, entry: Entry) -> None:
        self._bytes += entry.ByteSize()
        if self._sequence > MAX_FACTS or self._bytes > MAX_BYTES:
            field_ = "path" if self._place.path else "at_sequence"
            sentence = f"comes after more than {MAX_FACTS:,} facts or {MAX_BYTES:,} bytes; a fork takes over no more"
            raise Invalid(field_, sentence)

    def _unreached(self) -> Invalid:
        if self._place.path:
            return Invalid("path", f"names no step that run {self._run_id} has begun: {self._place.path[:200]!r}")
        return Invalid("at_sequence", f"must be at most {self._sequence}, the last fact of run {self._run_id}")


class RecordedAnswers:
    """Gathers what calls that act on the world were answered, for a dry fork. Takes all facts of the run."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int], bytes] = {}
        #: By what was asked, and where.
        self._answers: dict[tuple[bytes, str, int], bytes] = {}
        self._bytes = 0

    @property
    def answers(self) -> Sequence[journal_pb2.RecordedAnswer]:
        """Gives those that are kept, in the order in which they came."""
        return [
            journal_pb2.RecordedAnswer(request_digest=digest, path=path, call_index=index, response=response)
            for (digest, path, index), response in self._answers.items()
        ]

    def take(self, entry: Entry) -> None:
        """Takes the next fact of the run."""
        match entry.WhichOneof("fact"):
            case "run_started":
                self._take_over(entry.run_started)
            case "run_forked":
                self._take_over(entry.run_forked.started)
            case "call_intended" if entry.call_intended.kind in ACTING:
                self._asked[entry.path, entry.call_intended.call_index] = digest_of(entry.call_intended)
            case "call_answered" if entry.call_answered.kind in ACTING:
                index = entry.call_answered.call_index
                digest = self._asked.pop((entry.path, index), None)
                if digest is not None:
                    self._keep(digest, entry.path, index, entry.call_answered.response)
            case _:
                pass

    def _take_over(self, started: journal_pb2.RunStarted) -> None:
        """A fork of a dry fork knows what that one knew."""
        for answer in started.fork.answers:
            self._keep(answer.request_digest, answer.path, answer.call_index, answer.response)

    def _keep(self, digest: bytes, path: str, index: int, response: bytes) -> None:
        room = len(self._answers) < MAX_ANSWERS and self._bytes + len(response) <= MAX_ANSWER_BYTES
        if room and (digest, path, index) not in self._answers:
            self._answers[digest, path, index] = response
            self._bytes += len(response)


class FirstFacts:
    """Decides the first facts of a fork anew, a few at a time: between two of them others get a turn.

    Args:
        own: what the fork has of its own.
        pinned: what it pins from its place on.
        by: who asked for it, such as `key_…`.
        now: when it begins. What is taken over keeps its distances in time, and ends here.
        programs: what decides.
    """

    def __init__(
        self,
        shared: Shared,
        own: Own,
        pinned: journal_pb2.RunStarted,
        *,
        by: str,
        now: datetime,
        programs: program.Programs = program.PROGRAMS,
    ) -> None:
        self._shared = shared
        self._own = own
        self._pinned = pinned
        self._by = by
        self._now = now
        self._state = program.RunState(programs=programs)
        self._entries: list[Entry] = []

    @property
    def beginning(self) -> Beginning:
        """What was made, once `made` has come to its end."""
        return Beginning(state=self._state, entries=self._entries)

    def made(self) -> Iterator[int]:
        """Makes them; gives the number of facts so far now and then."""
        shared = self._shared
        if not shared.at_sequence:
            yield self._add(Entry(run_started=self._pinned), self._now)
            return
        passed = self._now - shared.until
        for entry in (shared.first, *shared.taken):
            yield self._add(self._as_own(entry), _time(entry) + passed)
        yield self._add(Entry(run_forked=journal_pb2.RunForked(started=self._pinned, by=self._by)), self._now)
        if shared.paused:
            waits = self._state.root is not None and self._state.root.waiting
            yield self._add(Entry(run_continued=journal_pb2.RunContinued(by=self._by, waiting=waits)), self._now)
        if shared.then is not None:
            yield self._add(unpaid(self._as_own(shared.then)), self._now)

    def _as_own(self, entry: Entry) -> Entry:
        """Gives a fact that is taken over, as it stands in the fork."""
        mine = Entry()
        mine.CopyFrom(entry)
        if mine.HasField("run_started"):
            mine.run_started.CopyFrom(owned(entry.run_started, self._own))
        elif mine.HasField("run_forked"):
            mine.run_forked.started.CopyFrom(owned(entry.run_forked.started, self._own))
        return mine

    def _add(self, entry: Entry, at: datetime) -> int:
        stamp = Timestamp()
        stamp.FromDatetime(at)
        self._state, made = advance(self._state, [entry], stamp)
        self._entries += made
        return len(self._entries)


def _time(entry: Entry) -> datetime:
    return entry.record_time.ToDatetime(tzinfo=UTC)
