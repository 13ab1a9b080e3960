"""Owns the runs of this replica: starts drivers, keeps their leases, picks up what others left behind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import IdSource
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import LeaseLost, RunDiverged, RunsAtLimit
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
_COMMAND_POLL_SECONDS: Final = 0.02


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
        self._drivers: dict[str, RunDriver] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        #: Runs outlive the call that started them: their tasks must not inherit its deadline.
        self._context = Context()

    @property
    def running(self) -> int:
        """Number of runs that this replica drives."""
        return len(self._drivers)

    async def started_before(self, key: StartKey) -> str | None:
        """See `Runs.started_before`."""
        return await self._parts.store.started_before(key)

    def refuse_when_full(self) -> None:
        """See `Runs.refuse_when_full`."""
        if self.running >= self._limits.max_runs:
            raise RunsAtLimit(self._limits.max_runs)

    async def start(self, key: StartKey | None, run: OwnedRun, started: journal_pb2.RunStarted) -> str:
        """See `Runs.start`."""
        self.refuse_when_full()
        at = Timestamp()
        at.FromDatetime(self._parts.clock.now())
        state, entries = advance(program.RunState(), [journal_pb2.JournalEntry(run_started=started)], at)
        view = session_pb2.Session()
        for sequence, entry in enumerate(entries, 1):
            project(view, entry, sequence)
        first = Commit(first_sequence=1, entries=tuple(entries), view=view)
        earlier = await self._parts.store.create(run, self._owner, first, key)
        if earlier is not None:
            return earlier
        driver = RunDriver(run, self._parts)
        driver.adopt(state, first)
        self._begin(driver)
        return run.run_id

    async def command(self, principal: Principal, run_id: str, kind: str) -> None:
        """See `Runs.command`."""
        command = RunCommand(command_id=self._ids.uuid(), kind=kind, by=principal.subject)
        await self._parts.store.add_command(principal.tenant, run_id, command)
        await self._parts.live.wake_owner(run_id)
        deadline = self._parts.clock.monotonic() + _COMMAND_SECONDS
        while self._parts.clock.monotonic() < deadline:
            if not await self._parts.store.is_waiting(principal.tenant, command):
                return
            await self._parts.clock.sleep(_COMMAND_POLL_SECONDS)

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

    def _begin(self, driver: RunDriver) -> None:
        if self._group is None:
            return  # stopping: the lease runs out, or has been ended, and another replica goes on
        run_id = driver.run.run_id
        self._drivers[run_id] = driver
        self._tasks[run_id] = self._group.create_task(
            self._drive(driver), name=f"drive {run_id}", context=self._context.copy()
        )

    async def _drive(self, driver: RunDriver) -> None:
        run_id = driver.run.run_id
        try:
            await driver.drive()
        except* LeaseLost:
            log.warning("lease lost", run_id=run_id)
        except* Exception as group:
            # A consumer loop: one broken run must not stop the others. Its lease runs out, and it is taken up again
            # from its journal, here or elsewhere.
            log.exception("run set aside", run_id=run_id, cause=str(group.exceptions[0]))
        finally:
            self._drivers.pop(run_id, None)
            self._tasks.pop(run_id, None)

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
        room = self._limits.max_runs - self.running
        if room <= 0:
            return
        for run in await self._parts.store.claim(self._owner, most=room, restarted=restarted):
            if run.run_id in self._drivers:
                continue
            driver = RunDriver(run, self._parts)
            try:
                await driver.recover()
            except (RunDiverged, program.UnknownProgram) as error:
                log.error("run cannot go on in this release", run_id=run.run_id, cause=str(error))
                continue
            except MeshError as error:
                log.warning("run cannot be read now", run_id=run.run_id, cause=str(error))
                continue
            except Exception:
                # A consumer loop: a journal that cannot be read must not stop the runs that were claimed with it.
                log.exception("run set aside", run_id=run.run_id)
                continue
            log.info("run taken up", run_id=run.run_id, epoch=run.epoch)
            self._begin(driver)

    async def _keep_leases(self) -> None:
        while True:
            await self._parts.clock.sleep(_EXTEND_SECONDS)
            owned = {run_id: driver.run for run_id, driver in self._drivers.items()}
            if not owned:
                continue
            try:
                held = await self._parts.store.extend(self._owner, list(owned.values()))
            except MeshError as error:
                log.warning("cannot extend leases", cause=str(error))
                continue
            for run_id in owned.keys() - set(held):
                task = self._tasks.get(run_id)
                if task is not None:
                    log.warning("lease lost", run_id=run_id)
                    task.cancel()

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
