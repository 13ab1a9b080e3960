"""Owns the runs of this replica: starts drivers, keeps their leases, picks up what others left behind."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2, session_service_pb2
from services.meshkit.core.errors import MeshError, RequestIdReused
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.once import RequestInProgress
from services.meshkit.core.tenant import QuotaExceeded
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import LeaseLost, RunsAtLimit
from services.orchestrator.engine.driver import DriverParts, RunDriver
from services.orchestrator.engine.facts import advance
from services.orchestrator.engine.run import Commit, OwnedRun, RunCommand, StartKey
from services.orchestrator.programs import run as program
from services.orchestrator.programs.view import project

log = logger(__name__)

#: Time between two looks for runs without an owner, and for commands that the bus lost.
_POLL_SECONDS: Final = 1.0
#: Time between two extensions of leases; the lease itself lasts `RunStore`'s 15 s of database time.
_EXTEND_SECONDS: Final = 4.0
#: How long a caller waits to see its command taken.
_COMMAND_SECONDS: Final = 2.0
#: Time between two looks whether it was, when the bus brings no news.
_COMMAND_POLL_SECONDS: Final = 0.5
#: Runs leased at once, and journals read at once.
_CLAIM_AT_ONCE: Final = 64
_RECOVER_AT_ONCE: Final = 8
#: Runs remembered to be taken up again before their lease runs out; the others wait for that.
_MAX_SET_ASIDE: Final = 1_000
#: Time between two removals of commands that came too late for their run.
_TIDY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds of one replica."""

    #: Runs driven at once; a start beyond is refused, a run left behind waits for room.
    max_runs: int


