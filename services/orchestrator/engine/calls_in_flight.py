"""The calls that a lane's runs wait for: makes them, and hands their outcomes back as facts."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextvars import Context
from functools import partial
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, session_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal, MeshError
from services.meshkit.core.failpoints import failpoint
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.dry_effects import dry_outcome
from services.orchestrator.engine.leases import Offer
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.outcomes import stands
from services.orchestrator.engine.ports import Calls, LiveEvents, NobodyWaits
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.sub_runs import SubRuns

log = logger(__name__)

_BROKEN: Final = "the call could not be made, which is a fault of the mesh; report it with the id of the run"

#: Has the lane look at a run again.
Touch = Callable[[LiveRun], None]


class CallsInFlight:
    """One task for each call but those that workers make. What a call answers goes into the inbox of its run.

    A run that another replica is to drive leaves its calls to go on: that one makes them by the same ids, so it joins
    them or finds their answers. Were they cut, a model that answers just then would be paid for and asked again.
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
        #: Those of them that ask nobody at the moment: they wait for a sub-run, or for their next try.
        self._idle = set[asyncio.Task[None]]()
        #: Calls that go on, of runs that are not driven here any more.
        self._left: defaultdict[str, dict[asyncio.Task[None], CallKey]] = defaultdict(dict)
        self._group: asyncio.TaskGroup | None = None
        self._context = Context()

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
            task = self._group.create_task(
                self._call(run, key, intended), name=f"call {run_id} {key}", context=self._context.copy()
            )
            self._tasks[run_id][key] = task
            if intended.call_intended.kind == journal_pb2.CALL_KIND_RUN:
                self._idle.add(task)
            task.add_done_callback(partial(self._ended, run_id, key))

    def revoke(self, run_id: str, keys: Collection[CallKey] | None = None) -> list[asyncio.Task[None]]:
        """Cancels calls of a run, all of them without `keys`; gives their tasks, which end soon."""
        self._steps.withdraw(run_id, keys)
        made = self._tasks.get(run_id, {})
        tasks = [made[key] for key in (list(made) if keys is None else keys) if key in made]
        # It was left here, and has come back since.
        tasks += [task for task, key in self._left.get(run_id, {}).items() if keys is None or key in keys]
        for task in tasks:
            task.cancel()
        return tasks

    def leave(self, run_id: str) -> None:
        """Lets the calls go on that a run is waiting for; nobody hears of their outcomes, and none is tried again."""
        self._steps.withdraw(run_id)
        for key, task in self._tasks.pop(run_id, {}).items():
            if task in self._idle:
                task.cancel()
            else:
                self._left[run_id][task] = key

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
        """Makes no more calls, and leaves those that are being made."""
        self._group = None
        for run_id in list(self._tasks):
            self.leave(run_id)

    async def end(self, seconds: float) -> None:
        """Waits so long for the calls that were left, then cancels them."""
        left = {task for tasks in self._left.values() for task in tasks}
        if not left:
            return
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
        self._idle.discard(task)
        made = self._tasks.get(run_id, {})
        if made.get(key) is task:
            del made[key]
            if not made:
                del self._tasks[run_id]
            return
        left = self._left.get(run_id, {})
        left.pop(task, None)
        if not left:
            self._left.pop(run_id, None)

    async def _call(self, run: LiveRun, key: CallKey, intended: journal_pb2.JournalEntry) -> None:
        """Makes one call and puts its outcome into the run's inbox."""
        path, index = key
        kind = intended.call_intended.kind
        entry = journal_pb2.JournalEntry(path=path)
        await failpoint("orchestrator.before_call")
        try:
            reporter = _Reporter(run, self, run.speaker(path))
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

    async def pause(self, run: LiveRun, seconds: float) -> None:
        """Lets time pass before a call is tried again. Raises: NobodyWaits."""
        task = asyncio.current_task()
        if task is None or task in self._left.get(run.run.run_id, {}):
            raise NobodyWaits
        self._idle.add(task)
        try:
            await self._clock.sleep(seconds)
        finally:
            self._idle.discard(task)

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

    def __init__(self, run: LiveRun, calls: CallsInFlight, speaker: str) -> None:
        self._run = run
        self._calls = calls
        self.speaker = speaker

    async def delta(self, path: str, text: str, *, restart: bool = False) -> None:
        """See `Outcome.delta`."""
        await self._calls.show(self._run, path, text, restart=restart)

    def parked(self, path: str, reason: str, message: str) -> None:
        """See `Outcome.parked`."""
        self._calls.park(self._run, path, reason, message)

    def resumed(self, path: str) -> None:
        """See `Outcome.resumed`."""
        self._calls.resume(self._run, path)

    async def pause(self, seconds: float) -> None:
        """See `Outcome.pause`."""
        await self._calls.pause(self._run, seconds)
