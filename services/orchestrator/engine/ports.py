"""What the engine needs from storage, from the worker and from the live bus."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Protocol

from google.protobuf.message import Message

from comitia.orchestrator.v1 import journal_pb2, session_service_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.run import (
    Created,
    Holdings,
    ModelCall,
    OwnedRun,
    RunCommand,
    RunView,
    RunWrite,
    ShardLease,
    StartKey,
)


class WritesNotReady(Exception):
    """What some writes of a commit need cannot be had just now: a key, or room in the object store. Nothing is written.

    Args:
        run_ids: whose writes these are. The others need not wait for them.
    """

    def __init__(self, cause: str, run_ids: Collection[str]) -> None:
        super().__init__(cause)
        self.run_ids = frozenset(run_ids)


class Starts(Protocol):
    """Records new runs."""

    async def started_before(self, key: StartKey) -> RunView | None:
        """Gives what this request was answered when it started a run, None if it did not.

        Raises: RequestIdReused; RequestInProgress: it is about to.
        """
        ...

    async def check_quota(self, tenant: TenantId) -> None:
        """Refuses when the tenant has as many runs in progress as it may. Raises: QuotaExceeded."""
        ...

    async def create(self, first: RunWrite, key: StartKey | None, lease: ShardLease | None) -> Created:
        """Records a new run with its first facts.

        Args:
            lease: under which its starter would drive it; None when its starter holds no shard.
        Returns: also of a run with this id that was recorded before, as it stands: a sub-run has the id of its place.
        Raises: RequestIdReused; RequestInProgress; QuotaExceeded: whoever else starts runs meanwhile.
        """
        ...


class Journal(Protocol):
    """Keeps the facts of runs, and what callers see of each."""

    def preparation(self, write: RunWrite) -> Callable[[], Awaitable[None]] | None:
        """Gives what has to be done before a write joins a commit, so that a commit waits for the database alone.

        Returns: None when there is nothing to be done. It raises WritesNotReady.
        """
        ...

    async def commit(self, leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        """Writes facts and views of many runs in one transaction that checks the leases of all their shards.

        Args:
            leases: of the shards of these runs, in ascending order.
        Returns: the shards whose lease is lost, and then nothing is written (INV-2); none when all is written.
        Raises: WritesNotReady. MeshError: nothing is written, or, if the database went away, perhaps everything. Any
            other error: one of the writes cannot be made: its run is gone, or its facts are recorded or its commands
            done already.
        """
        ...

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """Gives the recorded facts after a sequence with their sequences, in order, a bounded number at a time."""
        ...

    async def view(self, tenant: TenantId, run_id: str) -> RunView:
        """Gives what callers see of a run as it was last written. Raises: RunNotFound."""
        ...

    async def last_sequence(self, tenant: TenantId, run_id: str) -> int:
        """Gives the sequence of a run's last fact, which nobody need be able to read; 0 where there is none."""
        ...


class Leases(Protocol):
    """Says which replica may write to the runs of which shard."""

    async def hold(self, owner: str, leases: Sequence[ShardLease], *, restarted: bool, most: int | None) -> Holdings:
        """Says that a replica is alive, extends its leases and claims shards that nobody holds, up to its fair share.

        Args:
            owner: `replica/incarnation`.
            leases: those that it holds.
            restarted: take also shards of the replica's earlier incarnations, whose leases need not run out first.
            most: claim at most so many, besides those held; None for no bound but the share.
        """
        ...

    async def release(self, owner: str, leases: Sequence[ShardLease], *, leaving: bool) -> None:
        """Ends leases at once, so that another replica can go on.

        Args:
            leaving: the replica stops, and takes no share any more; what else it holds ends as well.
        """
        ...


class RunFinder(Protocol):
    """Finds the runs of shards that have something to do."""

    async def open_runs(self, shard: int, *, after: str | None) -> Sequence[OwnedRun]:
        """Gives runs of a shard that have something to do, in order of their ids, a bounded number at a time.

        Runs that only wait for somebody come when a command for them does.
        """
        ...

    async def waking_runs(
        self, shards: Collection[int], *, before: datetime, but: Collection[str] = ()
    ) -> Sequence[OwnedRun]:
        """Gives runs of these shards whose moment comes before this one, but for those named; a bounded number."""
        ...

    async def owned_run(self, run_id: str) -> OwnedRun | None:
        """Gives a run, None if there is none that has not ended."""
        ...

    async def open_in_tree(self, run: OwnedRun, *, after: str | None) -> Sequence[OwnedRun]:
        """Gives runs that have not ended and may lie below this one, in order of their ids, a bounded number at a time.

        Runs of the same tenant that began in the same millisecond may be among them.
        """
        ...


