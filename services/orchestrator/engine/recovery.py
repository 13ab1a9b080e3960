"""Reads the journals of runs that others left behind, and parks the runs that nobody can read."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import RunNotFound
from services.orchestrator.domain.sub_run_id import depth_of
from services.orchestrator.engine.faults import UNREADABLE, EngineFault, Faults, unread
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.plans import prepare
from services.orchestrator.engine.ports import RunEvents, RunStore
from services.orchestrator.engine.run import OwnedRun, RunCommand, ShardLease, give_up, parent_of
from services.orchestrator.engine.tried import tried

log = logger(__name__)

#: Journals read at once.
_RECOVER_AT_ONCE: Final = 8
#: Time after which a run that was set aside is taken up again, if it had got any further; and if it had not.
AGAIN_SECONDS: Final = 1.0
AGAIN_LATER_SECONDS: Final = 15.0
#: And of one that shows that it is parked and cannot be read, when nobody asks anything of it but signals.
_AGAIN_PARKED_SECONDS: Final = 600.0


class PutAside(Protocol):
    """Has a run be taken up again later."""

    def __call__(self, run_id: str, *, seconds: float) -> None:
        """After so many seconds."""
        ...


class Recovery:
    """Makes runs of what their journals hold.

    Args:
        held: the leases of this replica, by shard, as they stand whenever it is looked at.
        put_aside: told of each run that cannot be read.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        events: RunEvents,
        faults: Faults,
        held: Mapping[int, ShardLease],
        put_aside: PutAside,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._store = store
        self._events = events
        self._faults = faults
        self._held = held
        self._put_aside = put_aside
        self._clock = clock
        self._ids = ids
        self._at_once = asyncio.Semaphore(_RECOVER_AT_ONCE)

    async def read(self, run: OwnedRun) -> LiveRun | None:
        """Gives a run as its journal leaves it, with what was asked of it; None when it cannot be read."""
        live = LiveRun(run)
        try:
            async with self._at_once:
                while batch := await self._store.journal.entries(run.tenant, run.run_id, after=live.sequence):
                    await prepare(batch[0][1].run_started)
                    live.read([entry for _, entry in batch])
                live.recovered()
                if fault := self._faults.of(run.run_id, live.recorded_sequence):
                    live.fail(fault)
                if await self._is_orphan(live):
                    cancel = RunCommand(command_id=self._ids.uuid(), kind="cancel", by=live.parent_run_id)
                    await self._store.inbox.add_command(run.tenant, run.run_id, cancel)
                # After the journal: one that was read before it may have had its effect since.
                live.tell(await self._store.inbox.commands_of(run.run_id))
        except Exception as error:  # noqa: BLE001  # logged where its failures are counted
            # A consumer loop: one broken run must not stop the others.
            log.warning("a journal cannot be read", run_id=run.run_id, cause=str(error))
            self._faults.note(run.run_id, live.sequence, error)
            await self._leave(run, live.sequence)
            return None
        log.info("run taken up", run_id=run.run_id)
        return live

    async def _leave(self, run: OwnedRun, sequence: int) -> None:
        """Sets a run aside whose journal cannot be read; one that was tried often enough shows that it is parked."""
        fault = self._faults.of(run.run_id, sequence)
        if fault is None:
            again = self._faults.counts(run.run_id)
            self._put_aside(run.run_id, seconds=AGAIN_LATER_SECONDS if again else AGAIN_SECONDS)
            return
        shown = await tried("a run is parked and nobody sees it", partial(self._park, run, fault))
        self._put_aside(run.run_id, seconds=_AGAIN_PARKED_SECONDS if shown else AGAIN_LATER_SECONDS)

    async def _park(self, run: OwnedRun, fault: EngineFault) -> None:
        """Writes to the end of a journal that nobody can read. Raises: MeshError."""
        store, lease = self._store, self._held.get(run.shard)
        if lease is None:
            return
        view = await store.journal.view(run.tenant, run.run_id)
        last = await store.journal.last_sequence(run.tenant, run.run_id)
        at = Timestamp()
        at.FromDatetime(self._clock.now())
        write = unread(run, view, last, fault, await store.inbox.commands_of(run.run_id), at)
        if write is not None and write.entries and write.entries[0].HasField("run_abandoned"):
            write.handed_down = [(sub_run_id, give_up(run)) for sub_run_id in await self._sub_runs_of(run)]
        if write is not None and not await store.journal.commit([lease], [write]):
            self._events.recorded(write)

    async def _sub_runs_of(self, run: OwnedRun) -> Sequence[str]:
        """Gives the runs that this one started and that have not ended, as their own views say. Raises: MeshError."""
        found, after = list[str](), None
        while page := await self._store.finder.open_in_tree(run, after=after):
            after = page[-1].run_id
            for other in page:
                if depth_of(other.run_id) == depth_of(run.run_id) + 1:
                    # One that nobody can read, or that is gone by now, stands still by itself.
                    with suppress(*UNREADABLE, RunNotFound):
                        if parent_of(await self._store.journal.view(other.tenant, other.run_id)) == run.run_id:
                            found.append(other.run_id)
        return found

    async def _is_orphan(self, run: LiveRun) -> bool:
        """Says whether a run lost the one that started it, whose owner may have died before it said so."""
        parent = run.parent_run_id
        return bool(parent) and not run.ended and await self._store.finder.owned_run(parent) is None
