"""Sub-runs: started once whoever owns the parent, waited for, and stopped with whoever wanted them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2
from services.meshkit.core.errors import MeshError, Unavailable
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import RunInputInvalid
from services.orchestrator.domain.sub_run_id import sub_run_id
from services.orchestrator.engine.ports import Outcome
from services.orchestrator.engine.run import OwnedRun, RunView, RunWrite, StartKey, shard_of
from services.orchestrator.engine.sub_run_places import SubRunPlaces
from services.orchestrator.engine.sub_runs import SubRuns
from tests.support.run_store import LocalLive, MemoryRunStore
from tests.support.sub_runs import HeardWaiting

IDS = SystemIds()
PARENT_ID = IDS.new("run")
PARENT = OwnedRun(tenant=TENANT, run_id=PARENT_ID, grant_id="grant_x", shard=shard_of(PARENT_ID))


class Reporter:
    """Implements `Outcome`."""

    speaker = ""
    again = False

    def __init__(self) -> None:
        self.parks: list[tuple[str, str]] = []

    def asking(self) -> AbstractContextManager[None]:
        """See `Outcome.asking`."""
        return nullcontext()

    async def delta(self, path: str, text: str, *, restart: bool = False) -> None:
        """See `Outcome.delta`."""

    def parked(self, path: str, reason: str, message: str) -> None:
        """See `Outcome.parked`."""
        self.parks.append((path, reason))

    def resumed(self, path: str) -> None:
        """See `Outcome.resumed`."""
        self.parks.clear()


@dataclass(slots=True)
class House:
    """A store, a bus, and a place where sub-runs are begun."""

    clock: FakeClock = field(default_factory=FakeClock)
    live: LocalLive = field(default_factory=LocalLive)
    store: MemoryRunStore = field(init=False)
    started: list[str] = field(default_factory=list[str])
    #: Raised by the next preparations and starts.
    refusals: list[MeshError] = field(default_factory=list[MeshError])
    start_failures: list[MeshError] = field(default_factory=list[MeshError])
    sub_run_id: str = field(default_factory=lambda: sub_run_id(PARENT_ID, "nodes/inner#1.1"))
    places: SubRunPlaces = field(default_factory=lambda: SubRunPlaces(2))
    reporter: Reporter = field(default_factory=Reporter)

    def __post_init__(self) -> None:
        self.store = MemoryRunStore(self.clock)

    @property
    def sub_runs(self) -> SubRuns:
        return SubRuns(
            journal=self.store,
            live=self.live,
            calls=self,
            start=self.start,
            places=self.places,
            clock=self.clock,
        )

    @property
    def intended(self) -> journal_pb2.JournalEntry:
        task = journal_pb2.SubRunTask(run_id=self.sub_run_id, workflow="inner@1.0.0")
        call = journal_pb2.CallIntended(
            call_index=3, kind=journal_pb2.CALL_KIND_RUN, request=task.SerializeToString(deterministic=True)
        )
        return journal_pb2.JournalEntry(path="nodes/inner", call_intended=call)

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`: gives the first fact of the sub-run."""
        if self.refusals:
            raise self.refusals.pop(0)
        asked = run_pb2.Run(run_id=self.sub_run_id, parent_run_id=run.run_id)
        return journal_pb2.RunStarted(run=asked, grant_id="grant_y")

    async def start(self, key: StartKey | None, run: OwnedRun, started: journal_pb2.RunStarted) -> RunView:
        """Records the sub-run, as `Engine.start` does."""
        self.started.append(run.run_id)
        if self.start_failures:
            raise self.start_failures.pop(0)
        view = run_pb2.Run(run_id=run.run_id, state=run_pb2.RUN_STATE_RUNNING, sequence=1)
        first = journal_pb2.JournalEntry(run_started=started)
        await self.store.create(RunWrite(run=run, first_sequence=1, entries=[first], view=view), None, None)
        return view

    async def end(self, **fields: object) -> None:
        """Has the sub-run end, and says so on the bus."""
        stored = self.store.runs[self.sub_run_id]
        ended = journal_pb2.RunEnded(state=session_pb2.SESSION_STATE_SUCCEEDED)
        ended.output_label.sources.append("tool:web")
        stored.rows[2] = [journal_pb2.JournalEntry(run_ended=ended)]
        stored.seen = run_pb2.Run(run_id=self.sub_run_id, sequence=2, **fields)  # type: ignore[arg-type]

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[asyncio.Task[journal_pb2.JournalEntry]]:
        """Makes the call while the block runs, once the sub-run was begun and its end is waited for."""
        task = asyncio.create_task(self.sub_runs.make(PARENT, journal_pb2.RunStarted(), self.intended, self.reporter))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  # of anything that a test looks at
            await asyncio.sleep(0)


