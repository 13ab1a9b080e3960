"""What has to hold of every run at every moment, looked at from outside: at the database, at callees and at workers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.orchestrator.engine.facts import Replay
from services.orchestrator.engine.run import SIGNAL, OwnedRun, RunCommand, RunWrite, ShardLease
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.views import view_of
from services.orchestrator.programs.run_view import TERMINAL_STATES
from services.orchestrator.programs.view import ENGINE_FAULT
from tests.support.run_store import StoredRun, StoredShard

Entry = journal_pb2.JournalEntry

#: How a fact writes that a command was obeyed. `advance` is told by the round that follows.
_FACT_OF = {"cancel": "run_cancelling", "pause": "run_paused", "resume": "run_continued", "advance": "run_advanced"}


#: Refusals after which a run is left where it stands.
_TRIES = 3
#: How often a run may be read without any fact that follows, whatever happens.
_MOST_IDLE = 40


class Broken(AssertionError):
    """Something that has to hold does not."""


@dataclass(slots=True)
class _Seen:
    """What the journal of one run says so far."""

    facts: int = 0
    ended: bool = False
    #: Somebody paused it, and nobody has asked since to let it go on.
    paused: bool = False
    intended: dict[CallKey, Entry] = field(default_factory=dict[CallKey, Entry])
    settled: set[CallKey] = field(default_factory=set[CallKey])
    #: Who was obeyed, by the fact that says so, and the payloads of signals.
    obeyed: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))
    commands: dict[UUID, RunCommand] = field(default_factory=dict[UUID, RunCommand])
    #: Outputs that workers and callees gave, by call, encoded.
    given: defaultdict[CallKey, set[bytes]] = field(default_factory=lambda: defaultdict[CallKey, set[bytes]](set))
    #: How often its journal may be read for nothing: once for a run that its owner did not start.
    reads: int = 0
    #: How often it was read since its last fact.
    idle: int = 0
    #: Parked by our fault, until somebody has it tried again.
    parked: bool = False
    #: How often a write was refused since its last fact.
    refused: int = 0
    #: How often somebody was asked for it.
    made: defaultdict[CallKey, int] = field(default_factory=lambda: defaultdict[CallKey, int](int))


class Judge:
    """Sees every write, call, lease and piece of news. Everything raises Broken."""

    def __init__(self) -> None:
        self._runs: defaultdict[str, _Seen] = defaultdict(_Seen)
        #: True while nothing happens by which a healthy run may be read again, or a call be made twice.
        self.calm = False
        #: True while no process stands still: one that wakes may do what it was about to do.
        self.awake = False
        #: The runs that may be read again all the same.
        self.excused: set[str] = set()
        self.faults: list[str] = []

    def broken(self, sentence: str) -> None:
        """Notes what does not hold, and stops whoever did it."""
        self.faults.append(sentence)
        raise Broken(sentence)

    # The database.

    def writes(
        self, owner: str, leases: Sequence[ShardLease], writes: Sequence[RunWrite], shards: Sequence[StoredShard]
    ) -> None:
        """Looks at a commit at the moment when it takes effect."""
        covered = {lease.shard for lease in leases}
        for lease in leases:
            shard = shards[lease.shard]
            if shard.epoch != lease.epoch or shard.owner not in (owner, None):
                self.broken(f"INV-2: {owner} writes to shard {lease.shard}, which is {shard.owner}'s")
        for write in writes:
            if write.run.shard not in covered:
                self.broken(f"INV-2: {owner} writes to shard {write.run.shard} under no lease")
            self.wrote(write)

    def wrote(self, write: RunWrite) -> None:
        """Takes the facts of a write."""
        run_id, seen = write.run.run_id, self._runs[write.run.run_id]
        if write.entries and write.first_sequence != seen.facts + 1:
            self.broken(f"{run_id}: fact {write.first_sequence} follows fact {seen.facts}")
        for entry in write.entries:
            if seen.ended:
                self.broken(f"{run_id}: {entry.WhichOneof('fact')} after its end")
            seen.facts += 1
            seen.idle = seen.refused = 0
            self._take(run_id, seen, entry)
        for command_id in write.commands:
            self._done(run_id, seen, command_id)

    def _take(self, run_id: str, seen: _Seen, entry: Entry) -> None:
        match entry.WhichOneof("fact"):
            case "call_intended":
                key = entry.path, entry.call_intended.call_index
                if key in seen.intended:
                    self.broken(f"{run_id}: call {key} is intended twice")
                copied = Entry()
                copied.CopyFrom(entry)
                seen.intended[key] = copied
            case "call_answered":
                key = entry.path, entry.call_answered.call_index
                self._settle(run_id, seen, key)
                if not self._gave(seen, key, entry.call_answered):
                    self.broken(f"{run_id}: nobody gave what call {key} is said to have given")
            case "call_failed":
                self._settle(run_id, seen, (entry.path, entry.call_failed.call_index))
            case "run_cancelling":
                seen.obeyed["cancel"].append(entry.run_cancelling.by)
            case "run_paused":
                seen.obeyed["pause"].append(entry.run_paused.by)
                seen.paused = True
            case "run_continued":
                seen.obeyed["resume"].append(entry.run_continued.by)
                seen.paused = False
            case "run_parked":
                seen.parked = entry.run_parked.reason == ENGINE_FAULT
            case "run_resumed":
                seen.parked = False
            case "run_advanced":
                seen.obeyed["advance"].append(entry.run_advanced.by)
            case "signal_received":
                seen.obeyed[SIGNAL].append(entry.signal_received.by)
                if seen.obeyed[SIGNAL].count(entry.signal_received.by) > 1:
                    self.broken(f"{run_id}: one signal came twice")
            case "run_ended" | "run_abandoned":
                seen.ended = True
            case _:
                pass

    def _gave(self, seen: _Seen, key: CallKey, answered: journal_pb2.CallAnswered) -> bool:
        if answered.kind != journal_pb2.CALL_KIND_RUN:
            return answered.response in seen.given[key]
        task = journal_pb2.SubRunTask.FromString(seen.intended[key].call_intended.request)
        return self._runs[task.run_id].ended

    def _settle(self, run_id: str, seen: _Seen, key: CallKey) -> None:
        if key not in seen.intended:
            self.broken(f"{run_id}: call {key} was never intended")
        if key in seen.settled:
            self.broken(f"INV-3: {run_id}: call {key} is settled twice")
        seen.settled.add(key)

    def asked(self, run_id: str, command: RunCommand) -> None:
        """Takes a command that waits in the database now."""
        seen = self._runs[run_id]
        seen.commands[command.command_id] = command
        if command.kind == "resume":
            seen.paused = False

    def _done(self, run_id: str, seen: _Seen, command_id: UUID) -> None:
        """Looks at a command that waits no longer: what always has an effect has had it."""
        command = seen.commands.get(command_id)
        if command is None or command.kind not in ("cancel", SIGNAL) or seen.ended:
            return
        if command.by not in seen.obeyed[command.kind]:
            self.broken(f"{run_id}: the {command.kind} of {command.by} is gone without effect")

    def refused(self, run_id: str) -> None:
        """Takes that what a run wants written is refused."""
        self._runs[run_id].refused += 1

    def adopted(self, run_id: str) -> None:
        """Takes a run that its owner has to find."""
        self._runs[run_id].reads += 1

    def reads(self, run_id: str, *, rested: bool) -> None:
        """Looks at a journal that is read from its beginning."""
        seen = self._runs[run_id]
        seen.idle += 1
        if seen.idle > _MOST_IDLE and run_id not in self.excused:
            self.broken(f"{run_id}: is read again and again, and nothing comes of it")
        if self.calm and not rested and run_id not in self.excused:
            seen.reads -= 1
            if seen.reads < 0:
                self.broken(f"{run_id}: was set aside for nothing")

    # Whoever is called.

    def calls(self, run: OwnedRun, intended: Entry) -> None:
        """Looks at a call at the moment when it is made."""
        seen, key = self._runs[run.run_id], (intended.path, intended.call_intended.call_index)
        if seen.intended.get(key) != intended:
            self.broken(f"INV-1: {run.run_id}: call {key} is made before its fact is recorded")
        # A sub-run is a call from when it is looked for, which is earlier.
        if seen.paused and self.awake and intended.call_intended.kind != journal_pb2.CALL_KIND_RUN:
            self.broken(f"{run.run_id}: call {key} is made though the run is paused")
        if seen.parked and self.awake:
            self.broken(f"{run.run_id}: call {key} is made though the run is parked by a fault")
        if self.calm and seen.refused >= _TRIES:
            self.broken(f"{run.run_id}: call {key} is made again and again, though nothing can be recorded")
        seen.made[key] += 1
        if self.calm and seen.made[key] > 1 and run.run_id not in self.excused:
            self.broken(f"{run.run_id}: call {key} is made twice for nothing")

    def leased(self, run_id: str, path: str, attempt: int) -> CallKey:
        """Looks at a step at the moment when its worker is told of it; gives its call."""
        for key, entry in reversed(self._runs[run_id].intended.items()):
            if key[0] == path and (entry.call_intended.attempt or 1) == attempt:
                return key
        self.broken(f"INV-1: {run_id}: a worker has attempt {attempt} of {path} before its fact is recorded")
        raise AssertionError

    def gives(self, run_id: str, key: CallKey, response: bytes) -> None:
        """Takes what somebody answers to a call."""
        self._runs[run_id].given[key].add(response)

    def is_open(self, run_id: str, key: CallKey) -> bool:
        """Says whether a call still waits for its outcome, as far as the journal tells."""
        seen = self._runs[run_id]
        return key not in seen.settled and not seen.ended

    def news(self, run_id: str, sequence: int) -> None:
        """Looks at news for watchers."""
        if sequence > self._runs[run_id].facts:
            self.broken(f"INV-1: {run_id}: watchers hear of fact {sequence}, which is not recorded")

    def recorded(self, write: RunWrite) -> None:
        """See `RunEvents.recorded`."""
        if write.last_sequence > self._runs[write.run.run_id].facts:
            self.broken(f"INV-1: {write.run.run_id}: others hear of fact {write.last_sequence}, which is not recorded")

    # The end.

    def last_look(self, runs: Sequence[StoredRun]) -> None:
        """Looks at all runs when nothing goes on any more."""
        for stored in runs:
            run_id = stored.run.run_id
            if not stored.ended:
                self.broken(f"{run_id}: is lost in {run_pb2.RunState.Name(stored.seen.state)}")  # type: ignore[arg-type]
            self._replays(stored)

    def _replays(self, stored: StoredRun) -> None:
        replay, journal = Replay(stored.run.run_id), stored.journal
        view = view_of(journal[0].run_started)
        try:
            for sequence, entry in enumerate(journal, 1):
                replay.feed(entry)
                view.take_fact(entry.WhichOneof("fact"), entry, sequence)
            replay.finish()
        except Exception as error:
            raise Broken(f"INV-4: {stored.run.run_id}: its journal does not replay: {error!r}") from error
        if view.written() != stored.seen:
            self.broken(f"INV-4: {stored.run.run_id}: callers see something else than the journal tells")
        if stored.seen.state not in TERMINAL_STATES:
            self.broken(f"{stored.run.run_id}: is not terminal")
