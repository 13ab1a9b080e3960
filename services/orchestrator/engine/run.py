"""Nouns of the engine: a run of an owned shard, what a tick writes of it, and what is asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid

#: Shards of one installation. Runs are spread over them by a hash of their id, for ever.
SHARDS: Final = 64
#: Kind of the commands that carry something, and of which each counts.
SIGNAL: Final = "signal"

#: What callers see of a run.
RunView = run_pb2.Run | session_pb2.Session


class RunKind(IntEnum):
    """Which of the two callers see; numbers as in the database."""

    SESSION = 0
    RUN = 1


def kind_of(view: RunView) -> RunKind:
    """Says of what kind a view is."""
    return RunKind.SESSION if isinstance(view, session_pb2.Session) else RunKind.RUN


def session_of(view: RunView) -> session_pb2.Session:
    """Gives a view as the session that it is known to be. Raises: ValueError: it is of another kind."""
    if not isinstance(view, session_pb2.Session):
        raise ValueError("the view of a session is a session")
    return view


def shard_of(run_id: str) -> int:
    """Gives the shard of a run, 0 to 63. Raises: Invalid: it is no id of a run."""
    return int.from_bytes(sha256(to_uuid(run_id, "run").bytes).digest()[:2], "big") % SHARDS


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedRun:
    """A run, and the shard whose owner writes to it."""

    tenant: TenantId
    #: `run_…`.
    run_id: str
    grant_id: str
    shard: int
    #: What `run_id` says.
    uuid: UUID = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "uuid", to_uuid(self.run_id, "run"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLease:
    """The right to write to the runs of a shard."""

    shard: int
    #: Fencing number: grows with every change of hands. A commit under an older one writes nothing.
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a replica may write to, as the database has just said."""

    leases: tuple[ShardLease, ...]
    #: How many shards are a fair part, with all replicas that are alive. Those beyond are to be handed over.
    share: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartKey:
    """What makes a start request the same request."""

    tenant: TenantId
    #: Of what it starts.
    kind: RunKind
    request_id: UUID
    #: The request, encoded deterministically, without its `request_id`.
    body: bytes = field(repr=False)
    #: True when it forks a run.
    forks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """What somebody asked of a run: `advance`, `cancel`, `pause`, `resume` or `signal`.

    `adopt` comes from a replica that recorded a run of another one's shard.
    """

    command_id: UUID
    kind: str
    #: Subject who asked, or the run that started it.
    by: str
    #: An encoded SignalReceived fact, for a signal.
    payload: bytes = field(default=b"", repr=False)


#: A sub-run, and what it is told.
HandedDown = tuple[str, RunCommand]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBlob:
    """A fact that is too big for its row, ready to be put."""

    sequence: int
    digest: bytes
    name: str
    content: bytes = field(repr=False)


@dataclass(slots=True)
class SealedRow:
    """The facts of one write, ready to be committed."""

    payload: bytes = field(repr=False)
    #: Of each fact, 32 bytes each, in order.
    commitments: bytes = field(repr=False)
    #: To be put before the row is committed.
    blobs: Sequence[SealedBlob] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes, in the database and in the object store."""
        inline = len(self.payload)
        return inline + sum(len(blob.content) for blob in self.blobs) if self.blobs else inline


class ModelCall(NamedTuple):
    """Place of a call of a model in its run."""

    path: str
    attempt_group: int
    call_index: int


@dataclass(slots=True, kw_only=True)
class RunWrite:
    """What one tick writes of one run: its facts, and what callers see of it afterwards.

    Nobody changes it. It is not frozen, for one is made for every run of every tick, and freezing is most of its price.
    """

    run: OwnedRun
    first_sequence: int
    entries: Sequence[journal_pb2.JournalEntry]
    #: None when nothing of it has changed but its sequence.
    view: RunView | None
    #: When the run has to be looked at next, though nothing arrives; counts with a view only.
    wake_time: datetime | None = None
    #: Number and sequence of the turns among the facts.
    turns: Sequence[tuple[int, int]] = ()
    #: Commands whose effect is among the facts, and which are done with it.
    commands: Sequence[UUID] = ()
    #: What sub-runs that have not ended are told: to end, for nobody waits for them any more, or to stand still and go
    #: on with their parent.
    handed_down: Sequence[HandedDown] = ()
    #: The calls that its facts ask for, and that are to be made once it is recorded; None when all calls of the run are
    #: that wait for their outcome and that nobody makes.
    calls: Sequence[journal_pb2.JournalEntry] | None = ()
    #: Its facts as they lie in the journal, where they had to be made ready before a commit; None for any other.
    sealed: SealedRow | None = field(default=None, repr=False, compare=False)
    #: The calls of models whose outcomes are among its facts, or among older ones that this replica has read.
    settled: Sequence[ModelCall] = ()
    #: True when all facts are calls and their answers: they are nobody's business but the run's.
    only_calls: bool = False
    #: Its facts as they are recorded, each encoded once, and their bytes together.
    encoded: Sequence[bytes] = field(init=False, repr=False, compare=False)
    size: int = field(init=False, repr=False, compare=False)
    #: Sequence of the last fact.
    last_sequence: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.encoded = encoded = [entry.SerializeToString() for entry in self.entries]
        self.size = sum(map(len, encoded))
        self.last_sequence = self.first_sequence + len(encoded) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What became of the wish to record a run."""

    #: The answer to a concurrent repeat of the request, or the run that had this id before: then nothing was written.
    earlier: RunView | None = None
    #: True when the lease held: the starter drives the run. Else its shard's owner finds a command to adopt it.
    held: bool = True


def give_up(parent: OwnedRun) -> RunCommand:
    """Has a sub-run end that nobody waits for any more. The same each time."""
    return RunCommand(command_id=parent.uuid, kind="cancel", by=parent.run_id)


def follow(parent: OwnedRun, command: RunCommand) -> RunCommand:
    """Has a sub-run do what its parent was asked to."""
    # The next id: of the same moment, and another one than that for which somebody may wait.
    return RunCommand(command_id=UUID(int=command.command_id.int + 1), kind=command.kind, by=parent.run_id)


def stand_still(run: OwnedRun, parent_run_id: str) -> RunCommand:
    """Has a run stand still from its beginning, because its parent does."""
    # The id of a sub-run begins with the time of its tree: whatever is asked of it comes later.
    return RunCommand(command_id=UUID(int=run.uuid.int + 1), kind="pause", by=parent_run_id)


def parent_of(view: RunView) -> str:
    """Gives the run that started this one as a step; empty for none."""
    return view.parent_run_id if isinstance(view, run_pb2.Run) else ""
