"""The runs of a replica's shards in one database: what arrives is decided at once and recorded in groups.

    inbox of each run ─▶ decide (pure) ─▶ one commit for all that was decided ─▶ calls, news for watchers

Nothing is called or shown before its fact is recorded (INV-1). While a commit is under way the next one gathers, so
commits grow with the load and nobody waits for one to fill (docs/decisions/0009).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.failpoints import failpoint
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.alarms import Alarms
from services.orchestrator.engine.calls_in_flight import CallsInFlight
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.ports import (
    Calls,
    CallsSettled,
    LiveEvents,
    RunEvents,
    RunStore,
    WritesNotReady,
    nobody_is_told,
)
from services.orchestrator.engine.run import RunCommand, RunWrite, ShardLease
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.step_times import StepTimes
from services.orchestrator.engine.sub_runs import SubRuns
from services.orchestrator.engine.unready_writes import UnreadyWrites

log = logger(__name__)

#: Pause before a commit that the database did not take is tried again.
_COMMIT_RETRY_SECONDS: Final = 0.2
#: How long decisions are made in one go, about: meanwhile nothing else happens here, no lease is extended.
_TURN_SECONDS: Final = 0.02
#: Most writes in one commit, and most bytes of several: each is in memory three times until it has ended. What was
#: decided beyond waits for the next one.
_WRITES_AT_ONCE: Final = 1_000
_BYTES_AT_ONCE: Final = 16 * 1024 * 1024
#: A database that is away, or has no connection free. The lease decides how long a commit is tried.
_PASSING: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED})
#: How long a commit is tried while somebody else's lock is in its way, which costs no lease: as long as a lease lasts.
#: Then the runs are found that it is about.
_LOCKED_SECONDS: Final = 15.0

#: So many runs for which something has arrived are decided in two parts; the first is being recorded meanwhile.
_HALVED: Final = 32

_COMMITTED: Final = metrics.BATCH_ITEMS.labels("orchestrator.commit")

#: A run that has decided, and what it wants recorded.
Pending = tuple[LiveRun, RunWrite]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """What the lanes of a replica share."""

    store: RunStore
    calls: Calls
    steps: StepPools
    live: LiveEvents
    events: RunEvents
    clock: Clock
    times: StepTimes = field(default_factory=StepTimes)
    #: Told of calls of models whose outcomes are recorded.
    settled: CallsSettled = nobody_is_told


class Turn:
    """The time in which decisions are made in one go. It decides how many facts share a row, never what they say."""

    def __init__(self, clock: Clock) -> None:
        #: What these decisions are recorded with.
        self.at = Timestamp()
        self.at.FromDatetime(clock.now())
        self._loop_time = asyncio.get_running_loop().time
        self._end = self._loop_time() + _TURN_SECONDS

    def over(self) -> bool:
        """True once others are to have their turn."""
        return self._loop_time() > self._end


class Lane:
    """The only writer of its runs, while the leases of their shards hold.

    Args:
        parts: store, calls, live news, events and clock of the replica.
        sub_runs: makes the calls that are runs of their own.
        left: told of each run that is not driven here any more; True when it is to be taken up again.
        failed: told of each run that could not be decided or recorded, and by what, before it is left.
        lost: told of each shard whose lease a commit found lost; calls `drop` for it.
    """

    def __init__(
        self,
        parts: EngineParts,
        sub_runs: SubRuns,
        *,
        left: Callable[[LiveRun, bool], None],
        failed: Callable[[LiveRun, Exception], None],
        lost: Callable[[int], None],
    ) -> None:
        self._parts = parts
        self._left = left
        self._failed = failed
        self._lost = lost
        self._runs: dict[str, LiveRun] = {}
        self._leases: dict[int, ShardLease] = {}
        #: Runs for which something has arrived, in order of arrival.
        self._touched: dict[str, LiveRun] = {}
        self._arrived = asyncio.Event()
        #: What was decided and is not recorded yet, in order.
        self._decided: deque[Pending] = deque()
        self._to_record = asyncio.Event()
        metrics.QUEUE_ITEMS.labels("orchestrator.decided").set_function(self._decided.__len__)
        metrics.QUEUE_ITEMS.labels("orchestrator.runs").set_function(self._runs.__len__)
        self.unready = UnreadyWrites(parts.store.journal, ready=self._made_ready, failed=self._not_made_ready)
        self.alarms = Alarms(self._runs, clock=parts.clock, touch=self._touch)
        self.calls = CallsInFlight(
            calls=parts.calls,
            sub_runs=sub_runs,
            steps=parts.steps,
            live=parts.live,
            clock=parts.clock,
            touch=self._touch,
        )

    @property
    def runs(self) -> Mapping[str, LiveRun]:
        """The runs that it drives, by id."""
        return self._runs

    def hold(self, lease: ShardLease) -> None:
        """Writes to a shard under this lease from now on."""
        self._leases[lease.shard] = lease

    def drop(self, shard: int) -> None:
        """Writes to a shard no more: it belongs to another replica, or will. Its runs leave the memory."""
        self._leases.pop(shard, None)
        for run in [run for run in self._runs.values() if run.run.shard == shard]:
            self.remove(run, again=False)
        self._parts.times.forget(shard)

    def add(self, run: LiveRun) -> None:
        """Drives a run whose facts are all recorded, if it holds the run's shard."""
        if run.run.shard not in self._leases:
            self._left(run, False)
            return
        if run.run.run_id in self._runs:
            return  # whoever looked through its shard found it while it was being started
        self._runs[run.run.run_id] = run
        self._go_on(run, None)
        self._touch(run)

    def remove(self, run: LiveRun, *, again: bool) -> None:
        """Takes a run out of memory; what it has not recorded is lost, and comes again from whoever brings it."""
        if run.gone:
            return
        run.gone = True
        del self._runs[run.run.run_id]
        self._touched.pop(run.run.run_id, None)
        if run.ended:
            self.calls.revoke(run.run)
        else:
            self.calls.leave(run.run)
        self.unready.drop(run.run.run_id)
        self._left(run, again)

    def tell(self, run_id: str, commands: Sequence[RunCommand]) -> bool:
        """Hands commands over to a run; False when it is not here."""
        run = self._runs.get(run_id)
        if run is None:
            return False
        run.tell(commands)
        self._touch(run)
        return True

    async def decide(self) -> None:
        """Decides what arrives until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            touched, self._touched = self._touched, {}
            turn = Turn(self._parts.clock)
            half = len(touched) // 2 if len(touched) >= _HALVED else 0
            for left, run in zip(range(len(touched), 0, -1), touched.values(), strict=True):
                if turn.over() or left == half:
                    await self._hand_over()
                    turn = Turn(self._parts.clock)
                if not run.gone:
                    self._decide(run, turn)
            if self._decided:
                self._to_record.set()

    async def _hand_over(self) -> None:
        """Lets others have their turn, the recorder before all: where none is under way, a commit begins then."""
        if self._decided:
            self._to_record.set()
        # One turn of the loop in which the commit begins, and one in which it is sent.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def record(self) -> None:
        """Records what was decided, and does what follows from it, until cancelled. A commit that has begun ends."""
        events, live = self._parts.events, self._parts.live
        while True:
            await self._to_record.wait()
            writes = self._next_writes()
            if not self._decided:
                self._to_record.clear()
            await failpoint("orchestrator.before_commit")
            await self._commit(writes)
            await failpoint("orchestrator.after_commit")
            recorded = deque(pending for pending in writes if not pending[0].gone)
            # Each is let go when it is done with: what is freed a commit later is out of the caches by then.
            del writes
            while recorded:
                run, write = recorded.popleft()
                if write.settled:
                    self._parts.settled(write.run, write.settled)
                if not write.only_calls:
                    events.recorded(write)
                    self._parts.times.recorded(write)
                for sub_run_id, _ in write.handed_down:
                    await live.wake_owner(sub_run_id)
                if not run.gone:
                    self._go_on(run, write.calls)
                    if live.is_watched(write.run.tenant, write.run.run_id, write.last_sequence):
                        await self._tell_watchers(run, write)

    def _next_writes(self) -> list[Pending]:
        """Takes out what goes into the next commit, in order: what is too much for one waits for the one after it."""
        writes, size, decided = list[Pending](), 0, self._decided
        while decided and len(writes) < _WRITES_AT_ONCE:
            size += decided[0][1].size
            if writes and size > _BYTES_AT_ONCE:
                break
            writes.append(decided.popleft())
        return writes

    def _touch(self, run: LiveRun) -> None:
        if not run.gone:
            if not self._touched:
                self._arrived.set()
            self._touched[run.run.run_id] = run

    def _decide(self, run: LiveRun, turn: Turn) -> None:
        write = self._advanced(run, turn)
        if write is not None and not self.unready.take(run, write):
            self._decided.append((run, write))
        if run.unread:
            self._touch(run)
        elif write is None and run.resting:
            self._go_on(run, ())  # what came was nothing to it, and no commit follows that would let it go

    def _made_ready(self, run: LiveRun, write: RunWrite) -> None:  # a callback
        self._decided.append((run, write))
        self._to_record.set()

    def _not_made_ready(self, run: LiveRun, error: Exception) -> None:  # a callback
        log.warning("run set aside", run_id=run.run.run_id, cause=str(error))
        if not isinstance(error, WritesNotReady):
            self._failed(run, error)
        self.remove(run, again=True)

    def _advanced(self, run: LiveRun, turn: Turn) -> RunWrite | None:
        try:
            return run.advance(turn.at, turn.over)
        except Exception as error:  # noqa: BLE001  # logged by whoever counts its failures
            # A consumer loop: one broken run must not stop the others. It is taken up again from its journal.
            self._failed(run, error)
            self.remove(run, again=True)
            return None

    def _go_on(self, run: LiveRun, asked: Iterable[journal_pb2.JournalEntry] | None) -> None:
        """Makes the calls that recorded facts ask for. A run with nothing left to do leaves the memory.

        Args:
            asked: those facts; None for all whose calls wait for their outcome.
        """
        given_up = run.given_up()
        if given_up:
            self.calls.revoke(run.run, given_up)
        if run.paused:
            self.calls.hold_back(run)
        if run.resting and not self.alarms.soon(run):
            self.remove(run, again=False)
            return
        self.calls.make(run, run.outstanding if asked is None else asked)
        self.alarms.set(run)

    async def _tell_watchers(self, run: LiveRun, write: RunWrite) -> None:
        event = session_service_pb2.WatchSessionResponse(sequence=write.last_sequence)
        await self._parts.live.publish(run.run.tenant, run.run.run_id, event)

    async def _commit(self, writes: Sequence[Pending], patient_until: float | None = None) -> None:
        """Records writes; those that cannot be recorded are found one by one, and their runs taken out of memory.

        Args:
            patient_until: when what is in the way is waited for no longer, on the monotonic clock; None begins anew.
        """
        if patient_until is None:
            patient_until = self._parts.clock.monotonic() + _LOCKED_SECONDS
        while held := [(run, write) for run, write in writes if not run.gone]:
            leases = [self._leases[shard] for shard in sorted({run.run.shard for run, _ in held})]
            try:
                _COMMITTED.observe(len(held))
                with metrics.TICK_COMMIT.time():
                    lost = await self._parts.store.journal.commit(leases, [write for _, write in held])
            except WritesNotReady as error:
                self._set_aside(held, error)
            except MeshError as error:
                locked = error.kind is ErrorKind.CONFLICT and self._parts.clock.monotonic() < patient_until
                if not (locked or error.kind in _PASSING):
                    await self._bisect(held, error, patient_until)
                    return
                log.warning("a commit waits for the database", runs=len(held), cause=error.message)
                await self._parts.clock.sleep(_COMMIT_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001  # logged with the run that it turns out to be
                await self._bisect(held, error, patient_until)
                return
            else:
                if not lost:
                    for run, write in held:
                        run.recorded(write)
                    return
                for lease in leases:
                    if lease.shard in lost and self._leases.get(lease.shard) == lease:
                        log.warning("lease lost", shard=lease.shard)
                        metrics.SHARDS_LOST.inc()
                        self._lost(lease.shard)

    def _set_aside(self, writes: Sequence[Pending], error: WritesNotReady) -> None:
        """Has runs whose writes are not ready read again later, together: the others wait for one look at all."""
        for run, _ in writes:
            if run.run.run_id in error.run_ids:
                log.warning("run set aside", run_id=run.run.run_id, cause=str(error))
                self.remove(run, again=True)

    async def _bisect(self, writes: Sequence[Pending], error: Exception, patient_until: float) -> None:
        """Finds what a commit failed by: halves are tried alone, and what fails alone is read again from its journal.

        That settles a commit whose outcome was lost on the way, too: its second try is refused.
        """
        if len(writes) == 1:
            run, _ = writes[0]
            log.warning("run set aside", run_id=run.run.run_id, cause=str(error))
            self._failed(run, error)
            self.remove(run, again=True)
            return
        middle = len(writes) // 2
        await self._commit(writes[:middle], patient_until)
        await self._commit(writes[middle:], patient_until)
