"""Engines with one thing wrong: each is what somebody could write who has not thought of something."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID

from comitia.orchestrator.v1 import journal_pb2, session_service_pb2
from comitia.orchestrator.v1.worker_service_pb2 import StepOutcome
from services.meshkit.core.errors import MeshError
from services.orchestrator.engine.alarms import Alarms
from services.orchestrator.engine.calls_in_flight import CallsInFlight
from services.orchestrator.engine.engine import Engine
from services.orchestrator.engine.faults import Faults
from services.orchestrator.engine.lane import Lane, Pending, Turn
from services.orchestrator.engine.leases import Desk
from services.orchestrator.engine.live_run import Arrival, LiveRun
from services.orchestrator.engine.outcomes import fact_of_output
from services.orchestrator.engine.run import RunCommand, RunWrite
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.run_timers import RunTimers
from services.orchestrator.engine.shards import ShardKeeper
from services.orchestrator.engine.step_pools import _LOOK_SECONDS, StepPools
from services.orchestrator.engine.unready_writes import UnreadyWrites
from tests.support.run_store import WriteRefused

Mutant = Callable[[], AbstractContextManager[object]]


def _instead(owner: type[Any], name: str, wrong: Callable[..., Any]) -> Mutant:
    return lambda: patch.object(owner, name, wrong)


async def _commit_unfenced(self: Lane, writes: Sequence[Pending]) -> None:
    """Takes a commit that found its lease lost for one that was made."""
    held = [(run, write) for run, write in writes if self._runs.get(run.run.run_id) is run]
    leases = [self._leases[shard] for shard in sorted({run.run.shard for run, _ in held})]
    while held:
        try:
            await self._parts.store.journal.commit(leases, [write for _, write in held])
        except (MeshError, WriteRefused):
            await self._parts.clock.sleep(0.2)
        else:
            break
    for run, write in held:
        run.recorded(write)


async def _commit_under_any_lease(self: Lane, writes: Sequence[Pending]) -> None:
    """Leaves out the leases of which it is not sure."""
    held = [(run, write) for run, write in writes if self._runs.get(run.run.run_id) is run]
    if held:
        await self._parts.store.journal.commit([], [write for _, write in held])
        for run, write in held:
            run.recorded(write)


def _early(record: Any) -> Any:
    """Makes calls as soon as they are decided."""

    def advanced(self: Lane, run: LiveRun, turn: Turn) -> RunWrite | None:
        write = record(self, run, turn)
        if write is not None:
            self.calls.make(run, write.calls or ())
        return write

    return advanced


def _due_though_unrecorded(
    self: LiveRun, asked: Iterable[journal_pb2.JournalEntry]
) -> Iterable[tuple[CallKey, journal_pb2.JournalEntry]]:
    for entry in asked:
        key = entry.path, entry.call_intended.call_index
        if self._calls.begin(key):
            yield key, entry


def _news_with_doubles(self: LiveRun, arrived: Arrival) -> journal_pb2.JournalEntry | None:
    if self.ended:
        return None
    if isinstance(arrived, tuple):
        return arrived[1]
    return self._asked_for(arrived) if isinstance(arrived, RunCommand) else arrived


def _settled_again(outcomes: Any) -> Any:
    """Takes what a worker says of a step as often as it says it."""

    def taken(self: StepPools, desk: Desk, said: Iterable[StepOutcome]) -> None:
        heard, known = list(said), self.__dict__.setdefault("known", {})
        for outcome in heard:
            lease = desk.leases.get(outcome.lease_id)
            if lease is not None:
                known[desk, outcome.lease_id] = lease.offer
            elif (desk, outcome.lease_id) in known and outcome.HasField("output"):
                offer = known[desk, outcome.lease_id]
                offer.settle(fact_of_output(offer.key, outcome.output))
        outcomes(self, desk, heard)

    return taken


def _both(*mutants: Mutant) -> Mutant:
    def apply() -> AbstractContextManager[object]:
        stack = ExitStack()
        for mutant in mutants:
            stack.enter_context(mutant())
        return stack

    return apply


def _news_after_the_end(self: LiveRun, arrived: Arrival) -> journal_pb2.JournalEntry | None:
    if isinstance(arrived, RunCommand):
        return self._asked_for(arrived)
    return None if isinstance(arrived, tuple) else arrived


def _forgetful(recovered: Any) -> Any:
    def forget(self: LiveRun) -> None:
        recovered(self)
        self._timers = RunTimers()

    return forget


def _without_commands(tell: Any) -> Any:
    """Counts a command as obeyed that came while something else was being recorded."""

    def told(self: LiveRun, commands: Sequence[RunCommand]) -> None:
        before = len(self._inbox)
        tell(self, commands)
        if self._unrecorded:
            del self._inbox[before:]

    return told


def _news_first(advanced: Any) -> Any:
    """Tells watchers what is about to be recorded."""

    def tell(self: Lane, run: LiveRun, turn: Turn) -> RunWrite | None:
        write = advanced(self, run, turn)
        if write is not None and self.calls._group is not None:
            event = session_service_pb2.WatchSessionResponse(sequence=write.last_sequence)
            self.calls._group.create_task(self._parts.live.publish(run.run.tenant, run.run.run_id, event))
        return write

    return tell


def _once(keep: Any) -> Any:
    async def kept(self: ShardKeeper) -> None:
        if not self._held:
            await keep(self)

    return kept


async def _hand_over_undrained(self: ShardKeeper, surplus: int) -> None:
    """Releases shards, and goes on with their runs."""
    if surplus > 0:
        given = list(self._held.values())[-surplus:]
        for lease in given:
            del self._held[lease.shard]
        await self._leases.release(self._owner, given, leaving=False)


async def _bisect_all(self: Lane, writes: Sequence[Pending], error: Exception, patient_until: float) -> None:
    for run, _ in writes:
        self.remove(run, again=True)


async def _bisect_none(self: Lane, writes: Sequence[Pending], error: Exception, patient_until: float) -> None:
    """Takes whatever was refused for recorded already."""
    for run, write in writes:
        run.recorded(write)


def _gap(write: Any) -> Any:
    def gapped(
        self: LiveRun, before: tuple[int, int], entries: Sequence[journal_pb2.JournalEntry], commands: Sequence[UUID]
    ) -> RunWrite:
        if entries and commands:
            self.sequence += 1
            before = before[0] + 1, before[1]
        return write(self, before, entries, commands)

    return gapped


def _add_idle(self: Lane, run: LiveRun) -> None:
    """Drives a run that was read, and forgets what it waited for."""
    if run.run.shard not in self._leases:
        self._left(run, False)
        return
    self._runs[run.run.run_id] = run
    self._touch(run)


def _nothing(*_: object, **__: object) -> None: ...


async def _nothing_at_all(*_: object) -> None: ...


def _due_though_paused(timers: Any) -> Any:
    del timers
    return property(lambda self: False)


def _last_first(recorded: Any) -> Any:
    """Records what was decided last first."""

    async def record(self: Lane) -> None:
        pop = self._decided.pop
        self._decided = _Backwards(self._decided)  # type: ignore[assignment]
        del pop
        await recorded(self)

    return record


class _Backwards(list[Pending]):
    def popleft(self) -> Pending:
        return self.pop()


def _kept_going(remove: Any) -> Any:
    """Leaves the calls of a run that it drives no more with its workers and callees, and listens to them."""
    del remove

    def removed(self: Lane, run: LiveRun, *, again: bool) -> None:
        if self._runs.get(run.run.run_id) is run:
            del self._runs[run.run.run_id]
            self._left(run, again)

    return removed


def _all_restarted(held: Any) -> Any:
    """Drops nothing of what a lost lease covered."""
    del held

    def drop(self: Lane, shard: int) -> None:
        self._leases.pop(shard, None)

    return drop


def _strand_not(self: LiveRun, fault: Exception, advice: str = "") -> None:
    """Says that it is parked, and goes on."""
    self._put(journal_pb2.JournalEntry(run_parked=journal_pb2.RunParked(reason="ENGINE_FAULT", message=str(fault))))


def _overtaking(take: Any) -> Any:
    def taken(self: UnreadyWrites, run: LiveRun, write: RunWrite) -> bool:
        return run.run.run_id not in self._waiting and take(self, run, write)

    return taken


async def _unwatched(self: StepPools) -> None:
    """Looks at the clock no more after a look that found nothing left, whatever that look has leased to somebody."""
    while True:
        await self._busy.wait()
        await self._clock.sleep(_LOOK_SECONDS)
        self._look()
        if not self._deadlines and not self._room.short:
            self._busy.clear()


#: What is wrong, by name.
MUTANTS: Final[dict[str, Mutant]] = {
    "a lost lease does not stop a commit": _instead(Lane, "_commit", _commit_unfenced),
    "a commit names no lease": _instead(Lane, "_commit", _commit_under_any_lease),
    "calls are made before they are recorded": _instead(Lane, "_advanced", _early(Lane._advanced)),
    "a paused run goes on making calls": _instead(LiveRun, "due", _due_though_unrecorded),
    "a second result counts": _both(
        _instead(LiveRun, "_news", _news_with_doubles),
        _instead(StepPools, "outcomes", _settled_again(StepPools.outcomes)),
    ),
    "an ended run hears of more": _instead(LiveRun, "_news", _news_after_the_end),
    "timers are forgotten by whoever takes a run up": _instead(LiveRun, "recovered", _forgetful(LiveRun.recovered)),
    "a command is lost": _instead(LiveRun, "tell", _without_commands(LiveRun.tell)),
    "news come before the commit": _instead(Lane, "_advanced", _news_first(Lane._advanced)),
    "leases are never renewed": _instead(ShardKeeper, "keep", _once(ShardKeeper.keep)),
    "shards are handed over with their runs going on": _instead(ShardKeeper, "_hand_over", _hand_over_undrained),
    "poison fails its neighbours": _instead(Lane, "_bisect", _bisect_all),
    "what is refused counts as recorded": _instead(Lane, "_bisect", _bisect_none),
    "a number is left out": _instead(LiveRun, "_write", _gap(LiveRun._write)),
    "calls in flight are forgotten by whoever takes a run up": _instead(Lane, "add", _add_idle),
    "a run set aside is never taken up again": _instead(Engine, "_put_aside", _nothing),
    "commands come by the bus alone": _instead(Engine, "_read_commands", _nothing_at_all),
    "runs at rest are never woken": _instead(Engine, "_wake_resting", _nothing_at_all),
    "nobody looks for the runs of a shard": _instead(Engine, "_search", _nothing_at_all),
    "alarms do not ring": _instead(Alarms, "set", _nothing),
    "the last decision is recorded first": _instead(Lane, "record", _last_first(Lane.record)),
    "calls outlive the driving of their run": _instead(Lane, "remove", _kept_going(Lane.remove)),
    "the runs of a lost shard go on": _instead(Lane, "drop", _all_restarted(Lane.drop)),
    "a run that nothing can be recorded of is tried for ever": _instead(Faults, "of", _nothing),
    "a run that failed by our fault goes on by itself": _instead(LiveRun, "_strand", _strand_not),
    "a pause stays with the run that was asked": _instead(LiveRun, "_hand_down", _nothing),
    "a write overtakes one that waits for the object store": _instead(
        UnreadyWrites, "take", _overtaking(UnreadyWrites.take)
    ),
    "a step without room is never offered again": _instead(CallsInFlight, "_make_left_out", _nothing),
    "the last lease that a look makes is looked after by nobody": _instead(StepPools, "keep_time", _unwatched),
}
