"""Runs in memory: a store with leases on a clock that tests move, calls held back, and events within the process."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from google.protobuf.message import Message

from comitia.orchestrator.v1 import journal_pb2, session_pb2, session_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Conflict
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fault_queue import FaultQueue
from services.orchestrator.domain.errors import LeaseLost
from services.orchestrator.engine.ports import Outcome
from services.orchestrator.engine.run import Commit, OwnedRun, RunCommand, StartKey
from services.orchestrator.programs.view import TERMINAL_STATES
from tests.support.sessions import World

LEASE = timedelta(seconds=15)
T = TypeVar("T")


@dataclass(slots=True)
class StoredRun:
    """One run with its lease."""

    run: OwnedRun
    owner: str | None
    until: datetime
    journal: list[journal_pb2.JournalEntry] = field(default_factory=list[journal_pb2.JournalEntry])
    view: session_pb2.Session = field(default_factory=session_pb2.Session)
    commands: list[RunCommand] = field(default_factory=list[RunCommand])

    @property
    def ended(self) -> bool:
        """True once it has its final state."""
        return self.view.state in TERMINAL_STATES


class MemoryRunStore:
    """Implements `engine.ports.RunStore`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.runs: dict[str, StoredRun] = {}
        self.requests: dict[StartKey, session_pb2.Session] = {}
        #: Fail the next commits before anything is written, or after everything was.
        self.commit_faults = FaultQueue()
        self.lost_answers = FaultQueue()
        self.create_faults = FaultQueue()
        #: While cleared, journals cannot be read; and how many wait to be.
        self.readable = asyncio.Event()
        self.readable.set()
        self.readers = 0
        self.claims = 0
        #: How often somebody asked whether a command still waits.
        self.looks = 0

    async def check_quota(self, tenant: TenantId) -> None:
        """See `RunStore.check_quota`; there are no quotas here."""

    async def started_before(self, key: StartKey) -> session_pb2.Session | None:
        """See `RunStore.started_before`."""
        return self.requests.get(key)

    async def create(
        self, run: OwnedRun, owner: str, first: Commit, key: StartKey | None
    ) -> session_pb2.Session | None:
        """See `RunStore.create`."""
        await asyncio.sleep(0)
        if key is not None and key in self.requests:
            return self.requests[key]
        stored = StoredRun(run, owner, self._clock.now() + LEASE)
        self._write(stored, first)
        self.runs[run.run_id] = stored
        if key is not None:
            self.requests[key] = session_pb2.Session.FromString(first.view.SerializeToString())
        self.create_faults.hit()
        return None

    async def commit(self, run: OwnedRun, commit: Commit) -> None:
        """See `RunStore.commit`."""
        await asyncio.sleep(0)
        self.commit_faults.hit()
        stored = self.runs[run.run_id]
        if stored.run.epoch != run.epoch or stored.until <= self._clock.now():
            raise LeaseLost(run.run_id)
        if commit.entries and commit.first_sequence != len(stored.journal) + 1:
            raise Conflict("these facts are recorded already")
        self._write(stored, commit)
        self.lost_answers.hit()

    def _write(self, stored: StoredRun, commit: Commit) -> None:
        stored.journal += [journal_pb2.JournalEntry.FromString(one.SerializeToString()) for one in commit.entries]
        stored.view.CopyFrom(commit.view)
        stored.commands = [one for one in stored.commands if one.command_id not in commit.commands]

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `RunStore.entries`."""
        self.readers += 1
        try:
            await self.readable.wait()
        finally:
            self.readers -= 1
        return list(enumerate(self.runs[run_id].journal, 1))[after : after + 64]

    async def view(self, tenant: TenantId, run_id: str) -> session_pb2.Session:
        """See `SessionViews.view`."""
        return self.runs[run_id].view

    async def claim(self, owner: str, *, most: int, restarted: bool, ours: Collection[str] = ()) -> Sequence[OwnedRun]:
        """See `RunStore.claim`."""
        self.claims += 1
        await asyncio.sleep(0)
        replica, free = owner.partition("/")[0], list[StoredRun]()
        for run_id, stored in self.runs.items():
            mine = stored.owner == owner and run_id in ours
            earlier = restarted and stored.owner != owner and (stored.owner or "").partition("/")[0] == replica
            if not stored.ended and (stored.until < self._clock.now() or mine or earlier):
                free.append(stored)
        for stored in free[:most]:
            stored.run = replace(stored.run, epoch=stored.run.epoch + 1)
            stored.owner, stored.until = owner, self._clock.now() + LEASE
        return [stored.run for stored in free[:most]]

    async def extend(self, owner: str, runs: Collection[OwnedRun]) -> Collection[str]:
        """See `RunStore.extend`."""
        held = self._held(owner, runs)
        for stored in held:
            stored.until = self._clock.now() + LEASE
        return {stored.run.run_id for stored in held}

    async def release(self, owner: str, runs: Collection[OwnedRun]) -> None:
        """See `RunStore.release`."""
        for stored in self._held(owner, runs):
            stored.owner, stored.until = None, self._clock.now() - timedelta(microseconds=1)

    def _held(self, owner: str, runs: Collection[OwnedRun]) -> list[StoredRun]:
        found = [self.runs[run.run_id] for run in runs]
        return [stored for stored, run in zip(found, runs, strict=True) if (stored.owner, stored.run) == (owner, run)]

    async def add_command(self, tenant: TenantId, run_id: str, command: RunCommand) -> RunCommand:
        """See `RunStore.add_command`."""
        waiting = self.runs[run_id].commands
        earlier = next((one for one in waiting if one.kind == command.kind), None)
        if earlier is None:
            waiting.append(command)
        return earlier or command

    async def commands(self, run_ids: Collection[str]) -> Mapping[str, Sequence[RunCommand]]:
        """See `RunStore.commands`."""
        return {run_id: list(self.runs[run_id].commands) for run_id in run_ids}

    async def drop_late_commands(self) -> int:
        """See `RunStore.drop_late_commands`."""
        late = [stored for stored in self.runs.values() if stored.ended and stored.commands]
        dropped = sum(len(stored.commands) for stored in late)
        for stored in late:
            stored.commands = []
        return dropped

    async def is_waiting(self, tenant: TenantId, command: RunCommand) -> bool:
        """See `RunStore.is_waiting`."""
        self.looks += 1
        return any(one == command for stored in self.runs.values() for one in stored.commands)


class HeldCalls:
    """Implements `engine.ports.Calls`: the world answers once it may."""

    def __init__(self) -> None:
        self.world = World()
        self.open = asyncio.Event()
        self.open.set()

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        await self.open.wait()
        return self.world.answer(intended)


class LocalLive:
    """Implements `engine.ports.LiveEvents` within the process."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, list[asyncio.Queue[session_service_pb2.WatchSessionResponse]]] = defaultdict(
            list
        )
        self._owners: list[asyncio.Queue[str]] = []

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


class _Arrivals(Generic[T]):
    def __init__(self, queue: "asyncio.Queue[T]") -> None:
        self._queue = queue

    def __aiter__(self) -> "_Arrivals[T]":
        return self

    async def __anext__(self) -> T:
        return await self._queue.get()