class Engine:
    """Drives the runs whose leases this replica holds. Entered once; leaving hands the runs back."""

    def __init__(self, *, owner: str, parts: DriverParts, ids: IdSource, limits: EngineLimits) -> None:
        self._owner = owner
        self._parts = parts
        self._ids = ids
        self._limits = limits
        #: Runs that are driven or being recovered, all of whose leases are kept; and the task of each.
        self._drivers: dict[str, RunDriver] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: Places that starts in progress have taken.
        self._places = 0
        #: Runs whose lease is ours and which nobody drives.
        self._set_aside: set[str] = set()
        self._recoveries = asyncio.Semaphore(_RECOVER_AT_ONCE)
        self._group: asyncio.TaskGroup | None = None
        #: Runs outlive the call that started them: their tasks must not inherit its deadline.
        self._context = Context()

    @property
    def running(self) -> int:
        """Number of runs that this replica drives, with those that are being started; stranded ones take no place."""
        return self._places + sum(not driver.stranded for driver in self._drivers.values())

    async def started_before(self, key: StartKey) -> session_pb2.Session | None:
        """See `Runs.started_before`."""
        return await self._parts.store.started_before(key)

    async def check_quota(self, tenant: TenantId) -> None:
        """See `Runs.check_quota`."""
        await self._parts.store.check_quota(tenant)

    async def stop(self, tenant: TenantId) -> None:
        """Ends the work on all runs of a tenant that is being erased. Their rows go next, and with them every lease."""
        tasks = [self._tasks[run_id] for run_id, driver in self._drivers.items() if driver.run.tenant == tenant]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @contextmanager
    def place(self) -> Iterator[None]:
        """See `Runs.place`."""
        if self.running >= self._limits.max_runs:
            raise RunsAtLimit(self._limits.max_runs)
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    async def start(self, key: StartKey | None, run: OwnedRun, started: journal_pb2.RunStarted) -> session_pb2.Session:
        """See `Runs.start`."""
        at = Timestamp()
        at.FromDatetime(self._parts.clock.now())
        state, entries = advance(program.RunState(), [journal_pb2.JournalEntry(run_started=started)], at)
        view = session_pb2.Session()
        for sequence, entry in enumerate(entries, 1):
            project(view, entry, sequence)
        first = Commit(first_sequence=1, entries=tuple(entries), view=view)
        try:
            earlier = await self._parts.store.create(run, self._owner, first, key)
        except (QuotaExceeded, RequestInProgress, RequestIdReused):
            raise
        except BaseException:
            # The caller went away, or the answer was lost: the run may have been recorded, and then has to be driven.
            self._put_aside(run.run_id)
            raise
        if earlier is not None:
            return earlier
        driver = RunDriver(run, self._parts)
        driver.adopt(state, first)
        answer = session_pb2.Session()
        answer.CopyFrom(first.view)
        self._begin(driver, recover=False)
        return answer

    async def command(self, principal: Principal, run_id: str, kind: str) -> None:
        """See `Runs.command`."""
        command = RunCommand(command_id=self._ids.uuid(), kind=kind, by=principal.subject)
        async with self._parts.live.watch(principal.tenant, run_id) as news:
            waiting = await self._parts.store.add_command(principal.tenant, run_id, command)
            await self._parts.live.wake_owner(run_id)
            deadline = self._parts.clock.monotonic() + _COMMAND_SECONDS
            while await self._parts.store.is_waiting(principal.tenant, waiting):
                left = deadline - self._parts.clock.monotonic()
                if left <= 0:
                    return
                await _until_news(news, seconds=min(left, _COMMAND_POLL_SECONDS))

    @asynccontextmanager
    async def running_block(self) -> AsyncGenerator[None]:
        """Drives runs while the block runs; then cancels their calls and ends their leases."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._context = copy_context()
            keepers = [
                group.create_task(self._look_for_work(), name="engine-claims"),
                group.create_task(self._keep_leases(), name="engine-leases"),
                group.create_task(self._hear_wakes(), name="engine-wakes"),
                group.create_task(self._tidy(), name="engine-tidying"),
            ]
            try:
                yield
            finally:
                self._group = None
                for task in (*keepers, *self._tasks.values()):
                    task.cancel()
                left = [driver.run for driver in self._drivers.values()]
                await asyncio.gather(*keepers, *self._tasks.values(), return_exceptions=True)
                if left:
                    await self._parts.store.release(self._owner, left)

    def _begin(self, driver: RunDriver, *, recover: bool) -> None:
        if self._group is None:
            return  # stopping: the lease runs out, or has been ended, and another replica goes on
        run_id = driver.run.run_id
        # A driver under an older epoch can write nothing any more (INV-2); it has only not heard of it yet.
        before = self._tasks.get(run_id)
        self._drivers[run_id] = driver
        self._tasks[run_id] = self._group.create_task(
            self._drive(driver, recover=recover, before=before), name=f"drive {run_id}", context=self._context.copy()
        )

    async def _drive(self, driver: RunDriver, *, recover: bool, before: asyncio.Task[None] | None) -> None:
        run_id = driver.run.run_id
        try:
            if before is not None:
                before.cancel()
                await asyncio.wait([before])
            if recover:
                async with self._recoveries:
                    await driver.recover()
                log.info("run taken up", run_id=run_id, epoch=driver.run.epoch)
                await self._hand_over_commands([run_id])
            await driver.drive()
        except* LeaseLost:
            log.warning("lease lost", run_id=run_id)
        except* MeshError as group:
            log.warning("run set aside", run_id=run_id, cause=str(group.exceptions[0]))
            self._set_aside_if_new(driver)
        except* Exception as group:
            # A consumer loop: one broken run must not stop the others. It is taken up again from its journal.
            log.exception("run set aside", run_id=run_id, cause=str(group.exceptions[0]))
            self._set_aside_if_new(driver)
        finally:
            if self._drivers.get(run_id) is driver:
                del self._drivers[run_id], self._tasks[run_id]

    def _set_aside_if_new(self, driver: RunDriver) -> None:
        """Has a run taken up again soon. One that failed before it got any further waits until its lease runs out."""
        if driver.progressed:
            self._put_aside(driver.run.run_id)

    def _put_aside(self, run_id: str) -> None:
        if len(self._set_aside) < _MAX_SET_ASIDE:
            self._set_aside.add(run_id)

    async def _look_for_work(self) -> None:
        """Takes up runs that nobody drives, and commands that the bus did not announce."""
        restarted = True
        while True:
            try:
                await self._claim(restarted=restarted)
                restarted = False
                await self._hand_over_commands(list(self._drivers))
            except MeshError as error:
                log.warning("cannot look for work", cause=str(error))
            await self._parts.clock.sleep(_POLL_SECONDS)

    async def _claim(self, *, restarted: bool) -> None:
        """Leases runs while there is room for them. They are recovered at the same time, a bounded number at once."""
        while (room := min(self._room(), _CLAIM_AT_ONCE)) > 0:
            ours = frozenset(self._set_aside)
            claimed = await self._parts.store.claim(self._owner, most=room, restarted=restarted, ours=ours)
            self._set_aside -= ours
            # Starts may have taken places meanwhile; a run that has a driver takes none.
            free = max(self._room(), 0)
            for run in claimed[:free]:
                self._begin(RunDriver(run, self._parts), recover=True)
            if claimed[free:]:
                await self._parts.store.release(self._owner, claimed[free:])
            if len(claimed) < room:
                return

    def _room(self) -> int:
        """How many runs may be taken up: stranded ones take no place, but they are not held without end either."""
        return self._limits.max_runs - max(self.running, len(self._drivers) - self._limits.max_runs)

    async def _tidy(self) -> None:
        """Removes commands that came too late for their run."""
        while True:
            await self._parts.clock.sleep(_TIDY_SECONDS)
            try:
                await self._parts.store.drop_late_commands()
            except MeshError as error:
                log.warning("cannot remove late commands", cause=str(error))

    async def _keep_leases(self) -> None:
        while True:
            await self._parts.clock.sleep(_EXTEND_SECONDS)
            owned = dict(self._drivers)
            if not owned:
                continue
            try:
                held = await self._parts.store.extend(self._owner, [driver.run for driver in owned.values()])
            except MeshError as error:
                log.warning("cannot extend leases", cause=str(error))
                continue
            for run_id in owned.keys() - set(held):
                # It may be driven under a newer lease by now.
                if self._drivers.get(run_id) is owned[run_id]:
                    log.warning("lease lost", run_id=run_id)
                    self._tasks[run_id].cancel()

    async def _hear_wakes(self) -> None:
        async with self._parts.live.wakes() as wakes:
            async for run_id in wakes:
                if run_id in self._drivers:
                    try:
                        await self._hand_over_commands([run_id])
                    except MeshError as error:
                        log.warning("cannot read commands", cause=str(error))

    async def _hand_over_commands(self, run_ids: list[str]) -> None:
        if not run_ids:
            return
        for run_id, commands in (await self._parts.store.commands(run_ids)).items():
            driver = self._drivers.get(run_id)
            if driver is not None:
                driver.tell(commands)


async def _until_news(news: AsyncIterator[session_service_pb2.WatchSessionResponse], *, seconds: float) -> None:
    """Waits until something was recorded, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            async for event in news:
                if event.WhichOneof("event") is None:
                    return
    except TimeoutError:
        return
