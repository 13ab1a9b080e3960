"""The calls that a lane's runs wait for: makes them, and hands their outcomes back as facts."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from functools import partial
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, session_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal, MeshError
from services.meshkit.core.failpoints import failpoint
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.dry_effects import dry_outcome
from services.orchestrator.engine.leases import Offer
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.outcomes import stands
from services.orchestrator.engine.ports import Calls, LiveEvents, NobodyWaits
from services.orchestrator.engine.run import OwnedRun
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.sub_runs import SubRuns

log = logger(__name__)

_BROKEN: Final = "the call could not be made, which is a fault of the mesh; report it with the id of the run"

#: Has the lane look at a run again.
Touch = Callable[[LiveRun], None]


class CallsInFlight:
    """One task for each call but those that workers make. What a call answers goes into the inbox of its run.

    A run that another replica is to drive leaves the calls behind that others have been asked: that one makes them by
    the same ids, and is given the answer of a model that is being made. Were they cut, a model that answers just then
    would be paid for, and asked again.
    """

    def __init__(
        self, *, calls: Calls, sub_runs: SubRuns, steps: StepPools, live: LiveEvents, clock: Clock, touch: Touch
    ) -> None:
        self._calls = calls
        self._sub_runs = sub_runs
        self._steps = steps
        self._live = live
        self._clock = clock
        self._touch = touch
        self._tasks: defaultdict[str, dict[CallKey, asyncio.Task[None]]] = defaultdict(dict)
        #: Those of them that somebody has been asked and has not answered.
        self._asked = set[asyncio.Task[None]]()
        #: Those that go on though their run is not driven here any more.
        self._left: defaultdict[OwnedRun, dict[CallKey, asyncio.Task[None]]] = defaultdict(dict)
        self._group: asyncio.TaskGroup | None = None
        self._context = Context()
        metrics.QUEUE_ITEMS.labels("orchestrator.calls_left").set_function(self._count_left)

    def open(self, group: asyncio.TaskGroup, context: Context) -> None:
        """Makes calls in a group from now on.

        Args:
            context: that of the engine. Runs outlive the call that started them: their tasks must not inherit its
                deadline.
        """
        self._group, self._context = group, context

    def make(self, run: LiveRun, recorded: Iterable[journal_pb2.JournalEntry]) -> None:
        """Makes the calls that recorded facts of a run ask for."""
        if self._group is None:
            return  # stopping: whoever owns the shard next makes them
        run_id = run.run.run_id
        for key, intended in run.due(recorded):
            unmade = dry_outcome(run.started, intended) if run.dry else None
            if unmade is not None:
                self._settled(run, key, unmade)
                continue
            if intended.call_intended.kind == journal_pb2.CALL_KIND_STEP:
                self._offer(run, key, intended)
                continue
            made = self._call(run, key, intended, again=run.made_before(key))
            task = self._group.create_task(made, name=f"call {run_id} {key}", context=self._context.copy())
            self._tasks[run_id][key] = task
            task.add_done_callback(partial(self._ended, run_id, key))

    def revoke(self, run: OwnedRun, keys: Collection[CallKey] | None = None) -> list[asyncio.Task[None]]:
        """Cancels calls of a run, all of them without `keys`; gives their tasks, which end soon."""
        self._steps.withdraw(run.run_id, keys)
        tasks: list[asyncio.Task[None]] = []
        # And what it left here before it came back.
        for made in (self._tasks.get(run.run_id, {}), self._left.get(run, {})):
            tasks += [made[key] for key in (list(made) if keys is None else keys) if key in made]
        for task in tasks:
            task.cancel()
        return tasks

    def revoke_left(self, tenant: TenantId) -> list[asyncio.Task[None]]:
        """Cancels the calls that runs of a tenant have left here; gives their tasks, which end soon."""
        tasks = [task for run, made in self._left.items() if run.tenant == tenant for task in made.values()]
        for task in tasks:
            task.cancel()
        return tasks

    def leave(self, run: OwnedRun) -> None:
        """Ends the calls of a run but for those that others have been asked: these go on until they are answered.

        Nobody hears of their outcomes, and none is tried again.
        """
        self._steps.withdraw(run.run_id)
        for key, task in self._tasks.pop(run.run_id, {}).items():
            # Of those that a run has left when it came and went, the first is the one that is being answered.
            if task in self._asked and key not in self._left.get(run, {}):
                self._left[run][key] = task
                task.add_done_callback(partial(self._left_ended, run, key))
            else:
                task.cancel()

    def hold_back(self, run: LiveRun) -> None:
        """Takes back what a paused run need not wait for now: steps that no worker has begun, and runs of their own,
        which stand still as it does. All of them are made again when it goes on.
        """
        for key in self._steps.hold_back(run.run.run_id):
            run.left_out(key)
        made = self._tasks.get(run.run.run_id, {})
        for key in run.waits_for_runs():
            if key in made:
                made[key].cancel()
            run.left_out(key)

    def close(self) -> None:
        """Makes no more calls."""
        self._group = None

    async def end(self, seconds: float) -> None:
        """Waits so long for the calls that were left, then cancels them."""
        left = [task for made in self._left.values() for task in made.values()]
        if not left:
            return
        log.info("calls go on", calls=len(left), seconds=seconds)
        patience = asyncio.create_task(self._clock.sleep(seconds))
        over = asyncio.gather(*left, return_exceptions=True)
        try:
            await asyncio.wait((over, patience), return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
            for task in left:
                task.cancel()
            await over

    def _offer(self, run: LiveRun, key: CallKey, intended: journal_pb2.JournalEntry) -> None:
        """Has a worker make a step. One that finds no room stays with its run until there is."""
        settle = partial(self._settled, run, key)
        offer = Offer(run.run.tenant, run.run.run_id, key, intended, settle, project=run.project)
        if not self._steps.offer(offer, again=partial(self._make_left_out, run)):
            run.left_out(key)

    def _make_left_out(self, run: LiveRun) -> None:
        self.make(run, run.outstanding)

    def _settled(self, run: LiveRun, key: CallKey, entry: journal_pb2.JournalEntry) -> None:
        run.answered(key, entry)
        self._touch(run)

    def _ended(self, run_id: str, key: CallKey, task: asyncio.Task[None]) -> None:
        made = self._tasks.get(run_id, {})
        if made.get(key) is task:
            del made[key]
            if not made:
                del self._tasks[run_id]

    def _left_ended(self, run: OwnedRun, key: CallKey, _: asyncio.Task[None]) -> None:
        del self._left[run][key]
        if not self._left[run]:
            del self._left[run]

    def _count_left(self) -> int:
        return sum(map(len, self._left.values()))

    async def _call(self, run: LiveRun, key: CallKey, intended: journal_pb2.JournalEntry, *, again: bool) -> None:
        """Makes one call and puts its outcome into the run's inbox."""
        path, index = key
        kind = intended.call_intended.kind
        entry = journal_pb2.JournalEntry(path=path)
        await failpoint("orchestrator.before_call")
        try:
            reporter = _Reporter(run, self, run.speaker(path), again=again)
            if kind == journal_pb2.CALL_KIND_RUN:
                entry = await self._sub_runs.make(run.run, run.started, intended, reporter)
            else:
                answer = await self._calls.make(run.run, run.started, intended, reporter)
                entry.call_answered.CopyFrom(
                    journal_pb2.CallAnswered(
                        call_index=index, kind=kind, response=answer.SerializeToString(deterministic=True)
                    )
                )
        except NobodyWaits:
            return
        except MeshError as error:
            log.info("call failed", run_id=run.run.run_id, path=path, kind=kind, reason=error.reason)
            entry.call_failed.CopyFrom(
                journal_pb2.CallFailed(
                    call_index=index,
                    kind=kind,
                    reason=error.reason,
                    message=error.message,
                    final=stands(error),
                )
            )
        except Exception as error:
            # A task among many: a fault of ours in one call must not stop the engine. Its program decides what follows.
            log.exception("call broken", run_id=run.run.run_id, path=path, kind=kind, cause=str(error))
            entry = journal_pb2.JournalEntry(path=path)
            entry.call_failed.CopyFrom(
                journal_pb2.CallFailed(call_index=index, kind=kind, reason=Internal.reason, message=_BROKEN)
            )
        await failpoint("orchestrator.after_answer")
        run.answered(key, entry)
        self._touch(run)

    @contextmanager
    def asking(self, run: LiveRun) -> Generator[None]:
        """Encloses one try of the call that the running task makes. Raises: NobodyWaits."""
        task = asyncio.current_task()
        if task is None:
            raise ValueError("a call is made in a task of its own")
        self._asked.add(task)
        try:
            yield
        except MeshError as error:
            if run.gone or self._group is None:
                raise NobodyWaits from error
            raise
        finally:
            self._asked.discard(task)

    async def show(self, run: LiveRun, path: str, text: str, *, restart: bool) -> None:
        """Shows text of a turn in progress to whoever watches, while the run is driven here."""
        if run.gone or self._group is None:
            return
        event = session_service_pb2.WatchSessionResponse(
            sequence=run.recorded_sequence,
            text_delta=session_service_pb2.TextDelta(path=path, text=text, restart=restart),
        )
        event.event_time.FromDatetime(self._clock.now())
        await self._live.publish(run.run.tenant, run.run.run_id, event)

    def resume(self, run: LiveRun, path: str) -> None:
        """Has the run show that a call goes on."""
        run.resumed(path)
        self._touch(run)

    def park(self, run: LiveRun, path: str, reason: str, message: str) -> None:
        """Has the run show that a call cannot go on for now."""
        run.parked(path, reason, message)
        self._touch(run)


class _Reporter:
    """Implements `ports.Outcome` for one call."""

    def __init__(self, run: LiveRun, calls: CallsInFlight, speaker: str, *, again: bool) -> None:
        self._run = run
        self._calls = calls
        self.speaker = speaker
        self.again = again

    def asking(self) -> AbstractContextManager[None]:
        """See `Outcome.asking`."""
        return self._calls.asking(self._run)

    async def delta(self, path: str, text: str, *, restart: bool = False) -> None:
        """See `Outcome.delta`."""
        await self._calls.show(self._run, path, text, restart=restart)

    def parked(self, path: str, reason: str, message: str) -> None:
        """See `Outcome.parked`."""
        self._calls.park(self._run, path, reason, message)

    def resumed(self, path: str) -> None:
        """See `Outcome.resumed`."""
        self._calls.resume(self._run, path)
