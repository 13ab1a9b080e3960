"""The engine of one replica: owns shards, drives their runs in lanes, and takes up what others left behind."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.errors import RequestIdReused
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.once import RequestInProgress
from services.meshkit.core.tenant import QuotaExceeded
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.sub_run_id import depth_of
from services.orchestrator.engine.facts import Beginning, begun
from services.orchestrator.engine.faults import Faults
from services.orchestrator.engine.lane import EngineParts, Lane
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.news import until_news
from services.orchestrator.engine.plans import prepare
from services.orchestrator.engine.recovery import AGAIN_LATER_SECONDS, AGAIN_SECONDS, Recovery
from services.orchestrator.engine.room import Room
from services.orchestrator.engine.run import SIGNAL, OwnedRun, RunCommand, RunView, ShardLease, StartKey, shard_of
from services.orchestrator.engine.shards import ShardKeeper
from services.orchestrator.engine.sub_run_places import SubRunPlaces
from services.orchestrator.engine.sub_runs import SubRuns
from services.orchestrator.engine.tried import tried

log = logger(__name__)

Key = TypeVar("Key", int, str)

#: Time between two rounds: of those that extend leases and claim free shards, and of those that look for what the bus
#: lost and for moments that have come.
_ROUND_SECONDS: Final = 1.0
#: How long a caller waits to see its command taken.
_COMMAND_SECONDS: Final = 2.0
#: Time between two looks whether it was, when the bus brings no news.
_COMMAND_POLL_SECONDS: Final = 0.5
#: Runs remembered to be taken up again. One more is taken up when a command comes for it, or the shard changes hands.
_MAX_SET_ASIDE: Final = 10_000
#: Time between two removals of commands that came too late for their run.
_TIDY_SECONDS: Final = 60.0
#: Pages of runs that are due, or have commands, looked at in one round.
_PAGES: Final = 16
#: Ids tried for one that falls into a shard of this replica: with one shard of 64 a failure is as likely as 1 in 10^7.
_IDS_TRIED: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds of one replica."""

    #: How long calls in progress may take once it is told to stop.
    end_seconds: float
    #: Runs in memory at once; a start beyond is refused, a run left behind waits for room. Those that rest take none.
    #: As many sub-runs are waited for besides; one more waits.
    max_runs: int