async def test_it_is_started_once_and_answers_with_its_output_its_cost_and_its_label() -> None:
    house = House()
    async with house.waiting() as call:
        await until(lambda: house.sub_run_id in house.store.runs)
        output = struct_pb2.Value(string_value="done")
        await house.end(state=run_pb2.RUN_STATE_SUCCEEDED, output=output, cost_nano_usd=7)
        fact = await asyncio.wait_for(call, 5)
    result = journal_pb2.StepResult.FromString(fact.call_answered.response)
    assert (fact.path, fact.call_answered.call_index, fact.call_answered.kind) == (
        "nodes/inner",
        3,
        journal_pb2.CALL_KIND_RUN,
    )
    assert (result.output.string_value, result.cost_nano_usd, list(result.label.sources)) == ("done", 7, ["tool:web"])
    assert house.started == [house.sub_run_id]


async def test_whoever_owns_the_parent_next_finds_it_and_starts_no_second_one() -> None:
    house = House()
    async with house.waiting():
        await until(lambda: house.sub_run_id in house.store.runs)
    async with house.waiting() as again:
        await house.end(state=run_pb2.RUN_STATE_SUCCEEDED)
        assert (await asyncio.wait_for(again, 5)).HasField("call_answered")
    assert house.started == [house.sub_run_id]


@pytest.mark.parametrize(
    ("state", "reason", "final"),
    [
        (run_pb2.RUN_STATE_FAILED, "NODE_TIMED_OUT", False),
        (run_pb2.RUN_STATE_FAILED, "BUDGET_EXHAUSTED", True),
        (run_pb2.RUN_STATE_FAILED, "LAW_BLOCKED", True),
        (run_pb2.RUN_STATE_CANCELLED, "CANCELLED", True),
    ],
)
async def test_one_that_did_not_succeed_fails_its_call_by_its_reason(
    state: run_pb2.RunState.ValueType, reason: str, final: bool
) -> None:
    house = House()
    async with house.waiting() as call:
        await until(lambda: house.sub_run_id in house.store.runs)
        await house.end(state=state, state_reason=reason, state_message="It ended.")
        failed = (await asyncio.wait_for(call, 5)).call_failed
    assert (failed.reason, failed.final) == (reason, final)
    assert house.sub_run_id in failed.message
    assert "It ended." in failed.message


async def test_one_that_finds_no_place_waits_visibly_until_another_has_ended() -> None:
    house = House()
    async with AsyncExitStack() as others:
        for _ in range(2):
            await others.enter_async_context(house.places.place(TENANT, 1, HeardWaiting(), begun=False))
        async with house.waiting() as call:
            await until(lambda: bool(house.reporter.parks))
            assert house.reporter.parks == [("nodes/inner", "RUNS_AT_LIMIT")]
            assert house.started == []
            await others.aclose()
            await until(lambda: house.sub_run_id in house.store.runs)
            assert house.reporter.parks == []
            await house.end(state=run_pb2.RUN_STATE_SUCCEEDED)
            assert (await asyncio.wait_for(call, 5)).HasField("call_answered")
    assert house.places.taken == 0


async def test_one_that_was_begun_before_waits_for_no_place() -> None:
    house = House()
    async with house.waiting():
        await until(lambda: house.sub_run_id in house.store.runs)
    async with AsyncExitStack() as others:
        for _ in range(2):
            await others.enter_async_context(house.places.place(TENANT, 1, HeardWaiting(), begun=False))
        async with house.waiting() as again:
            await house.end(state=run_pb2.RUN_STATE_SUCCEEDED)
            assert (await asyncio.wait_for(again, 5)).HasField("call_answered")


async def test_what_it_cannot_be_started_by_is_for_the_program_to_decide() -> None:
    house = House(refusals=[RunInputInvalid("input", "must be an object")])
    async with house.waiting() as call:
        with pytest.raises(RunInputInvalid):
            await asyncio.wait_for(call, 5)
    assert house.started == []


async def test_a_start_whose_answer_was_lost_is_looked_for_before_it_is_tried_again() -> None:
    house = House(start_failures=[Unavailable("database")])
    async with house.waiting() as call:
        await house.clock.until_someone_sleeps()
        house.clock.advance(seconds=2)
        await until(lambda: house.sub_run_id in house.store.runs)
        await house.end(state=run_pb2.RUN_STATE_SUCCEEDED)
        assert (await asyncio.wait_for(call, 5)).HasField("call_answered")
    assert house.started == [house.sub_run_id] * 2


@pytest.mark.parametrize("reading", ["view", "entries"])
async def test_a_database_that_is_away_for_a_moment_fails_no_call_beside_which_its_run_goes_on(
    reading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House()
    async with house.waiting():
        await until(lambda: house.sub_run_id in house.store.runs)
    await house.end(state=run_pb2.RUN_STATE_SUCCEEDED)
    away, found = [Unavailable("database"), Unavailable("database")], getattr(house.store, reading)

    async def read(*asked: object, **more: object) -> object:
        if away:
            raise away.pop()
        return await found(*asked, **more)

    monkeypatch.setattr(house.store, reading, read)
    async with house.waiting() as again:
        for _ in range(2):
            await house.clock.until_someone_sleeps()
            house.clock.advance(seconds=2)
        assert (await asyncio.wait_for(again, 5)).HasField("call_answered")
    assert house.started == [house.sub_run_id]