class Inbox(Protocol):
    """Keeps commands until the owners of their runs have taken them."""

    async def add_command(self, tenant: TenantId, run_id: str, command: RunCommand) -> RunCommand:
        """Stores a command for the run's owner.

        Returns: the command that waits now; the latest that waits already, if it is of the same kind, for it does the
            same. Signals wait each for itself.
        Raises: SignalsAtLimit: too many of them wait.
        """
        ...

    async def commands_of(self, run_id: str) -> Sequence[RunCommand]:
        """Gives the waiting commands of one run, oldest first; of too many, signals are left out before others are."""
        ...

    async def commands(
        self, shards: Collection[int], *, after: str | None = None
    ) -> Mapping[str, Sequence[RunCommand]]:
        """Gives waiting commands of runs of these shards, in order of the runs' ids: a bounded number of runs after
        this one, and of commands of each, oldest first; of too many, signals are left out before others are.
        """
        ...

    async def drop_late_commands(self) -> int:
        """Removes commands of runs that have ended, a bounded number at a time; says how many."""
        ...

    async def is_waiting(self, tenant: TenantId, command: RunCommand) -> bool:
        """Says whether a command still waits for its run's owner."""
        ...


class RunStore(Protocol):
    """Where runs are kept, by what is asked of it."""

    @property
    def starts(self) -> Starts:
        """Begins runs."""
        ...

    @property
    def journal(self) -> Journal:
        """Reads and writes what they record."""
        ...

    @property
    def leases(self) -> Leases:
        """Gives shards to replicas."""
        ...

    @property
    def finder(self) -> RunFinder:
        """Finds what its owner has to take up."""
        ...

    @property
    def inbox(self) -> Inbox:
        """Takes what is asked of runs."""
        ...


class Outcome(Protocol):
    """What a call in flight knows of the run that makes it, and reports to it."""

    @property
    def speaker(self) -> str:
        """The agent to whose turn the call belongs, `name@version`; empty for a call that belongs to none."""
        ...

    @property
    def again(self) -> bool:
        """True where whoever drove the run before may have made the call, and shown of its text."""
        ...

    def asking(self) -> AbstractContextManager[None]:
        """Encloses one try, from where it is about to be sent. Outside of it, a call ends when its run changes hands.

        Raises: NobodyWaits: the try has failed, and the run is driven elsewhere.
        """
        ...

    async def delta(self, path: str, text: str, *, restart: bool = False) -> None:
        """Shows text of a turn in progress, already passed by law."""
        ...

    def parked(self, path: str, reason: str, message: str) -> None:
        """Says that the call cannot go on for now and is being tried again."""
        ...

    def resumed(self, path: str) -> None:
        """Says that a call which was `parked` goes on."""
        ...


class NobodyWaits(Exception):
    """The run is not driven here any more: whoever has it now makes the call."""


class Calls(Protocol):
    """Makes outward calls."""

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """Makes the call of a CallIntended fact, patiently: what may pass is tried again.

        Returns: the callee's answer; for a sub-run the first fact of the run that is to be started.
        Raises: MeshError: the failure that the program has to decide on; NobodyWaits.
        """
        ...


#: Hears which calls of models of a run have an outcome that is recorded; never waits.
CallsSettled = Callable[[OwnedRun, Sequence[ModelCall]], None]


def nobody_is_told(run: OwnedRun, calls: Sequence[ModelCall]) -> None:
    """Implements `CallsSettled` where no inference keeps anything."""


class LiveEvents(Protocol):
    """Tells watchers and owners right now; may lose anything."""

    async def publish(self, tenant: TenantId, run_id: str, event: session_service_pb2.WatchSessionResponse) -> None:
        """Sends a text delta, or with no event in it the news that facts were recorded; to nobody, nothing."""
        ...

    def is_watched(self, tenant: TenantId, run_id: str, sequence: int) -> bool:
        """Says whether anybody watches a run, whose facts up to this sequence are recorded by now.

        Who comes right after is told of them by itself; so nothing has to be published where nobody watches.
        """
        ...

    def watch(
        self, tenant: TenantId, run_id: str
    ) -> AbstractAsyncContextManager[AsyncIterator[session_service_pb2.WatchSessionResponse]]:
        """Listens to what `publish` sends. Waiting for the next may be given up and begun again."""
        ...

    async def wake_owner(self, run_id: str) -> None:
        """Tells the run's owner that a command waits."""
        ...

    def wakes(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listens to `wake_owner`; gives run ids."""
        ...


class RunEvents(Protocol):
    """Tells programs beside the mesh what was recorded; may lose anything."""

    def recorded(self, write: RunWrite) -> None:
        """Takes what a commit has recorded; never waits."""
        ...
