"""Runs in memory: a store with fenced shards on a clock that tests move, calls held back, and events in the process."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, Self, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from comitia.orchestrator.v1 import journal_pb2, session_pb2, session_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import RequestIdReused, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.testing.fault_queue import FaultQueue
from services.orchestrator.domain.errors import RunNotFound, SignalsAtLimit
from services.orchestrator.domain.sub_run_id import ids_of_tree
from services.orchestrator.engine.ports import NobodyWaits, Outcome
from services.orchestrator.engine.run import (
    SHARDS,
    SIGNAL,
    Created,
    Holdings,
    OwnedRun,
    RunCommand,
    RunView,
    RunWrite,
    ShardLease,
    StartKey,
    parent_of,
    session_of,
    stand_still,
)
from services.orchestrator.programs.view import TERMINAL_STATES
from tests.support.sessions import World

LEASE = timedelta(seconds=15)
FACTS_AT_ONCE = 64
RUNS_AT_ONCE = 64
WAITING_SIGNALS = 1_000
WAITING_COMMANDS = 64
COMMANDS_AT_ONCE = 1_000
COMMANDED_AT_ONCE = 64
COMMANDS_OF_EACH = 16
T = TypeVar("T")
M = TypeVar("M", bound=Message)


class WriteRefused(Exception):
    """What a constraint of the database says: a run or a command is gone, or a fact is recorded already."""


@dataclass(slots=True)
class StoredShard:
    """One shard with its lease."""

    owner: str | None = None
    epoch: int = 0
    until: datetime | None = None


@dataclass(slots=True)
class StoredRun:
    """One run: its rows of facts by their first sequence, and what callers see of it."""

    run: OwnedRun
    rows: dict[int, list[journal_pb2.JournalEntry]] = field(default_factory=dict[int, list[journal_pb2.JournalEntry]])
    seen: RunView = field(default_factory=session_pb2.Session)
    #: Where each turn lies, by its number.
    turns: dict[int, int] = field(default_factory=dict[int, int])
    commands: list[RunCommand] = field(default_factory=list[RunCommand])
    wake_time: datetime | None = None

    @property
    def view(self) -> session_pb2.Session:
        """What callers see of it, a session."""
        return session_of(self.seen)

    @property
    def journal(self) -> list[journal_pb2.JournalEntry]:
        """All facts, in order."""
        return [entry for first in sorted(self.rows) for entry in self.rows[first]]

    @property
    def numbered(self) -> list[tuple[int, journal_pb2.JournalEntry]]:
        """All facts with their sequences."""
        return [found for first in sorted(self.rows) for found in enumerate(self.rows[first], first)]

    @property
    def ended(self) -> bool:
        """True once it has its final state."""
        return self.seen.state in TERMINAL_STATES

    @property
    def rests(self) -> bool:
        """True for a run that only waits for somebody."""
        return self.seen.state in (session_pb2.SESSION_STATE_WAITING, session_pb2.SESSION_STATE_PAUSED)


class OneForAll:
    """Implements all ports of `engine.ports.RunStore` itself, as one database does."""

    @property
    def starts(self) -> Self:
        """See `RunStore.starts`."""
        return self

    @property
    def journal(self) -> Self:
        """See `RunStore.journal`."""
        return self

    @property
    def leases(self) -> Self:
        """See `RunStore.leases`."""
        return self

    @property
    def finder(self) -> Self:
        """See `RunStore.finder`."""
        return self

    @property
    def inbox(self) -> Self:
        """See `RunStore.inbox`."""
        return self


class MemoryRunStore(OneForAll):
    """Implements `engine.ports.RunStore`. Every method is one step, but for a commit: claims skip its shards meanwhile.

    Args:
        clock: the database's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.shards = [StoredShard() for _ in range(SHARDS)]
        #: Until when each `replica/incarnation` counts as alive.
        self.replicas: dict[str, datetime] = {}
        self.runs: dict[str, StoredRun] = {}
        self.requests: dict[tuple[TenantId, UUID], tuple[bytes, RunView]] = {}
        #: How many commits are under way, by shard.
        self._committing = Counter[int]()
        #: Fail the next commits before anything is written, or after everything was.
        self.commit_faults = FaultQueue()
        self.lost_answers = FaultQueue()
        self.create_faults = FaultQueue()
        self.hold_faults = FaultQueue()
        #: What a commit fails by that has to do with one of these runs.
        self.poison: dict[str, Exception] = {}
        #: What writes of a run wait for before they join a commit.
        self.preparations: dict[str, Callable[[], Awaitable[None]]] = {}
        #: While cleared, commits that have begun do not end; and how many have begun.
        self.commits_end = asyncio.Event()
        self.commits_end.set()
        self.commits = 0
        #: While cleared, journals cannot be read; and how many wait to be.
        self.readable = asyncio.Event()
        self.readable.set()
        self.readers = 0
        #: How often somebody asked whether a command still waits.
        self.looks = 0

    async def check_quota(self, tenant: TenantId) -> None:
        """See `Starts.check_quota`; there are no quotas here."""

    async def started_before(self, key: StartKey) -> RunView | None:
        """See `Starts.started_before`."""
        kept = self.requests.get((key.tenant, key.request_id))
        if kept is not None and kept[0] != key.body:
            raise RequestIdReused(str(key.request_id))
        return None if kept is None else _copy(kept[1])

    async def create(self, first: RunWrite, key: StartKey | None, lease: ShardLease | None) -> Created:
        """See `Starts.create`."""
        await asyncio.sleep(0)
        if key is not None and (earlier := await self.started_before(key)) is not None:
            return Created(earlier=earlier)
        if first.view is None:
            raise ValueError("a new run has a view")
        if first.run.run_id in self.runs:
            return Created(earlier=_copy(self.runs[first.run.run_id].seen))
        stored = StoredRun(first.run)
        self.runs[first.run.run_id] = stored
        self._write(first)
        parent = self.runs.get(parent_of(first.view))
        if parent is not None and parent.seen.state == session_pb2.SESSION_STATE_PAUSED:
            stored.commands.append(stand_still(first.run, parent.run.run_id))
        if key is not None:
            self.requests[key.tenant, key.request_id] = (key.body, _copy(first.view))
        held = lease is not None and not self._is_lost(lease)
        if not held:
            stored.commands.append(RunCommand(command_id=to_uuid(first.run.run_id, "run"), kind="adopt", by=""))
        self.create_faults.hit()
        return Created(held=held)

    def preparation(self, write: RunWrite) -> Callable[[], Awaitable[None]] | None:
        """See `Journal.preparation`."""
        return self.preparations.get(write.run.run_id)

    async def commit(self, leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        """See `Journal.commit`."""
        await asyncio.sleep(0)
        self.commit_faults.hit()
        self.commits += 1
        lost = [lease.shard for lease in leases if self._is_lost(lease)]
        if lost:
            return lost
        with self.under_way(lease.shard for lease in leases):
            if not self.commits_end.is_set():
                await self.commits_end.wait()
            self._refuse(writes)
            for write in writes:
                self._write(write)
        self.lost_answers.hit()
        return ()

    @contextmanager
    def under_way(self, shards: Iterable[int]) -> Generator[None]:
        """Has commits of these shards under way while the block runs."""
        numbers = list(shards)
        self._committing.update(numbers)
        try:
            yield
        finally:
            self._committing.subtract(numbers)

    def _is_lost(self, lease: ShardLease) -> bool:
        shard = self.shards[lease.shard]
        return shard.epoch != lease.epoch or shard.until is None or shard.until <= self._clock.now()

    def _refuse(self, writes: Sequence[RunWrite]) -> None:
        """Raises: what one of the writes cannot be written by; then none is."""
        seen = set[tuple[str, int]]()
        for write in writes:
            run_id = write.run.run_id
            if run_id in self.poison:
                raise self.poison[run_id]
            waiting = {one.command_id for one in self.runs[run_id].commands} if run_id in self.runs else set[UUID]()
            if not waiting.issuperset(write.commands):
                raise WriteRefused("a command had its effect before")
            if not write.entries:
                continue
            if run_id not in self.runs:
                raise WriteRefused("a run is gone")
            place = run_id, write.first_sequence
            if place in seen or write.first_sequence in self.runs[run_id].rows:
                raise WriteRefused("these facts are recorded already")
            seen.add(place)

    def _write(self, write: RunWrite) -> None:
        stored = self.runs.get(write.run.run_id)
        if stored is None:
            return
        if write.entries:
            stored.rows[write.first_sequence] = [_copy(entry) for entry in write.entries]
        if write.view is not None:
            stored.seen = _copy(write.view)
            stored.wake_time = write.wake_time
        stored.turns.update(write.turns)
        stored.commands = [one for one in stored.commands if one.command_id not in write.commands]
        for sub_run_id, command in write.handed_down:
            sub_run = self.runs.get(sub_run_id)
            if sub_run is not None and not sub_run.ended and command not in sub_run.commands:
                sub_run.commands.append(command)

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `Journal.entries`."""
        self.readers += 1
        try:
            await self.readable.wait()
        finally:
            self.readers -= 1
        return [(sequence, entry) for sequence, entry in self.runs[run_id].numbered if sequence > after][:FACTS_AT_ONCE]

    async def view(self, tenant: TenantId, run_id: str) -> RunView:
        """See `Written.view`."""
        stored = self.runs.get(run_id)
        if stored is None or stored.run.tenant != tenant:
            raise RunNotFound(run_id)
        return _copy(stored.seen)

    async def last_sequence(self, tenant: TenantId, run_id: str) -> int:
        """See `Journal.last_sequence`."""
        stored = self.runs.get(run_id)
        return 0 if stored is None else len(stored.journal)

    async def turns(
        self, tenant: TenantId, run_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]:
        """See `Written.turns`."""
        await self.view(tenant, run_id)
        stored = self.runs[run_id]
        facts = dict(stored.numbered)
        places = sorted(place for place in stored.turns.items() if place[0] > after)
        return [(number, _copy(facts[sequence].step_completed.turn)) for number, sequence in places[:most]]

    async def hold(self, owner: str, leases: Sequence[ShardLease], *, restarted: bool, most: int | None) -> Holdings:
        """See `Leases.hold`."""
        self.hold_faults.hit()
        now, replica = self._clock.now(), _replica_of(owner)
        self.replicas[owner] = now + LEASE
        for other, until in list(self.replicas.items()):
            if until < now or (restarted and other != owner and _replica_of(other) == replica):
                del self.replicas[other]
        held = [lease for lease in leases if self._has(owner, lease)]
        share = -(-SHARDS // len(self.replicas))
        wanted = max(0, min(share - len(held), SHARDS if most is None else most))
        asked = {lease.shard for lease in leases}
        free = [
            number
            for number, shard in enumerate(self.shards)
            if shard.owner is None
            or ((shard.until is None or shard.until < now) and number not in {lease.shard for lease in held})
            or (shard.owner == owner and number not in asked)
            or (restarted and shard.owner != owner and _replica_of(shard.owner) == replica)
        ]
        for lease in held:
            self.shards[lease.shard].until = now + LEASE
        for number in free[:wanted]:
            if self._committing[number] == 0:
                shard = self.shards[number]
                shard.owner, shard.epoch, shard.until = owner, shard.epoch + 1, now + LEASE
                held.append(ShardLease(shard=number, epoch=shard.epoch))
        return Holdings(leases=tuple(held), share=share)

    async def release(self, owner: str, leases: Sequence[ShardLease], *, leaving: bool) -> None:
        """See `Leases.release`."""
        for lease in leases:
            if self._has(owner, lease):
                shard = self.shards[lease.shard]
                shard.owner, shard.until = None, None
        if leaving:
            for shard in self.shards:
                if shard.owner == owner:
                    shard.owner, shard.until = None, None
            self.replicas.pop(owner, None)

    def _has(self, owner: str, lease: ShardLease) -> bool:
        shard = self.shards[lease.shard]
        return (shard.owner, shard.epoch) == (owner, lease.epoch)

    async def open_runs(self, shard: int, *, after: str | None) -> Sequence[OwnedRun]:
        """See `RunFinder.open_runs`."""
        await asyncio.sleep(0)
        found = [
            stored.run
            for run_id, stored in sorted(self.runs.items())
            if stored.run.shard == shard and not stored.ended and not stored.rests and (after is None or run_id > after)
        ]
        return found[:RUNS_AT_ONCE]

    async def waking_runs(
        self, shards: Collection[int], *, before: datetime, but: Collection[str] = ()
    ) -> Sequence[OwnedRun]:
        """See `RunFinder.waking_runs`."""
        await asyncio.sleep(0)
        found = [
            (stored.wake_time, stored.run.run_id, stored.run)
            for stored in self.runs.values()
            if not stored.ended and stored.run.shard in shards and stored.wake_time and stored.wake_time <= before
            if stored.run.run_id not in but
        ]
        return [run for _, _, run in sorted(found, key=lambda one: one[:2])][:RUNS_AT_ONCE]

    async def owned_run(self, run_id: str) -> OwnedRun | None:
        """See `RunFinder.owned_run`."""
        stored = self.runs.get(run_id)
        return None if stored is None or stored.ended else stored.run

    async def open_in_tree(self, run: OwnedRun, *, after: str | None) -> Sequence[OwnedRun]:
        """See `RunFinder.open_in_tree`."""
        first, highest = ids_of_tree(run.run_id)
        found = [
            stored.run
            for run_id, stored in sorted(self.runs.items())
            if stored.run.tenant == run.tenant and first <= stored.run.uuid <= highest and not stored.ended
            if after is None or run_id > after
        ]
        return found[:RUNS_AT_ONCE]

    async def add_command(self, tenant: TenantId, run_id: str, command: RunCommand) -> RunCommand:
        """See `Inbox.add_command`."""
        waiting = self.runs[run_id].commands
        if command.kind == SIGNAL:
            if sum(one.kind == SIGNAL for one in waiting) >= WAITING_SIGNALS:
                raise SignalsAtLimit(run_id, WAITING_SIGNALS)
        else:
            others = sorted((one for one in waiting if one.kind != SIGNAL), key=lambda one: one.command_id)
            of_kind = [one for one in others if one.kind == command.kind]
            if of_kind and (of_kind[-1] is others[-1] or len(others) >= WAITING_COMMANDS):
                return of_kind[-1]
        waiting.append(command)
        return command

    async def commands_of(self, run_id: str) -> Sequence[RunCommand]:
        """See `Inbox.commands_of`."""
        stored = self.runs.get(run_id)
        return [] if stored is None else _first_commands(stored, COMMANDS_AT_ONCE)

    async def commands(
        self, shards: Collection[int], *, after: str | None = None
    ) -> Mapping[str, Sequence[RunCommand]]:
        """See `Inbox.commands`."""
        await asyncio.sleep(0)
        asked = sorted(
            run_id
            for run_id, stored in self.runs.items()
            if stored.run.shard in shards and not stored.ended and stored.commands and run_id > (after or "")
        )
        return {run_id: _first_commands(self.runs[run_id], COMMANDS_OF_EACH) for run_id in asked[:COMMANDED_AT_ONCE]}

    async def drop_late_commands(self) -> int:
        """See `Inbox.drop_late_commands`."""
        late = [stored for stored in self.runs.values() if stored.ended and stored.commands]
        dropped = sum(len(stored.commands) for stored in late)
        for stored in late:
            stored.commands = []
        return dropped

    async def is_waiting(self, tenant: TenantId, command: RunCommand) -> bool:
        """See `Inbox.is_waiting`."""
        self.looks += 1
        return any(one.command_id == command.command_id for stored in self.runs.values() for one in stored.commands)


def _first_commands(stored: StoredRun, most: int) -> list[RunCommand]:
    first = sorted(stored.commands, key=lambda one: (one.kind == SIGNAL, one.command_id))[:most]
    return sorted(first, key=lambda one: one.command_id)


def _replica_of(owner: str | None) -> str:
    return (owner or "").partition("/")[0]


def _copy(message: M) -> M:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


class HeldCalls:
    """Implements `engine.ports.Calls`: the world answers once it may."""

    def __init__(self) -> None:
        self.world = World()
        self.open = asyncio.Event()
        self.open.set()
        #: Runs whose calls raise what no call should.
        self.broken = set[str]()
        #: Nobody is asked before this is set.
        self.waits = asyncio.Event()
        self.waits.set()
        #: Calls that somebody was asked, those that were cut then, and those that failed when nobody waited for them.
        self.begun = self.cut = self.given_up = 0
        #: Of each, whether others may have made it before.
        self.again: list[bool] = []
        #: Text that each shows at its end, and whether it fails.
        self.says, self.failing = "", False

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        await self.waits.wait()
        try:
            with outcome.asking():
                self.begun += 1
                self.again.append(outcome.again)
                await self.open.wait()
                if self.says:
                    await outcome.delta(intended.path, self.says)
                if self.failing:
                    raise Unavailable("the neighbour went away")
        except asyncio.CancelledError:
            self.cut += 1
            raise
        except NobodyWaits:
            self.given_up += 1
            raise
        if run.run_id in self.broken:
            raise ValueError("a fault of ours")
        return self.world.answer(intended)


class LocalLive:
    """Implements `engine.ports.LiveEvents` within the process."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, list[asyncio.Queue[session_service_pb2.WatchSessionResponse]]] = defaultdict(
            list
        )
        self._owners: list[asyncio.Queue[str]] = []

    def is_watched(self, tenant: TenantId, run_id: str, sequence: int) -> bool:
        """See `LiveEvents.is_watched`."""
        return True

    async def publish(self, tenant: TenantId, run_id: str, event: session_service_pb2.WatchSessionResponse) -> None:
        """See `LiveEvents.publish`."""
        for queue in self._watchers[run_id]:
            queue.put_nowait(event)

    @asynccontextmanager
    async def watch(
        self, tenant: TenantId, run_id: str
    ) -> AsyncGenerator[AsyncIterator[session_service_pb2.WatchSessionResponse]]:
        """See `LiveEvents.watch`."""
        queue = asyncio.Queue[session_service_pb2.WatchSessionResponse]()
        self._watchers[run_id].append(queue)
        yield _Arrivals(queue)
        self._watchers[run_id].remove(queue)

    async def wake_owner(self, run_id: str) -> None:
        """See `LiveEvents.wake_owner`."""
        for queue in self._owners:
            queue.put_nowait(run_id)

    @asynccontextmanager
    async def wakes(self) -> AsyncGenerator[AsyncIterator[str]]:
        """See `LiveEvents.wakes`."""
        queue = asyncio.Queue[str]()
        self._owners.append(queue)
        yield _Arrivals(queue)


class HeardEvents:
    """Implements `engine.ports.RunEvents`: remembers what was recorded, commit by commit."""

    def __init__(self) -> None:
        self.writes: list[RunWrite] = []

    def recorded(self, write: RunWrite) -> None:
        """See `RunEvents.recorded`."""
        self.writes.append(write)


class _Arrivals(Generic[T]):
    def __init__(self, queue: "asyncio.Queue[T]") -> None:
        self._queue = queue

    def __aiter__(self) -> "_Arrivals[T]":
        return self

    async def __anext__(self) -> T:
        return await self._queue.get()
