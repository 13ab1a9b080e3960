"""A replica's runs: who drives them, what becomes of those that nobody drives, and what commands wait for."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import RunsAtLimit
from services.orchestrator.engine.driver import DriverParts, RunDriver
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.facts import Replay, advance
from services.orchestrator.engine.run import OwnedRun, RunCommand
from services.orchestrator.programs import dialogue
from services.orchestrator.programs import run as program
from services.orchestrator.programs.view import project
from tests.support.run_store import HeldCalls, LocalLive, MemoryRunStore, StoredRun
from tests.support.sessions import a_start

ADA = Principal(tenant=TENANT, subject="key_ada", roles=frozenset(), token=Secret("t"))
IDS = SystemIds()


@dataclass(slots=True)
class House:
    """One database and its clock; replicas come and go."""

    clock: FakeClock = field(default_factory=FakeClock)
    live: LocalLive = field(default_factory=LocalLive)
    calls: HeldCalls = field(default_factory=HeldCalls)
    store: MemoryRunStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = MemoryRunStore(self.clock)

    @property
    def parts(self) -> DriverParts:
        """What its replicas share."""
        return DriverParts(store=self.store, calls=self.calls, live=self.live, clock=self.clock)

    @asynccontextmanager
    async def replica(self, name: str = "one", *, max_runs: int = 50) -> AsyncGenerator[Engine]:
        """Runs a replica while the block runs."""
        limits = EngineLimits(max_runs=max_runs)
        engine = Engine(owner=f"{name}/{IDS.uuid()}", parts=self.parts, ids=IDS, limits=limits)
        async with engine.running_block():
            await asyncio.sleep(0)
            yield engine

    def left_behind(self, started: journal_pb2.RunStarted | None = None) -> StoredRun:
        """Records a run that nobody drives."""
        run = OwnedRun(tenant=TENANT, run_id=IDS.new("run"), grant_id="grant_x", epoch=1)
        state, entries = advance(
            program.RunState(), [journal_pb2.JournalEntry(run_started=started or a_start())], Timestamp()
        )
        assert state.session is not None
        stored = StoredRun(run, None, self.clock.now() - timedelta(seconds=1), list(entries))
        for sequence, entry in enumerate(entries, 1):
            project(stored.view, entry, sequence)
        self.store.runs[run.run_id] = stored
        return stored

    async def start(self, engine: Engine, *, manual: bool = False) -> StoredRun:
        """Starts a session."""
        run = OwnedRun(tenant=TENANT, run_id=IDS.new("run"), grant_id="grant_x", epoch=1)
        with engine.place():
            await engine.start(None, run, a_start(manual_advance=manual))
        return self.store.runs[run.run_id]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - of anything that a test looks at
            await asyncio.sleep(0.001)


def is_in(stored: StoredRun, state: session_pb2.SessionState.ValueType) -> Callable[[], bool]:
    return lambda: stored.view.state == state


def succeeded(stored: StoredRun) -> Callable[[], bool]:
    return is_in(stored, session_pb2.SESSION_STATE_SUCCEEDED)


@pytest.fixture
async def house() -> House:
    return House()


async def test_runs_left_behind_are_recovered_at_once_and_none_loses_its_lease_meanwhile(house: House) -> None:
    runs = [house.left_behind() for _ in range(20)]
    house.store.readable.clear()
    async with house.replica():
        await until(lambda: house.store.readers == 8)
        for _ in range(5):
            await house.clock.until_someone_sleeps(how_many=3)
            house.clock.advance(seconds=4)
            await asyncio.sleep(0.005)
        assert not await house.store.claim("two/x", most=50, restarted=False), "a lease ran out"
        assert house.store.readers == 8, "a bounded number of journals at once"
        house.store.readable.set()
        await until(lambda: all(succeeded(stored)() for stored in runs))


async def test_a_run_whose_commit_went_astray_is_taken_up_within_a_second(house: House) -> None:
    house.store.lost_answers.next(Unavailable("postgres"), after=1)
    async with house.replica() as engine:
        stored = await house.start(engine)
        await until(lambda: house.store.lost_answers.raised == 1)
        await until(lambda: house.clock.sleepers >= 4)
        house.clock.advance(seconds=0.2)  # The second try of the commit is refused: its facts are recorded already.
        await until(lambda: engine.running == 0)
        house.clock.advance(seconds=1)
        await until(succeeded(stored))


async def test_a_start_whose_answer_was_lost_is_driven_all_the_same(house: House) -> None:
    house.store.create_faults.next(Unavailable("postgres"))
    async with house.replica() as engine:
        with pytest.raises(Unavailable):
            await house.start(engine)
        [stored] = house.store.runs.values()
        await house.clock.until_someone_sleeps(how_many=3)
        house.clock.advance(seconds=1)
        await until(succeeded(stored))


async def test_a_run_that_fails_before_it_gets_any_further_waits_for_its_lease(house: House) -> None:
    stored = house.left_behind()
    house.store.commit_faults.next(ValueError("cannot be written"), times=10)
    async with house.replica() as engine:
        await until(lambda: house.store.commit_faults.raised == 1 and not engine.running)
        for _ in range(5):
            await house.clock.until_someone_sleeps(how_many=3)
            house.clock.advance(seconds=1)
            await asyncio.sleep(0.005)
        assert (house.store.commit_faults.raised, stored.run.epoch) == (1, 2)


async def test_a_run_claimed_anew_is_driven_under_its_new_epoch(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        stored = await house.start(engine)
        stored.until = house.clock.now() - timedelta(seconds=1)
        await house.clock.until_someone_sleeps(how_many=3)
        house.clock.advance(seconds=1)
        await until(lambda: stored.run.epoch == 2)
        house.calls.open.set()
        await until(succeeded(stored))


async def test_news_of_an_old_lease_does_not_stop_the_driver_of_the_new_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend, asked, answer = house.store.extend, asyncio.Event(), asyncio.Event()

    async def extend_slowly(owner: str, runs: Collection[OwnedRun]) -> Collection[str]:
        asked.set()
        await answer.wait()
        return await extend(owner, runs)

    house.calls.open.clear()
    async with house.replica() as engine:
        stored = await house.start(engine)
        monkeypatch.setattr(house.store, "extend", extend_slowly)
        await house.clock.until_someone_sleeps(how_many=3)
        house.clock.advance(seconds=4)
        await asked.wait()
        stored.until = house.clock.now() - timedelta(seconds=1)
        await house.clock.until_someone_sleeps(how_many=2)
        house.clock.advance(seconds=1)
        await until(lambda: stored.run.epoch == 2)
        answer.set()
        await asyncio.sleep(0.01)
        house.calls.open.set()
        await until(succeeded(stored))


def waits_after(stored: StoredRun, round_: int) -> bool:
    return (stored.view.state, stored.view.rounds_executed) == (session_pb2.SESSION_STATE_WAITING, round_)


def tampered(stored: StoredRun) -> None:
    """Makes a journal that no release has written."""
    stored.journal[1].step_started.round = 7


async def test_a_diverged_run_says_so_once_and_is_left_as_it_is(house: House) -> None:
    stored = house.left_behind()
    tampered(stored)
    prefix = [entry.SerializeToString() for entry in stored.journal]
    async with house.replica() as engine:
        await until(is_in(stored, session_pb2.SESSION_STATE_PARKED))
        assert stored.view.state_reason == "RUN_DIVERGED"
        assert "cancel the session" in stored.view.state_message
        for _ in range(40):
            await house.clock.until_someone_sleeps(how_many=3)
            house.clock.advance(seconds=1)
            await asyncio.sleep(0.001)
        assert (stored.run.epoch, engine.running) == (2, 0)
    async with house.replica():
        await until(lambda: stored.run.epoch == 3)
        await asyncio.sleep(0.02)
    assert [entry.SerializeToString() for entry in stored.journal[:-1]] == prefix
    assert stored.journal[-1].WhichOneof("fact") == "run_parked"


async def test_a_diverged_run_can_be_cancelled(house: House) -> None:
    stored = house.left_behind()
    tampered(stored)
    async with house.replica() as engine:
        await until(is_in(stored, session_pb2.SESSION_STATE_PARKED))
        await engine.command(ADA, stored.run.run_id, "cancel")
        assert stored.view.state == session_pb2.SESSION_STATE_CANCELLED
        assert (stored.view.state_reason, stored.view.HasField("end_time")) == ("RUN_DIVERGED", True)
        assert not stored.commands
    assert not house.calls.world.requests


@pytest.mark.parametrize("manual", [False, True])
async def test_a_run_of_an_unknown_program_goes_on_in_a_release_that_knows_it(
    house: House, monkeypatch: pytest.MonkeyPatch, manual: bool
) -> None:
    async with house.replica() as engine:
        if not manual:
            house.calls.open.clear()
        stored = await house.start(engine, manual=manual)
        before = session_pb2.SESSION_STATE_WAITING if manual else session_pb2.SESSION_STATE_RUNNING
        await until(is_in(stored, before))
    with monkeypatch.context() as older:
        older.setattr(dialogue, "VERSION", 0)
        async with house.replica():
            await until(is_in(stored, session_pb2.SESSION_STATE_PARKED))
            assert stored.view.state_reason == "PROGRAM_UNKNOWN"
    house.calls.open.set()
    async with house.replica() as engine:
        if manual:
            await until(is_in(stored, session_pb2.SESSION_STATE_WAITING))
            await engine.command(ADA, stored.run.run_id, "advance")
        await until(succeeded(stored))
    replay = Replay(stored.run.run_id)
    for entry in stored.journal:
        replay.feed(entry)
    replay.finish()


async def test_starts_at_the_same_moment_do_not_exceed_the_limit(house: House) -> None:
    house.calls.open.clear()
    async with house.replica(max_runs=2) as engine:
        started = await asyncio.gather(*(house.start(engine) for _ in range(5)), return_exceptions=True)
        assert [type(one) for one in started].count(RunsAtLimit) == 3
        assert engine.running == 2


async def test_runs_are_taken_up_only_while_there_is_room(house: House) -> None:
    house.calls.open.clear()
    runs = [house.left_behind() for _ in range(5)]
    async with house.replica(max_runs=2) as engine:
        await until(lambda: engine.running == 2)
        house.calls.open.set()
        for _ in range(4):
            await house.clock.until_someone_sleeps(how_many=3)
            house.clock.advance(seconds=1)
            await asyncio.sleep(0.02)
        await until(lambda: all(succeeded(stored)() for stored in runs))


async def test_a_caller_hears_from_the_run_that_its_command_was_taken(house: House) -> None:
    async with house.replica() as engine:
        stored = await house.start(engine, manual=True)
        await until(is_in(stored, session_pb2.SESSION_STATE_WAITING))
        house.store.looks = 0
        await engine.command(ADA, stored.run.run_id, "advance")
        assert stored.view.state != session_pb2.SESSION_STATE_WAITING
        assert house.store.looks <= 2


async def test_a_command_that_already_waits_is_not_stored_again(house: House) -> None:
    stored = house.left_behind()
    for number in range(5):
        command = RunCommand(command_id=IDS.uuid(), kind="cancel", by=f"key_{number}")
        assert (await house.store.add_command(TENANT, stored.run.run_id, command)).by == "key_0"
    async with house.replica():
        await until(is_in(stored, session_pb2.SESSION_STATE_CANCELLED))
        await until(lambda: not stored.commands)
    assert stored.view.state_message == "cancelled by key_0"


async def test_commands_that_came_too_late_are_removed(house: House) -> None:
    async with house.replica() as engine:
        stored = await house.start(engine)
        await until(succeeded(stored))
        stored.commands.append(RunCommand(command_id=IDS.uuid(), kind="cancel", by="key_late"))
        await house.clock.until_someone_sleeps(how_many=3)
        house.clock.advance(seconds=60)
        await until(lambda: not stored.commands)
        assert succeeded(stored)(), "a terminal run never changes"


async def test_what_a_driver_remembers_of_commands_is_bounded(house: House) -> None:
    """And a command that is read again just after it was recorded is not obeyed twice."""
    stored = house.left_behind(a_start(manual_advance=True, max_rounds=100))
    stored.run = replace(stored.run, epoch=2)
    stored.until = house.clock.now() + timedelta(hours=1)
    driver = RunDriver(stored.run, house.parts)
    await driver.recover()
    driving = asyncio.create_task(driver.drive())
    for round_ in range(1, 90):
        await until(partial(waits_after, stored, round_))
        again = RunCommand(command_id=IDS.uuid(), kind="advance", by="key_ada")
        driver.tell([again])
        driver.tell([again])
        await until(partial(waits_after, stored, round_ + 1))
        driver.tell([again])
        assert driver.remembered <= 64
    driving.cancel()
    await asyncio.wait([driving])
