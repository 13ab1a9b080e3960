"""Sub-runs: starts the run that a step asks for, and waits for its end.

One that nobody waits for any more is cancelled by the write that says so (`RunWrite.handed_down`). They stand still,
and go on, with the run that waits for them.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.errors import RunNotFound, RunsAtLimit
from services.orchestrator.domain.sub_run_id import depth_of
from services.orchestrator.engine.news import until_news
from services.orchestrator.engine.outcomes import may_pass
from services.orchestrator.engine.ports import Calls, Journal, LiveEvents, Outcome
from services.orchestrator.engine.run import OwnedRun, RunView, StartKey, shard_of
from services.orchestrator.engine.session_as_run import as_run
from services.orchestrator.engine.sub_run_places import SubRunPlaces
from services.orchestrator.programs.run_view import TERMINAL_STATES

#: Without any news from the bus, the end of a sub-run is looked for after pauses that grow from the first to the last.
_FIRST_POLL_SECONDS: Final = 1.0
_LAST_POLL_SECONDS: Final = 15.0
#: Pause before what failed is tried again, where the failure may pass.
_AGAIN_SECONDS: Final = 1.0
#: Why a run failed, where another one would fail by the same: money and law.
_MET_AGAIN: Final = frozenset({"BUDGET_EXHAUSTED", "BUDGET_DEGRADES", "LAW_BLOCKED"})

Found = TypeVar("Found")

Start = Callable[[StartKey | None, OwnedRun, journal_pb2.RunStarted], Awaitable[RunView]]


class SubRuns:
    """Makes the calls that are runs of their own. These are driven like any other, by whoever owns their shard.

    Args:
        calls: answers the call with the first fact of the sub-run.
        start: records a run and begins to drive it.
        places: bounds how many are waited for at once.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        live: LiveEvents,
        calls: Calls,
        start: Start,
        places: SubRunPlaces,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._live = live
        self._calls = calls
        self._start = start
        self._places = places
        self._clock = clock

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> journal_pb2.JournalEntry:
        """Starts the sub-run of a call, unless it was started before, and waits until it has ended.

        Returns: the fact that settles the call.
        Raises: MeshError: it cannot be started.
        """
        sub_run_id = journal_pb2.SubRunTask.FromString(intended.call_intended.request).run_id
        begun = await self._seen(run.tenant, sub_run_id) is not None
        waiting = _Shown(outcome, intended.path, sub_run_id)
        async with self._places.place(run.tenant, depth_of(sub_run_id), waiting, begun=begun):
            await self._begin(run, started, intended, outcome)
            return await self._settled(run.tenant, await self._ended(run.tenant, sub_run_id), intended)

    async def _begin(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> None:
        """Starts the sub-run of a call, unless it was started before. Raises: MeshError: it cannot be started."""
        sub_run_id = journal_pb2.SubRunTask.FromString(intended.call_intended.request).run_id
        while await self._seen(run.tenant, sub_run_id) is None:
            first = await self._calls.make(run, started, intended, outcome)
            if not isinstance(first, journal_pb2.RunStarted):
                raise TypeError("what a sub-run is made of is its first fact")
            owned = OwnedRun(tenant=run.tenant, run_id=sub_run_id, grant_id=first.grant_id, shard=shard_of(sub_run_id))
            try:
                await self._start(None, owned, first)
            except MeshError as error:
                if not may_pass(error):
                    raise
                # It may have been recorded all the same, so the next attempt of the step must not start another one.
                await self._clock.sleep(_AGAIN_SECONDS)

    async def _seen(self, tenant: TenantId, run_id: str) -> run_pb2.Run | None:
        try:
            return as_run(await self._patiently(lambda: self._journal.view(tenant, run_id)))
        except RunNotFound:
            return None

    async def _patiently(self, ask: Callable[[], Awaitable[Found]]) -> Found:
        """Asks until there is an answer: a call that failed would start another sub-run beside one that goes on."""
        while True:
            try:
                return await ask()
            except MeshError as error:
                if not may_pass(error):
                    raise
                await self._clock.sleep(_AGAIN_SECONDS)

    async def _ended(self, tenant: TenantId, run_id: str) -> run_pb2.Run:
        """Waits until a run has ended; gives it as it ended."""
        seconds = _FIRST_POLL_SECONDS
        async with self._live.watch(tenant, run_id) as news:
            while True:
                with suppress(MeshError):
                    seen = as_run(await self._journal.view(tenant, run_id))
                    if seen.state in TERMINAL_STATES:
                        return seen
                await until_news(news, seconds=seconds)
                seconds = min(2 * seconds, _LAST_POLL_SECONDS)

    async def _settled(
        self, tenant: TenantId, seen: run_pb2.Run, intended: journal_pb2.JournalEntry
    ) -> journal_pb2.JournalEntry:
        """Writes how a run ended as the fact that settles the call. Raises: MeshError."""
        entry = journal_pb2.JournalEntry(path=intended.path)
        call = intended.call_intended
        if seen.state != run_pb2.RUN_STATE_SUCCEEDED:
            state = run_pb2.RunState.Name(seen.state).removeprefix("RUN_STATE_")
            entry.call_failed.CopyFrom(
                journal_pb2.CallFailed(
                    call_index=call.call_index,
                    kind=call.kind,
                    reason=seen.state_reason or f"RUN_{state}",
                    message=f"sub-run {seen.run_id} has ended as {state}: {seen.state_message}",
                    # Somebody wanted it to stop, or what stopped it would stop the next one.
                    final=seen.state == run_pb2.RUN_STATE_CANCELLED or seen.state_reason in _MET_AGAIN,
                )
            )
            return entry
        result = journal_pb2.StepResult(output=seen.output, cost_nano_usd=seen.cost_nano_usd, usage=seen.usage)
        last = await self._patiently(lambda: self._journal.entries(tenant, seen.run_id, after=seen.sequence - 1))
        for _, fact in last:
            if fact.run_ended.HasField("output_label"):
                result.label.CopyFrom(fact.run_ended.output_label)
        entry.call_answered.CopyFrom(
            journal_pb2.CallAnswered(
                call_index=call.call_index, kind=call.kind, response=result.SerializeToString(deterministic=True)
            )
        )
        return entry


class _Shown:
    """Has the run show that one of its sub-runs waits for a place."""

    def __init__(self, outcome: Outcome, path: str, sub_run_id: str) -> None:
        self._outcome = outcome
        self._path = path
        self._sub_run_id = sub_run_id

    def waits(self) -> None:
        """See `Waiting.waits`."""
        message = f"sub-run {self._sub_run_id} waits for others to end, for as many are in progress as may be"
        self._outcome.parked(self._path, RunsAtLimit.reason, message)

    def goes_on(self) -> None:
        """See `Waiting.goes_on`."""
        self._outcome.resumed(self._path)