class Engine:
    """Drives the runs of the shards whose leases this replica holds. Entered once; leaving hands them back."""

    def __init__(self, *, owner: str, parts: EngineParts, ids: IdSource, limits: EngineLimits) -> None:
        self._parts = parts
        self._ids = ids
        self._end_seconds = limits.end_seconds
        #: Until when it waits for calls in progress, on the monotonic clock.
        self._ends_at = 0.0
        self._room = Room(limits.max_runs)
        self._shards = ShardKeeper(owner=owner, leases=parts.store.leases, gained=self._gained, lost=self._lost)
        sub_runs = SubRuns(
            journal=parts.store.journal,
            live=parts.live,
            calls=parts.calls,
            start=self.start,
            places=SubRunPlaces(limits.max_runs),
            clock=parts.clock,
        )
        self._faults = Faults(lambda: ids.uuid().hex)
        self._lane = Lane(parts, sub_runs, left=self._left, failed=self._failed, lost=self._shards.forget)
        self._recovery = Recovery(
            store=parts.store,
            events=parts.events,
            faults=self._faults,
            held=self._shards.held,
            put_aside=self._put_aside,
            clock=parts.clock,
            ids=ids,
        )
        #: Runs whose journal is being read; the tasks that read them, and those that look for such runs.
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._searching: dict[int, asyncio.Task[None]] = {}
        #: Runs of our shards to be taken up again, and when, on the monotonic clock.
        self._set_aside: dict[str, float] = {}
        #: Starts in progress.
        self._starting = 0
        self._left_room = asyncio.Event()
        #: Where the next round goes on that looks for commands, if the last did not see them all.
        self._commands_after: str | None = None
        self._group: asyncio.TaskGroup | None = None
        #: Runs outlive the call that started them: their tasks must not inherit its deadline.
        self._context = Context()

    @property
    def running(self) -> int:
        """Number of runs in memory, with those that are being started or read."""
        return self._starting + len(self._reading) + len(self._lane.runs)

    async def started_before(self, key: StartKey) -> RunView | None:
        """See `Runs.started_before`."""
        return await self._parts.store.starts.started_before(key)

    async def check_quota(self, tenant: TenantId) -> None:
        """See `Runs.check_quota`."""
        await self._parts.store.starts.check_quota(tenant)

    async def stop(self, tenant: TenantId) -> None:
        """Ends the work on all runs of a tenant that is being erased. Their rows go next, so nothing can be written."""
        tasks: list[asyncio.Task[None]] = []
        for run in [run for run in self._lane.runs.values() if run.run.tenant == tenant]:
            tasks += self._lane.calls.revoke(run.run)
            self._lane.remove(run, again=False)
        tasks += self._lane.calls.revoke_left(tenant)
        if tasks:
            await asyncio.wait(tasks)

    @contextmanager
    def place(self, tenant: TenantId) -> Iterator[None]:
        """See `Runs.place`."""
        with self._room.start(tenant):
            self._starting += 1
            try:
                yield
            finally:
                self._starting -= 1
                self._left_room.set()

    def new_run_id(self) -> str:
        """See `Runs.new_run_id`."""
        run_id = self._ids.new("run")
        for _ in range(_IDS_TRIED if self._shards.held else 0):
            if shard_of(run_id) in self._shards.held:
                break
            run_id = self._ids.new("run")
        return run_id

    async def start(self, key: StartKey | None, run: OwnedRun, started: journal_pb2.RunStarted) -> RunView:
        """See `Runs.start`."""
        await prepare(started)
        at = Timestamp()
        at.FromDatetime(self._parts.clock.now())
        return await self.begin(key, run, begun(started, at))

    async def begin(self, key: StartKey | None, run: OwnedRun, beginning: Beginning) -> RunView:
        """See `Runs.begin`."""
        live = LiveRun(run)
        first = live.begin_with(beginning)
        try:
            created = await self._parts.store.starts.create(first, key, self._shards.held.get(run.shard))
        except (QuotaExceeded, RequestInProgress, RequestIdReused):
            raise
        except BaseException:
            # The caller went away, or the answer was lost: the run may have been recorded, and then has to be driven.
            self._put_aside(run.run_id, seconds=AGAIN_SECONDS)
            raise
        if created.earlier is not None:
            return created.earlier
        self._parts.events.recorded(first)
        if created.held:
            self._parts.times.recorded(first)
            live.recorded(first)
            self._room.take(run)
            self._lane.add(live)
        else:
            await self._parts.live.wake_owner(run.run_id)
        if first.view is None:
            raise ValueError("the first facts of a run make its view")
        return first.view

    async def command(self, principal: Principal, run_id: str, kind: str, payload: bytes = b"") -> None:
        """See `Runs.command`."""
        command = RunCommand(command_id=self._ids.uuid(), kind=kind, by=principal.subject, payload=payload)
        async with self._parts.live.watch(principal.tenant, run_id) as news:
            waiting = await self._parts.store.inbox.add_command(principal.tenant, run_id, command)
            await self._parts.live.wake_owner(run_id)
            deadline = self._parts.clock.monotonic() + _COMMAND_SECONDS
            while await self._parts.store.inbox.is_waiting(principal.tenant, waiting):
                left = deadline - self._parts.clock.monotonic()
                if left <= 0:
                    return
                await until_news(news, seconds=min(left, _COMMAND_POLL_SECONDS))

    @asynccontextmanager
    async def running_block(self) -> AsyncGenerator[None]:
        """Drives runs while the block runs; then hands the shards back, and waits for calls in progress.

        It waits until their time is over that has begun with `told_to_stop`; not at all without that.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._context = copy_context()
            keepers = [
                self._spawn(self._keep_leases(), name="engine-leases"),
                self._spawn(self._keep_rounds(), name="engine-rounds"),
                self._spawn(self._hear_wakes(), name="engine-wakes"),
                self._spawn(self._tidy(), name="engine-tidying"),
                self._spawn(self._parts.steps.keep_time(), name="engine-step-leases"),
                self._spawn(self._lane.decide(), name="engine-decider"),
                self._spawn(self._lane.record(), name="engine-recorder"),
                self._spawn(self._lane.alarms.keep(), name="engine-alarms"),
            ]
            self._lane.calls.open(group, self._context)
            self._lane.unready.open(group, self._context)
            try:
                yield
            finally:
                self._group = None
                self._lane.calls.close()
                tasks = [*keepers, *self._reading.values(), *self._searching.values(), *self._lane.unready.close()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._leave()
                await self._lane.calls.end(max(0.0, self._ends_at - self._parts.clock.monotonic()))

    def told_to_stop(self) -> None:
        """Notes that the process is to stop, and that the time begins which calls in progress have."""
        self._ends_at = self._parts.clock.monotonic() + self._end_seconds

    async def _leave(self) -> None:
        try:
            await self._shards.leave()
        except Exception as error:  # noqa: BLE001  # whatever it is: who leaves has nothing else to do
            log.warning("leases run out by themselves", cause=str(error))

    def _spawn(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        if self._group is None:
            raise ValueError("the engine spawns tasks while it runs")
        return self._group.create_task(work, name=name, context=self._context.copy())

    def _gained(self, lease: ShardLease) -> None:
        self._lane.hold(lease)
        task = self._spawn(self._search(lease.shard), name=f"search shard {lease.shard}")
        self._searching[lease.shard] = task
        task.add_done_callback(lambda done: self._forget(self._searching, lease.shard, done))

    def _lost(self, shard: int) -> None:
        if searching := self._searching.get(shard):
            searching.cancel()
        for run_id, reading in self._reading.items():
            if shard_of(run_id) == shard:
                reading.cancel()
        self._lane.drop(shard)

    async def _search(self, shard: int) -> None:
        """Takes up the runs of a shard that have something to do, while there is room for them.

        Where there is none, sub-runs that come later go before: those who have the places may wait for them.
        """
        sub_runs_taken_up = False
        async for run in self._open_runs(shard):
            while not (self._room.open_for_starts or depth_of(run.run_id)):
                if not sub_runs_taken_up:
                    sub_runs_taken_up = True
                    await self._take_up_sub_runs(shard, after=run.run_id)
                    continue
                self._left_room.clear()
                await self._left_room.wait()
            self._take_up(run)

    async def _take_up_sub_runs(self, shard: int, *, after: str) -> None:
        async for run in self._open_runs(shard, after=after):
            if depth_of(run.run_id):
                self._take_up(run)

    async def _open_runs(self, shard: int, *, after: str | None = None) -> AsyncGenerator[OwnedRun]:
        """Gives the runs of a shard that have something to do, in order of their ids."""
        while True:
            try:
                found = await self._parts.store.finder.open_runs(shard, after=after)
            except Exception as error:
                # A consumer loop: what nobody has foreseen must not stop the runs of the other shards.
                log.exception("cannot look for runs", shard=shard, cause=str(error))
                await self._parts.clock.sleep(_ROUND_SECONDS)
                continue
            if not found:
                return
            for run in found:
                yield run
                after = run.run_id

    def _take_up(self, run: OwnedRun) -> None:
        """Reads a run's journal and drives it, unless it is driven already."""
        run_id = run.run_id
        if run_id in self._reading or run_id in self._lane.runs or run.shard not in self._shards.held:
            return
        self._set_aside.pop(run_id, None)
        self._room.take(run)
        task = self._spawn(self._read(run), name=f"read {run_id}")
        self._reading[run_id] = task
        task.add_done_callback(lambda done: self._have_read(run_id, done))

    def _have_read(self, run_id: str, task: asyncio.Task[None]) -> None:  # a callback
        self._forget(self._reading, run_id, task)
        self._leave_room(run_id)

    async def _read(self, run: OwnedRun) -> None:
        live = await self._recovery.read(run)
        if live is not None:
            self._lane.add(live)

    def _failed(self, run: LiveRun, error: Exception) -> None:  # a callback
        self._faults.note(run.run.run_id, run.recorded_sequence, error)

    def _left(self, run: LiveRun, again: bool) -> None:  # a callback
        if not again:
            self._faults.forget(run.run.run_id)
        else:
            self._put_aside(run.run.run_id, seconds=AGAIN_SECONDS if run.progressed else AGAIN_LATER_SECONDS)
        self._leave_room(run.run.run_id)

    def _leave_room(self, run_id: str) -> None:
        """Gives the place of a run to others, unless it is here still."""
        if run_id not in self._reading and run_id not in self._lane.runs:
            self._room.leave(run_id)
            self._left_room.set()

    def _put_aside(self, run_id: str, *, seconds: float) -> None:
        metrics.RUNS_SET_ASIDE.inc()
        if len(self._set_aside) < _MAX_SET_ASIDE:
            self._set_aside.setdefault(run_id, self._parts.clock.monotonic() + seconds)

    async def _keep_leases(self) -> None:
        """Keeps the shards in a task of its own: nothing that the other rounds wait for may cost a lease."""
        while True:
            await tried("the leases' round waits", self._shards.keep)
            await self._parts.clock.sleep(_ROUND_SECONDS)

    async def _keep_rounds(self) -> None:
        while True:
            for step in (self._take_up_again, self._wake_resting, self._read_commands):
                await tried("the engine's round waits", step)
            await self._parts.clock.sleep(_ROUND_SECONDS)

    async def _take_up_again(self) -> None:
        """Takes up runs that were set aside, while there is room for them. Raises: MeshError."""
        now = self._parts.clock.monotonic()
        for run_id in [run_id for run_id, at in self._set_aside.items() if at <= now]:
            if not (self._room.open or depth_of(run_id)):
                continue
            if shard_of(run_id) in self._shards.held:
                run = await self._parts.store.finder.owned_run(run_id)
                if run is not None:
                    self._take_up(run)
            self._set_aside.pop(run_id, None)

    async def _wake_resting(self) -> None:
        """Takes up runs that rest in the database and whose moment comes before the next round, while there is room.

        One that was set aside waits for its own time: it must not stand before those that can go on.
        Raises: MeshError.
        """
        soon = self._parts.clock.now() + timedelta(seconds=_ROUND_SECONDS)
        seen = set[str]()
        for _ in range(_PAGES if self._shards.held else 0):
            known = seen.union(self._set_aside, self._lane.runs, self._reading)
            found = await self._parts.store.finder.waking_runs(list(self._shards.held), before=soon, but=known)
            if not found:
                return
            for run in found:
                seen.add(run.run_id)
                if self._room.open or depth_of(run.run_id):
                    self._take_up(run)

    async def _read_commands(self) -> None:
        """Hands over commands that the bus did not announce. Raises: MeshError.

        One that was set aside for seconds has them wait as long; one that cannot be read is looked at for more than
        signals, which go on waiting there.
        """
        soon = self._parts.clock.monotonic() + AGAIN_LATER_SECONDS
        for _ in range(_PAGES if self._shards.held else 0):
            found = await self._parts.store.inbox.commands(list(self._shards.held), after=self._commands_after)
            self._commands_after = max(found, default=None)
            if not found:
                return
            for run_id, commands in found.items():
                until = self._set_aside.get(run_id)
                if until is None or (until > soon and any(command.kind != SIGNAL for command in commands)):
                    await self._hand_over(run_id, commands)

    async def _hand_over(self, run_id: str, commands: Sequence[RunCommand]) -> None:
        """Gives commands to their run, which is read from its journal if it rested. Raises: MeshError.

        One that is to be cancelled needs no room, for it gives its own back.
        """
        if self._lane.tell(run_id, commands) or run_id in self._reading:
            return
        if self._room.open or depth_of(run_id) or any(command.kind == "cancel" for command in commands):
            run = await self._parts.store.finder.owned_run(run_id)
            if run is not None:
                self._take_up(run)

    async def _hear_wakes(self) -> None:
        async with self._parts.live.wakes() as wakes:
            async for run_id in wakes:
                await tried("a wake is passed over", partial(self._hear, run_id))

    async def _hear(self, run_id: str) -> None:
        """Looks for commands of a run. Raises: MeshError; Invalid: it is no id, for anybody may write to the bus."""
        if shard_of(run_id) in self._shards.held:
            await self._hand_over(run_id, await self._parts.store.inbox.commands_of(run_id))

    async def _tidy(self) -> None:
        """Removes commands that came too late for their run."""
        while True:
            await self._parts.clock.sleep(_TIDY_SECONDS)
            await tried("late commands stay for now", self._parts.store.inbox.drop_late_commands)

    @staticmethod
    def _forget(kept: dict[Key, asyncio.Task[None]], key: Key, task: asyncio.Task[None]) -> None:
        if kept.get(key) is task:
            del kept[key]
