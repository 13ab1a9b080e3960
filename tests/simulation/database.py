"""The database, far away: what is asked of it takes time, fails on the way there or back, and outlives who asked."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.ports import WritesNotReady
from services.orchestrator.engine.run import (
    Created,
    Holdings,
    OwnedRun,
    RunCommand,
    RunView,
    RunWrite,
    ShardLease,
    StartKey,
)
from tests.simulation.judge import Judge
from tests.simulation.loop import Process, SimulatedLoop
from tests.support.run_store import MemoryRunStore, OneForAll

T = TypeVar("T")

_by: Final = ContextVar[tuple[str, Sequence[ShardLease]]]("by")


class JudgedStore(MemoryRunStore):
    """The store of tests, which passes the contract suite of Postgres, with somebody who looks at what it writes."""

    def __init__(self, clock: Clock, judge: Judge) -> None:
        super().__init__(clock)
        self.judge = judge

    async def committed(self, owner: str, leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        """See `Journal.commit`; says by whom."""
        _by.set((owner, leases))
        return await self.commit(leases, writes)

    def _refuse(self, writes: Sequence[RunWrite]) -> None:
        super()._refuse(writes)
        self.judge.writes(*_by.get(), writes, self.shards)

    async def create(self, first: RunWrite, key: StartKey | None, lease: ShardLease | None) -> Created:
        """See `Starts.create`."""
        created = await super().create(first, key, lease)
        if created.earlier is None:
            self.judge.wrote(first)
            if not created.held:
                self.judge.adopted(first.run.run_id)
        return created

    async def add_command(self, tenant: TenantId, run_id: str, command: RunCommand) -> RunCommand:
        """See `Inbox.add_command`."""
        waiting = await super().add_command(tenant, run_id, command)
        self.judge.asked(run_id, waiting)
        return waiting


@dataclass(slots=True)
class Weather:
    """How the way to the database is. Changed while a simulation runs."""

    #: How often a commit fails before it is made, and how often its answer is lost, 0 to 1.
    commits_fail: float = 0.0
    answers_lost: float = 0.0
    #: How long a commit takes, at most, virtual seconds.
    commit_seconds: float = 0.0
    #: How often a write waits for more than the database.
    writes_big: float = 0.0
    #: How often anything else fails.
    reads_fail: float = 0.0
    #: Until when nobody reaches it, virtual seconds.
    away_until: float = 0.0


class FarStore(OneForAll):
    """Implements `engine.ports.RunStore` for one incarnation of a replica.

    Args:
        server: where its work is done, whatever becomes of who asked.
    """

    def __init__(
        self,
        store: JudgedStore,
        *,
        owner: str,
        loop: SimulatedLoop,
        server: Process,
        dice: Random,
        weather: Weather,
        trace: Callable[[str], None],
    ) -> None:
        self._store = store
        self._owner = owner
        self._loop = loop
        self._server = server
        self._dice = dice
        self._weather = weather
        self._trace = trace

    async def _ask(
        self, ask: Callable[[], Coroutine[Any, Any, T]], *, fail: float, lose: float, takes: float | None = None
    ) -> T:
        """Asks the database, on the way there and back.

        Args:
            takes: longest time that it takes there, for what may have to wait for others; None for what does not.
        """
        loop, roll = self._loop, self._dice.random()
        answer: asyncio.Future[T] = loop.create_future()
        there, back = 0.0002 + 0.02 * self._dice.random() ** 4, 0.0002 + 0.02 * self._dice.random() ** 4

        def arrived() -> None:
            if roll < fail or loop.time() < self._weather.away_until:
                loop.call_later(back, arrive, Unavailable("the database"), None)
            elif takes is None:
                serving = ask()
                try:
                    while True:
                        serving.send(None)
                except StopIteration as done:
                    serve(None, done.value)
                except Exception as error:  # noqa: BLE001  # whoever asked gets it
                    serve(error, None)
            else:
                loop.spawn(self._server, wait(), name="database")

        async def wait() -> None:
            try:
                result = await ask()
            except Exception as error:  # noqa: BLE001  # whoever asked gets it
                serve(error, None)
            else:
                serve(None, result)

        def serve(error: Exception | None, result: T | None) -> None:
            if error is None and roll > 1 - lose:
                error = Unavailable("the database")
            loop.call_later(back, arrive, error, result)

        def arrive(error: Exception | None, result: T) -> None:
            if not answer.done():
                if error is None:
                    answer.set_result(result)
                else:
                    answer.set_exception(error)

        loop.call_later(there + (takes or 0.0) * self._dice.random(), arrived, context=self._server.context)
        return await answer

    async def _read(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._ask(ask, fail=self._weather.reads_fail, lose=0.0)

    async def _change(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        fail = self._weather.reads_fail
        return await self._ask(ask, fail=fail, lose=fail)

    async def check_quota(self, tenant: TenantId) -> None:
        """See `Starts.check_quota`."""

    async def started_before(self, key: StartKey) -> RunView | None:
        """See `Starts.started_before`."""
        return await self._read(lambda: self._store.started_before(key))

    async def create(self, first: RunWrite, key: StartKey | None, lease: ShardLease | None) -> Created:
        """See `Starts.create`."""
        try:
            created = await self._change(lambda: self._store.create(first, key, lease))
        except asyncio.CancelledError:
            # A sub-run that is given up while it begins: its owner has to look whether it has begun.
            self._store.judge.adopted(first.run.run_id)
            raise
        self._trace(f"{self._owner} starts {first.run.run_id}: {created.earlier is None} {created.held}")
        return created

    def preparation(self, write: RunWrite) -> Callable[[], Awaitable[None]] | None:
        """See `Journal.preparation`: some of it has to be put elsewhere first, which takes long or fails."""
        return partial(self._prepare, write) if self._dice.random() < self._weather.writes_big else None

    async def _prepare(self, write: RunWrite) -> None:
        await asyncio.sleep(2.0 * self._dice.random() ** 3)
        if self._dice.random() < self._weather.commits_fail:
            raise WritesNotReady("the object store is away", [write.run.run_id])

    async def commit(self, leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        """See `Journal.commit`."""

        async def commit() -> Collection[int]:
            try:
                lost = await self._store.committed(self._owner, leases, writes)
            except Exception as error:
                self._trace(f"{self._owner} is refused {_told(writes)}: {error}")
                raise
            self._trace(f"{self._owner} commits {_told(writes)}, lost {lost}")
            return lost

        weather = self._weather
        try:
            return await self._ask(
                commit, fail=weather.commits_fail, lose=weather.answers_lost, takes=weather.commit_seconds
            )
        except Exception:
            # Counted when its engine has heard it: until then it goes on calling.
            if len(writes) == 1 and writes[0].run.run_id in self._store.poison:
                self._store.judge.refused(writes[0].run.run_id)
            raise

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `Journal.entries`."""
        if after == 0:
            stored = self._store.runs[run_id]
            self._store.judge.reads(run_id, rested=stored.rests or stored.ended)
        return await self._read(lambda: self._store.entries(tenant, run_id, after=after))

    async def hold(self, owner: str, leases: Sequence[ShardLease], *, restarted: bool, most: int | None) -> Holdings:
        """See `Leases.hold`."""
        return await self._change(lambda: self._store.hold(owner, leases, restarted=restarted, most=most))

    async def release(self, owner: str, leases: Sequence[ShardLease], *, leaving: bool) -> None:
        """See `Leases.release`."""
        self._trace(f"{owner} releases {len(leases)}{', leaving' if leaving else ''}")
        await self._change(lambda: self._store.release(owner, leases, leaving=leaving))

    async def open_runs(self, shard: int, *, after: str | None) -> Sequence[OwnedRun]:
        """See `RunFinder.open_runs`."""
        return await self._read(lambda: self._store.open_runs(shard, after=after))

    async def waking_runs(
        self, shards: Collection[int], *, before: datetime, but: Collection[str] = ()
    ) -> Sequence[OwnedRun]:
        """See `RunFinder.waking_runs`."""
        return await self._read(lambda: self._store.waking_runs(shards, before=before, but=but))

    async def owned_run(self, run_id: str) -> OwnedRun | None:
        """See `RunFinder.owned_run`."""
        return await self._read(lambda: self._store.owned_run(run_id))

    async def open_in_tree(self, run: OwnedRun, *, after: str | None) -> Sequence[OwnedRun]:
        """See `RunFinder.open_in_tree`."""
        return await self._read(lambda: self._store.open_in_tree(run, after=after))

    async def add_command(self, tenant: TenantId, run_id: str, command: RunCommand) -> RunCommand:
        """See `Inbox.add_command`."""
        return await self._change(lambda: self._store.add_command(tenant, run_id, command))

    async def commands_of(self, run_id: str) -> Sequence[RunCommand]:
        """See `Inbox.commands_of`."""
        return await self._read(lambda: self._store.commands_of(run_id))

    async def commands(
        self, shards: Collection[int], *, after: str | None = None
    ) -> Mapping[str, Sequence[RunCommand]]:
        """See `Inbox.commands`."""
        return await self._read(lambda: self._store.commands(shards, after=after))

    async def view(self, tenant: TenantId, run_id: str) -> RunView:
        """See `Journal.view`."""
        return await self._read(lambda: self._store.view(tenant, run_id))

    async def last_sequence(self, tenant: TenantId, run_id: str) -> int:
        """See `Journal.last_sequence`."""
        return await self._read(lambda: self._store.last_sequence(tenant, run_id))

    async def drop_late_commands(self) -> int:
        """See `Inbox.drop_late_commands`."""
        return await self._change(self._store.drop_late_commands)

    async def is_waiting(self, tenant: TenantId, command: RunCommand) -> bool:
        """See `Inbox.is_waiting`."""
        return await self._read(lambda: self._store.is_waiting(tenant, command))


def _told(writes: Sequence[RunWrite]) -> str:
    return ", ".join(
        f"{write.run.run_id[-6:]}/{write.first_sequence} "
        + " ".join(f"{entry.path}:{entry.WhichOneof('fact')}" for entry in write.entries)
        + "".join(f" !{command.hex[-6:]}" for command in write.commands)
        for write in writes
    )
