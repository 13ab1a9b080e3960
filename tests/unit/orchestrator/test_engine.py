"""A replica's runs: who drives them, what becomes of those that nobody drives, and what commands wait for."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import REGISTRY

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2, session_service_pb2, workflow_pb2
from services.meshkit.blobs.store import BlobMissing
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.errors import KeyDestroyed
from services.meshkit.sql.errors import TransactionConflict
from services.meshkit.telemetry import metrics
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import RunsAtLimit
from services.orchestrator.domain.sub_run_id import depth_of, sub_run_id
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.facts import Replay, advance
from services.orchestrator.engine.faults import EngineFault
from services.orchestrator.engine.journal import JournalUnknown
from services.orchestrator.engine.lane import EngineParts
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.ports import Outcome, WritesNotReady
from services.orchestrator.engine.run import (
    SHARDS,
    SIGNAL,
    Created,
    ModelCall,
    OwnedRun,
    RunCommand,
    RunWrite,
    ShardLease,
    StartKey,
    shard_of,
)
from services.orchestrator.engine.views import view_of
from services.orchestrator.programs import dialogue
from services.orchestrator.programs import run as program
from services.orchestrator.programs.commands import MODEL_CALLS, Command
from tests.support.run_store import HeardEvents, HeldCalls, LocalLive, MemoryRunStore, StoredRun
from tests.support.sessions import a_start, outcome_of
from tests.support.step_workers import step_pools
from tests.support.workflows import a_node, a_run, a_workflow

ADA = Principal(tenant=TENANT, subject="key_ada", roles=frozenset(), token=Secret("t"))
IDS = SystemIds()


@dataclass(slots=True)
class House:
    """One database and its clock; replicas come and go."""

    clock: FakeClock = field(default_factory=FakeClock)
    live: LocalLive = field(default_factory=LocalLive)
    events: HeardEvents = field(default_factory=HeardEvents)
    calls: HeldCalls = field(default_factory=HeldCalls)
    store: MemoryRunStore = field(init=False)
    #: Calls of models that inference need not keep any longer.
    told: list[ModelCall] = field(default_factory=list[ModelCall])

    def __post_init__(self) -> None:
        self.store = MemoryRunStore(self.clock)

    @property
    def parts(self) -> EngineParts:
        """What its replicas share."""
        return EngineParts(
            store=self.store,
            calls=self.calls,
            steps=step_pools(self.clock),
            live=self.live,
            events=self.events,
            clock=self.clock,
            settled=self._settled,
        )

    def _settled(self, run: OwnedRun, calls: Sequence[ModelCall]) -> None:
        journal = self.store.runs[run.run_id].journal
        recorded = {(one.path, one.call_answered.call_index) for one in journal if one.HasField("call_answered")}
        recorded |= {(one.path, one.call_failed.call_index) for one in journal if one.HasField("call_failed")}
        assert {(call.path, call.call_index) for call in calls} <= recorded, "told before its fact was recorded"
        self.told.extend(calls)

    @asynccontextmanager
    async def replica(
        self, name: str = "one", *, max_runs: int = 50, shards: int = SHARDS, end_seconds: float = 0.0
    ) -> AsyncGenerator[Engine]:
        """Runs a replica while the block runs."""
        limits = EngineLimits(max_runs=max_runs, end_seconds=end_seconds)
        engine = Engine(owner=f"{name}/{IDS.uuid()}", parts=self.parts, ids=IDS, limits=limits)
        async with engine.running_block():
            await until(lambda: len(engine._shards.held) == shards)
            yield engine

    def left_behind(self, started: journal_pb2.RunStarted | None = None, *, run_id: str = "") -> StoredRun:
        """Records a run that nobody drives."""
        run_id = run_id or IDS.new("run")
        run = OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
        first = journal_pb2.JournalEntry(run_started=started or a_start())
        _, entries = advance(program.RunState(), [first], Timestamp())
        view = view_of(first.run_started)
        for sequence, entry in enumerate(entries, 1):
            view.take_fact(entry.WhichOneof("fact"), entry, sequence)
        stored = StoredRun(run, {1: list(entries)}, view.written())
        self.store.runs[run.run_id] = stored
        return stored

    async def start(self, engine: Engine, *, manual: bool = False, max_rounds: int = 2) -> StoredRun:
        """Starts a session."""
        run_id = engine.new_run_id()
        run = OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
        with engine.place(TENANT):
            await engine.start(None, run, a_start(manual_advance=manual, max_rounds=max_rounds))
        return self.store.runs[run.run_id]

    async def cancel(self, stored: StoredRun) -> None:
        """Asks for the end of a run."""
        await self.ask(stored, "cancel")

    async def ask(self, stored: StoredRun, kind: str, payload: bytes = b"") -> None:
        """Asks something of a run."""
        command = RunCommand(command_id=IDS.uuid(), kind=kind, by="key_ada", payload=payload)
        await self.store.add_command(TENANT, stored.run.run_id, command)
        await self.live.wake_owner(stored.run.run_id)

    async def seconds(self, count: int) -> None:
        """Lets time pass second by second, with what happens in each."""
        for _ in range(count):
            await self.clock.until_someone_sleeps(how_many=3)
            self.clock.advance(seconds=1)
            await settled()

    def lose(self, shard: int) -> None:
        """Has another replica take a shard over."""
        stored = self.store.shards[shard]
        stored.owner, stored.epoch, stored.until = "other/x", stored.epoch + 1, self.clock.now() + timedelta(hours=1)


def an_id_of_shard(shard: int) -> str:
    """Makes an id of a run that falls into a shard."""
    return next(run_id for run_id in iter(lambda: IDS.new("run"), "") if shard_of(run_id) == shard)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - of anything that a test looks at
            await asyncio.sleep(0)


async def settled() -> None:
    """Gives everything that can go on without time passing the turns to do so."""
    for _ in range(200):
        await asyncio.sleep(0)


def is_in(stored: StoredRun, state: session_pb2.SessionState.ValueType) -> Callable[[], bool]:
    return lambda: stored.view.state == state


def succeeded(stored: StoredRun) -> Callable[[], bool]:
    return is_in(stored, session_pb2.SESSION_STATE_SUCCEEDED)


def waits_after(stored: StoredRun, round_: int) -> Callable[[], bool]:
    return lambda: (stored.view.state, stored.view.rounds_executed) == (session_pb2.SESSION_STATE_WAITING, round_)


def tampered(stored: StoredRun) -> None:
    """Makes a journal that no release has written."""
    stored.journal[1].step_started.round = 7


def replays(stored: StoredRun) -> bool:
    """Replays the journal, which raises if it does not follow from its program."""
    replay = Replay(stored.run.run_id)
    for entry in stored.journal:
        replay.feed(entry)
    replay.finish()
    return True


@pytest.fixture
async def house() -> House:
    return House()


# --- taking runs up


async def test_runs_left_behind_are_taken_up_at_once_and_no_lease_is_lost_meanwhile(house: House) -> None:
    runs = [house.left_behind() for _ in range(20)]
    house.store.readable.clear()
    async with house.replica():
        await until(lambda: house.store.readers == 8)
        await house.seconds(20)
        assert not (await house.store.hold("two/x", (), restarted=False, most=None)).leases, "a lease ran out"
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
        await house.seconds(2)
        await until(succeeded(stored))
    assert replays(stored)


async def test_calls_of_models_are_told_of_once_their_outcomes_are_recorded(house: House) -> None:
    house.store.lost_answers.next(Unavailable("postgres"), after=4)
    async with house.replica() as engine:
        stored = await house.start(engine)
        await house.seconds(5)
        await until(succeeded(stored))
    asked = [one for one in stored.journal if one.call_intended.kind in MODEL_CALLS]
    assert len(asked) > 2
    assert {(call.path, call.call_index) for call in house.told} == {
        (one.path, one.call_intended.call_index) for one in asked
    }


async def test_a_start_whose_answer_was_lost_is_driven_all_the_same(house: House) -> None:
    house.store.create_faults.next(Unavailable("postgres"))
    async with house.replica() as engine:
        with pytest.raises(Unavailable):
            await house.start(engine)
        [stored] = house.store.runs.values()
        await house.seconds(2)
        await until(succeeded(stored))


async def test_a_run_that_fails_before_it_gets_any_further_waits_for_longer(house: House) -> None:
    stored = house.left_behind()
    house.store.poison[stored.run.run_id] = ValueError("cannot be written")
    async with house.replica() as engine:
        await until(lambda: house.store.commits == 1 and not engine.running)
        await house.seconds(14)
        assert house.store.commits == 1
        await house.seconds(3)
        assert house.store.commits == 2
        house.store.poison.clear()
        await house.seconds(17)
        await until(succeeded(stored))


async def test_a_run_started_where_its_shard_is_not_owned_is_adopted_by_its_owner(house: House) -> None:
    async with house.replica("one"), house.replica("two", shards=0) as second:
        stored = await house.start(second)
        assert second.running == 0
        await until(succeeded(stored))


async def test_a_broken_journal_gives_its_place_to_the_next_run(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, whole = sorted((house.left_behind(), house.left_behind()), key=lambda stored: stored.run.shard)
    entries = house.store.entries

    async def entries_but_of_one(
        tenant: object, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        if run_id == broken.run.run_id:
            raise Unavailable("postgres")
        return await entries(TENANT, run_id, after=after)

    monkeypatch.setattr(house.store, "entries", entries_but_of_one)
    async with house.replica(max_runs=1):
        await until(succeeded(whole))


async def test_a_run_that_is_found_while_it_is_being_started_is_driven_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = house.store.create
    async with house.replica() as engine:

        async def create_slowly(first: RunWrite, key: StartKey | None, lease: ShardLease | None) -> Created:
            created = await create(first, key, lease)
            engine._take_up(first.run)
            await settled()
            return created

        monkeypatch.setattr(house.store, "create", create_slowly)
        house.calls.open.clear()
        stored = await house.start(engine)
        await settled()
        house.calls.open.set()
        await until(succeeded(stored))
    asked = [(entry.path, entry.call_intended.call_index) for entry in house.calls.world.requests]
    assert len(asked) == len(set(asked)), "no call was made twice"
    assert replays(stored)


async def test_runs_that_cannot_be_read_keep_no_other_from_being_woken(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = a_start(manual_advance=True)
    started.run.deadline_time.FromDatetime(house.clock.now() + timedelta(seconds=90))
    runs = [house.left_behind(started) for _ in range(70)]
    async with house.replica(max_runs=80) as engine:
        await until(lambda: all(stored.rests for stored in runs) and engine.running == 0)
        [*broken, last] = sorted(runs, key=lambda stored: stored.run.run_id)
        entries, reads = house.store.entries, 0

        async def entries_but_of_most(
            tenant: object, run_id: str, *, after: int = 0
        ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
            nonlocal reads
            if run_id != last.run.run_id:
                reads += 1
                raise ValueError("of a newer release")
            return await entries(TENANT, run_id, after=after)

        monkeypatch.setattr(house.store, "entries", entries_but_of_most)
        await house.seconds(91)
        await until(lambda: last.journal[-1].HasField("deadline_passed"))
        assert reads == len(broken), "they wait, set aside"


async def test_a_run_that_was_set_aside_is_not_taken_up_every_second_for_its_signals(house: House) -> None:
    stored = house.left_behind()
    house.store.poison[stored.run.run_id] = ValueError("cannot be written")
    async with house.replica() as engine:
        await until(lambda: house.store.commits == 1 and not engine.running)
        signal = RunCommand(command_id=IDS.uuid(), kind=SIGNAL, by="key_ada")
        await house.store.add_command(TENANT, stored.run.run_id, signal)
        await house.seconds(13)
        assert house.store.commits == 1


# --- what nobody has foreseen


@pytest.mark.parametrize(
    "method", ["hold", "open_runs", "waking_runs", "commands", "commands_of", "owned_run", "drop_late_commands"]
)
async def test_an_error_without_a_name_stops_no_loop_of_the_engine(
    house: House, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    asked = 0

    async def fail(*_: object, **__: object) -> None:
        nonlocal asked
        asked += 1
        raise RuntimeError("XX000")

    async with house.replica() as engine:
        stored = await house.start(engine, manual=True)
        await until(lambda: waits_after(stored, 1)() and engine.running == 0)
        with monkeypatch.context() as broken:
            broken.setattr(house.store, method, fail)
            engine._gained(ShardLease(shard=stored.run.shard, epoch=house.store.shards[stored.run.shard].epoch))
            engine._put_aside(stored.run.run_id, seconds=0)
            await house.live.wake_owner(stored.run.run_id)
            await house.seconds(61 if method == "drop_late_commands" else 2)
            assert asked
        advance = RunCommand(command_id=IDS.uuid(), kind="advance", by="key_ada")
        await house.store.add_command(TENANT, stored.run.run_id, advance)
        await house.seconds(17)
        await until(succeeded(stored))


async def test_a_wake_that_names_no_run_is_passed_over(house: House) -> None:
    async with house.replica() as engine:
        stored = await house.start(engine, manual=True)
        await until(lambda: waits_after(stored, 1)() and engine.running == 0)
        await house.live.wake_owner("not an id")
        await settled()
        await engine.command(ADA, stored.run.run_id, "advance")
        await until(succeeded(stored))


async def test_leases_are_kept_while_the_other_rounds_wait(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async with house.replica():
        monkeypatch.setattr(house.store, "commands", wait)
        for _ in range(20):
            await house.clock.until_someone_sleeps(how_many=2)
            house.clock.advance(seconds=1)
            await settled()
        assert not (await house.store.hold("two/x", (), restarted=False, most=None)).leases, "no lease ran out"


# --- shards


async def test_two_replicas_share_the_shards_and_none_is_driven_twice(house: House) -> None:
    async with house.replica("one") as first:
        house.calls.open.clear()
        runs = [await house.start(first) for _ in range(20)]
        async with house.replica("two", shards=0) as second:
            await house.seconds(3)
            assert sorted([*first._shards.held, *second._shards.held]) == list(range(SHARDS))
            assert (len(first._shards.held), len(second._shards.held)) == (32, 32)
            assert first.running + second.running == 20
            assert first.running
            assert second.running
            house.calls.open.set()
            await until(lambda: all(succeeded(stored)() for stored in runs))
        await house.seconds(2)
        assert len(first._shards.held) == SHARDS, "who leaves hands its shards back"
    assert all(map(replays, runs))


async def test_a_lost_shard_does_not_fail_the_others(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        runs = [await house.start(engine) for _ in range(6)]
        lost = runs[0].run.shard
        await settled()
        before = [len(stored.journal) for stored in runs]
        house.store.commits_end.clear()
        house.lose(lost)
        house.store.commits_end.set()
        house.calls.open.set()
        others = [stored for stored in runs if stored.run.shard != lost]
        await until(lambda: all(succeeded(stored)() for stored in others))
        assert [len(one.journal) for one in runs if one.run.shard == lost] == [
            count for count, one in zip(before, runs, strict=True) if one.run.shard == lost
        ], "a lost lease writes nothing"
        assert lost not in engine._shards.held
        assert engine.running == 0


async def test_a_lease_that_ran_out_unclaimed_is_taken_again_with_its_runs(house: House) -> None:
    """The commit was refused, so its runs left the memory; nobody else has taken them up."""
    house.calls.open.clear()
    async with house.replica() as engine:
        stored = await house.start(engine)
        await settled()
        house.store.shards[stored.run.shard].until = house.clock.now() - timedelta(seconds=1)
        house.calls.open.set()
        await until(lambda: engine.running == 0)
        await house.seconds(2)
        await until(succeeded(stored))
    assert replays(stored)


async def test_news_of_an_old_lease_does_not_stop_the_runs_of_the_new_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, asked, answer = house.store.hold, asyncio.Event(), asyncio.Event()

    async def hold_slowly(*args: object, **fields: object) -> object:
        held = await hold(*args, **fields)  # type: ignore[arg-type]
        asked.set()
        await answer.wait()
        return held

    house.calls.open.clear()
    async with house.replica() as engine:
        stored = await house.start(engine)
        await settled()
        shard = house.store.shards[stored.run.shard]
        epoch, shard.until = shard.epoch, house.clock.now() - timedelta(seconds=1)
        with monkeypatch.context() as slow:
            slow.setattr(house.store, "hold", hold_slowly)
            await house.seconds(1)
            await asked.wait()
        shard.until = house.clock.now() - timedelta(seconds=1)
        house.calls.open.set()
        await until(lambda: engine.running == 0)
        answer.set()
        await settled()
        await house.seconds(3)
        await until(succeeded(stored))
        assert shard.epoch == epoch + 1


async def test_a_restarted_replica_goes_on_at_once(house: House) -> None:
    stored = house.left_behind()
    await house.store.hold("one/before", (), restarted=False, most=None)
    async with house.replica("one"):
        await until(succeeded(stored))


# --- commits


class CheckedCalls(HeldCalls):
    """Refuses a call whose fact is not recorded (INV-1)."""

    def __init__(self, store: MemoryRunStore) -> None:
        super().__init__()
        self._store = store

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        assert intended in self._store.runs[run.run_id].journal
        return await super().make(run, started, intended, outcome)


async def test_nothing_is_called_before_its_fact_is_recorded(house: House) -> None:
    house.calls = CheckedCalls(house.store)
    async with house.replica() as engine:
        stored = await house.start(engine)
        await until(lambda: len(house.calls.world.requests) > 2)
        house.store.commits_end.clear()
        await settled()
        asked = len(house.calls.world.requests)
        await settled()
        assert len(house.calls.world.requests) == asked
        house.store.commits_end.set()
        await until(succeeded(stored))


async def test_what_arrives_while_a_commit_is_under_way_is_decided_and_recorded_together(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        runs = [await house.start(engine) for _ in range(30)]
        await settled()
        house.store.commits_end.clear()
        first, *others = runs
        await house.cancel(first)
        await settled()
        before = house.store.commits
        for stored in others:
            await house.cancel(stored)
        await settled()
        assert not any(stored.ended for stored in runs)
        assert len(engine._lane._decided) == len(others), "decided, and waiting for the commit under way"
        house.store.commits_end.set()
        await until(lambda: all(stored.ended for stored in runs))
        assert house.store.commits == before + 1, "one commit for all that gathered"


async def test_a_commit_takes_so_many_bytes_and_the_rest_goes_into_the_next_ones_in_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        runs = [await house.start(engine) for _ in range(9)]
        await settled()
        house.store.commits_end.clear()
        first, *others = runs
        await house.cancel(first)
        await settled()
        before = house.store.commits
        for stored in others:
            await house.cancel(stored)
        await settled()
        two = sum(write.size for _, write in list(engine._lane._decided)[:2])
        monkeypatch.setattr("services.orchestrator.engine.lane._BYTES_AT_ONCE", two)
        house.store.commits_end.set()
        await until(lambda: all(stored.ended for stored in runs))
        assert house.store.commits == before + 4


async def test_runs_whose_decisions_take_long_let_others_have_their_turn_after_each_fact(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.orchestrator.engine.lane._TURN_SECONDS", -1)
    async with house.replica() as engine:
        runs = [await house.start(engine) for _ in range(3)]
        await until(lambda: all(succeeded(stored)() for stored in runs))
    assert all(map(replays, runs))


async def test_poison_is_found_in_a_commit_and_its_neighbours_are_recorded(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        runs = [await house.start(engine) for _ in range(9)]
        await settled()
        poisoned, *healthy = runs
        house.store.poison[poisoned.run.run_id] = ValueError("cannot be written")
        prefix = len(poisoned.journal)
        house.calls.open.set()
        await until(lambda: all(succeeded(stored)() for stored in healthy))
        assert len(poisoned.journal) == prefix
        assert poisoned.run.run_id not in engine._lane.runs
        house.store.poison.clear()
        await house.seconds(17)
        await until(succeeded(poisoned))
    assert all(map(replays, runs))


async def test_runs_whose_writes_are_not_ready_are_set_aside_together_and_the_others_recorded(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        runs = [await house.start(engine) for _ in range(9)]
        await settled()
        waiting, healthy = runs[:4], runs[4:]
        error = WritesNotReady("the key service is away", [stored.run.run_id for stored in waiting])
        house.store.poison.update({stored.run.run_id: error for stored in waiting})
        tries, prefix = house.store.commits, [len(stored.journal) for stored in waiting]
        house.calls.open.set()
        await until(lambda: house.store.commits == tries + 2)
        await settled()
        assert [len(stored.journal) for stored in waiting] == prefix
        await until(lambda: all(succeeded(stored)() for stored in healthy))
        house.store.poison.clear()
        await house.seconds(17)
        await until(lambda: all(succeeded(stored)() for stored in waiting))
    assert all(map(replays, runs))


async def test_a_run_whose_writes_wait_for_the_object_store_holds_up_no_other_and_keeps_their_order(
    house: House,
) -> None:
    put = asyncio.Event()
    async with house.replica() as engine:
        house.calls.open.clear()
        big, small = await house.start(engine), await house.start(engine)
        house.store.preparations[big.run.run_id] = put.wait  # type: ignore[assignment]  # of any answer
        facts = len(big.journal)
        house.calls.open.set()
        await until(succeeded(small))
        await house.ask(big, "pause")
        await settled()
        assert len(big.journal) == facts
        put.set()
        await until(is_in(big, session_pb2.SESSION_STATE_PAUSED))
        await house.ask(big, "resume")
        await until(succeeded(big))
    assert replays(big)


def waiting_to_be_ready() -> float | None:
    return REGISTRY.get_sample_value("comitia_queue_items", {"queue": "orchestrator.unready"})


async def test_so_many_runs_are_made_ready_at_once_and_what_waits_is_counted(house: House) -> None:
    put, under_way, most = asyncio.Event(), 0, 0

    async def slow() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await put.wait()
        under_way -= 1

    async with house.replica(max_runs=100) as engine:
        house.calls.open.clear()
        runs = [await house.start(engine) for _ in range(30)]
        house.store.preparations.update({stored.run.run_id: slow for stored in runs})
        house.calls.open.set()
        await until(lambda: under_way > 0)
        await settled()
        assert under_way == 8
        assert waiting_to_be_ready() == 30
        gone = next(run_id for run_id in engine._lane.unready._tasks)
        engine._lane.remove(engine._lane.runs[gone], again=True)
        put.set()
        await house.seconds(2)
        await until(lambda: all(succeeded(stored)() for stored in runs))
    assert most == 8
    assert waiting_to_be_ready() == 0
    assert all(map(replays, runs))


async def test_a_run_whose_writes_cannot_be_put_is_taken_up_again(house: House) -> None:
    async def refuse() -> None:
        raise WritesNotReady("the object store is away", [])

    async with house.replica() as engine:
        house.calls.open.clear()
        stored = await house.start(engine)
        house.store.preparations[stored.run.run_id] = refuse
        house.calls.open.set()
        await until(lambda: engine.running == 0)
        house.store.preparations.clear()
        await house.seconds(2)
        await until(succeeded(stored))
        assert not engine._lane.unready._tasks
    assert replays(stored)


async def test_a_run_that_cannot_decide_is_set_aside_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        stored, neighbour = await house.start(engine), await house.start(engine)
        await settled()
        live, took = engine._lane.runs[stored.run.run_id], LiveRun.advance

        def refuse(run: LiveRun, at: Timestamp, enough: Callable[[], bool]) -> object:
            if run is live:
                raise ValueError("cannot be read")
            return took(run, at, enough)

        monkeypatch.setattr(LiveRun, "advance", refuse)
        house.calls.open.set()
        await until(succeeded(neighbour))
        assert not stored.ended
        await house.seconds(17)
        await until(succeeded(stored))


async def test_a_database_that_is_away_for_a_moment_fails_nothing(house: House) -> None:
    async with house.replica() as engine:
        house.store.commit_faults.next(Unavailable("postgres"), times=3)
        stored = await house.start(engine)
        await until(lambda: house.store.commit_faults.raised == 1)
        await house.seconds(3)
        await until(succeeded(stored))
    asked = [(entry.path, entry.call_intended.call_index) for entry in house.calls.world.requests]
    assert len(asked) == len(set(asked)), "no call was made twice"


async def test_what_stands_in_the_way_of_a_commit_for_a_moment_fails_nothing(house: House) -> None:
    async with house.replica() as engine:
        house.store.commit_faults.next(TransactionConflict("a table is locked"), times=12)
        runs = [await house.start(engine) for _ in range(3)]
        await house.seconds(10)
        assert house.store.commit_faults.raised > 1
        await house.seconds(15)
        await until(lambda: all(succeeded(stored)() for stored in runs))
    assert len(house.calls.world.requests) == sum(
        entry.HasField("call_intended") for stored in runs for entry in stored.journal
    ), "no call was made twice"


async def test_what_stays_in_the_way_of_a_run_stops_no_other_and_is_not_its_fault(house: House) -> None:
    async with house.replica() as engine:
        house.calls.open.clear()
        runs = [await house.start(engine) for _ in range(9)]
        await settled()
        locked, *healthy = runs
        house.store.poison[locked.run.run_id] = TransactionConflict("a row is locked")
        house.calls.open.set()
        await house.seconds(20)
        await until(lambda: all(succeeded(stored)() for stored in healthy))
        await house.seconds(4 * 31)
        house.store.poison.clear()
        await house.seconds(17)
        await until(succeeded(locked))
    assert all(map(replays, runs))
    assert not any(entry.HasField("run_parked") for entry in locked.journal)


async def test_the_second_result_of_a_call_is_ignored(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        stored = await house.start(engine)
        await settled()
        live = engine._lane.runs[stored.run.run_id]
        [intended] = live.outstanding
        key = intended.path, intended.call_intended.call_index
        for _ in range(2):
            live.answered(key, outcome_of(house.calls.world, intended))
            engine._lane._touch(live)
            await settled()
            live.answered(key, outcome_of(house.calls.world, intended))
        house.calls.open.set()
        await until(succeeded(stored))
    assert replays(stored)
    answers = [(one.path, one.call_answered.call_index) for one in stored.journal if one.HasField("call_answered")]
    assert len(answers) == len(set(answers))


# --- runs that rest


async def test_a_run_that_waits_leaves_the_memory_and_comes_back_for_a_command(house: House) -> None:
    async with house.replica(max_runs=1) as engine:
        runs = [await house.start(engine, manual=True)]
        await until(lambda: waits_after(runs[0], 1)() and engine.running == 0)
        runs.append(await house.start(engine, manual=True))
        await until(lambda: waits_after(runs[1], 1)() and engine.running == 0)
        for stored in runs:
            await engine.command(ADA, stored.run.run_id, "advance")
            await until(lambda: engine.running == 0)
        assert all(succeeded(stored)() for stored in runs)
    assert all(map(replays, runs))


async def test_a_run_that_waits_is_not_read_when_its_shard_changes_hands(house: House) -> None:
    async with house.replica("one") as engine:
        stored = await house.start(engine, manual=True)
        await until(lambda: waits_after(stored, 1)() and engine.running == 0)
    house.store.readable.clear()
    async with house.replica("two") as engine:
        await settled()
        assert house.store.readers == 0
        house.store.readable.set()
        await engine.command(ADA, stored.run.run_id, "advance")
        await until(succeeded(stored))


async def test_a_command_that_the_bus_did_not_announce_is_found_within_a_second(house: House) -> None:
    async with house.replica() as engine:
        stored = await house.start(engine, manual=True)
        await until(lambda: waits_after(stored, 1)() and engine.running == 0)
        await house.store.add_command(
            TENANT, stored.run.run_id, RunCommand(command_id=IDS.uuid(), kind="advance", by="key_ada")
        )
        await house.seconds(2)
        await until(succeeded(stored))


async def test_a_run_that_rests_is_woken_at_its_moment(house: House) -> None:
    started = a_start(manual_advance=True)
    started.run.deadline_time.FromDatetime(house.clock.now() + timedelta(seconds=90))
    stored = house.left_behind(started)
    async with house.replica() as engine:
        await until(lambda: stored.seen.state == run_pb2.RUN_STATE_WAITING and engine.running == 0)
        await house.seconds(80)
        assert engine.running == 0, "it rests in the database"
        await house.seconds(11)
        await until(lambda: stored.journal[-1].HasField("deadline_passed"))
        late = stored.journal[-1].record_time.ToDatetime() - started.run.deadline_time.ToDatetime()
        assert late <= timedelta(seconds=1)


async def test_a_call_that_is_broken_by_a_fault_of_ours_stops_neither_the_engine_nor_other_runs(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        stored, neighbour = await house.start(engine, max_rounds=1), await house.start(engine)
        house.calls.broken.add(stored.run.run_id)
        house.calls.open.set()
        await until(succeeded(neighbour))
        await until(lambda: stored.ended)
    assert stored.view.state_reason
    failures = {one.call_failed.reason for one in stored.journal if one.HasField("call_failed")}
    assert failures == {"INTERNAL"}
    assert replays(stored)


async def test_a_cancelled_run_gives_up_its_calls_and_leaves_the_memory(house: House) -> None:
    house.calls.open.clear()
    async with house.replica() as engine:
        stored = await house.start(engine)
        await settled()
        assert engine._lane.calls._tasks
        await engine.command(ADA, stored.run.run_id, "cancel")
        assert stored.view.state == session_pb2.SESSION_STATE_CANCELLED
        await until(lambda: engine.running == 0)
        await until(lambda: not engine._lane.calls._tasks)


# --- calls of runs that change hands


async def test_a_replica_that_stops_has_others_go_on_with_its_runs_while_its_calls_end(house: House) -> None:
    house.calls.open.clear()
    stored: list[StoredRun] = []

    async def leave_in_the_middle() -> None:
        async with house.replica("one", end_seconds=10.0) as engine:
            stored.append(await house.start(engine))
            await until(lambda: house.calls.begun > 0)
            engine.told_to_stop()

    leaving = asyncio.create_task(leave_in_the_middle())
    await until(lambda: house.calls.begun > 0)
    begun = house.calls.begun
    await until(lambda: not any(shard.owner for shard in house.store.shards))
    async with house.replica("two"):
        await until(lambda: house.calls.begun == 2 * begun)
        assert not leaving.done()
        house.calls.open.set()
        await leaving
        await until(succeeded(stored[0]))
    assert house.calls.cut == 0
    assert replays(stored[0])


async def test_a_replica_that_stops_cuts_its_calls_when_their_time_is_over(house: House) -> None:
    house.calls.open.clear()

    async def leave_in_the_middle() -> None:
        async with house.replica(end_seconds=10.0) as engine:
            await house.start(engine)
            await until(lambda: house.calls.begun > 0)
            engine.told_to_stop()
            house.clock.advance(seconds=4)  # in which the calls of others end

    leaving = asyncio.create_task(leave_in_the_middle())
    await until(lambda: house.calls.begun > 0)
    await settled()
    house.clock.advance(seconds=5.9)
    await settled()
    assert not leaving.done()
    house.clock.advance(seconds=0.2)
    await leaving
    assert house.calls.cut == house.calls.begun


async def test_a_replica_that_breaks_waits_for_no_call(house: House) -> None:
    house.calls.open.clear()
    with pytest.raises(ExceptionGroup):
        async with house.replica(end_seconds=10.0) as engine:
            await house.start(engine)
            await until(lambda: house.calls.begun > 0)
            raise OSError("the port is taken")
    assert house.calls.cut == house.calls.begun


async def test_calls_go_on_when_their_shard_is_lost_and_change_nothing_here(house: House) -> None:
    house.calls.open.clear()
    async with house.replica("one") as engine:
        stored = await house.start(engine)
        await until(lambda: house.calls.begun > 0)
        begun = house.calls.begun
        engine._shards.forget(stored.run.shard)
        house.lose(stored.run.shard)
        await settled()
        assert engine.running == 0
        written = len(stored.journal)
        house.calls.open.set()
        await until(lambda: not engine._lane.calls._left)
        await settled()
    assert (house.calls.begun, house.calls.cut, len(stored.journal)) == (begun, 0, written)


async def test_however_often_a_run_comes_back_its_call_is_left_here_once_and_ends_with_it(house: House) -> None:
    house.calls.open.clear()
    async with house.replica("one") as engine:
        stored = await house.start(engine)
        await until(lambda: house.calls.begun > 0)
        for times in range(2, 6):
            engine._lane.remove(engine._lane.runs[stored.run.run_id], again=True)
            await house.seconds(20)
            await until(lambda times=times: house.calls.begun == times)
        assert house.calls.cut == 3  # made five times: by its run, and once before
        assert REGISTRY.get_sample_value("comitia_queue_items", {"queue": "orchestrator.calls_left"}) == 1
        await engine.command(ADA, stored.run.run_id, "cancel")
        await until(lambda: house.calls.cut == 5 and not engine._lane.calls._left)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_call_that_others_may_have_made_is_known_as_such_whenever_it_is_made(
    house: House, paused: bool
) -> None:
    house.calls.open.clear()
    async with house.replica("one") as engine:
        stored = await house.start(engine)
        await until(lambda: house.calls.begun > 0)
        if paused:
            await engine.command(ADA, stored.run.run_id, "pause")
    assert house.calls.again == [False]
    async with house.replica("two") as engine:
        if paused:
            await settled()
            await engine.command(ADA, stored.run.run_id, "resume")
        await until(lambda: len(house.calls.again) == 2)
        house.calls.open.set()
        await until(succeeded(stored))
    assert house.calls.again[1] is True
    assert not any(house.calls.again[2:])


async def test_a_call_that_nobody_was_asked_yet_is_made_by_the_new_owner_alone(house: House) -> None:
    house.calls.waits.clear()
    async with house.replica("one") as engine:
        stored = await house.start(engine)
        await settled()
        engine._shards.forget(stored.run.shard)
        house.lose(stored.run.shard)
        await settled()
        house.calls.waits.set()
        await settled()
    assert house.calls.begun == 0


async def test_a_call_that_was_left_and_fails_is_not_tried_again(house: House) -> None:
    house.calls.open.clear()
    async with house.replica("one") as engine:
        stored = await house.start(engine)
        await until(lambda: house.calls.begun > 0)
        engine._shards.forget(stored.run.shard)
        house.calls.failing = True
        house.calls.open.set()
        await until(lambda: not engine._lane.calls._left)
    assert house.calls.given_up == 1


async def test_the_calls_that_a_tenants_runs_left_end_with_its_erasure(house: House) -> None:
    house.calls.open.clear()
    async with house.replica("one") as engine:
        stored = await house.start(engine)
        await until(lambda: house.calls.begun > 0)
        engine._shards.forget(stored.run.shard)
        await engine.stop(TENANT)
        assert house.calls.cut == house.calls.begun
        assert not engine._lane.calls._left


async def test_text_of_a_call_that_was_left_is_shown_by_the_new_owner_alone(house: House) -> None:
    house.calls.open.clear()
    async with house.replica("one") as engine:
        stored = await house.start(engine)
        await until(lambda: house.calls.begun > 0)
        async with house.live.watch(TENANT, stored.run.run_id) as news:
            engine._shards.forget(stored.run.shard)
            house.calls.says = "rivers"
            house.calls.open.set()
            await until(lambda: not engine._lane.calls._left)
            await house.live.publish(TENANT, stored.run.run_id, session_service_pb2.WatchSessionResponse(sequence=99))
            assert (await anext(news)).sequence == 99


# --- runs that cannot go on


async def test_a_diverged_run_says_so_once_and_is_left_as_it_is(house: House) -> None:
    stored = house.left_behind()
    tampered(stored)
    prefix = [entry.SerializeToString() for entry in stored.journal]
    async with house.replica() as engine:
        await until(is_in(stored, session_pb2.SESSION_STATE_PARKED))
        assert stored.view.state_reason == "RUN_DIVERGED"
        assert "cancel it" in stored.view.state_message
        await house.seconds(40)
        assert (house.store.commits, engine.running) == (1, 0)
    async with house.replica():
        await settled()
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
    """One that waits is looked at when somebody asks something of it; the others at once."""
    async with house.replica() as engine:
        if not manual:
            house.calls.open.clear()
        stored = await house.start(engine, manual=manual)
        before = session_pb2.SESSION_STATE_WAITING if manual else session_pb2.SESSION_STATE_RUNNING
        await until(is_in(stored, before))
    with monkeypatch.context() as older:
        older.delitem(program.PROGRAMS, (dialogue.NAME, dialogue.VERSION))  # type: ignore[arg-type]
        async with house.replica() as engine:
            if manual:
                await engine.command(ADA, stored.run.run_id, "advance")
            await until(is_in(stored, session_pb2.SESSION_STATE_PARKED))
            assert stored.view.state_reason == "PROGRAM_UNKNOWN"
    house.calls.open.set()
    async with house.replica() as engine:
        if manual:
            await until(is_in(stored, session_pb2.SESSION_STATE_WAITING))
            await engine.command(ADA, stored.run.run_id, "advance")
        await until(succeeded(stored))
    assert replays(stored)


async def test_a_signal_waits_for_a_release_that_can_go_on_with_its_run(house: House) -> None:
    stored = house.left_behind()
    tampered(stored)
    async with house.replica() as engine:
        await until(is_in(stored, session_pb2.SESSION_STATE_PARKED))
        signal = RunCommand(command_id=IDS.uuid(), kind=SIGNAL, by="key_ada")
        await house.store.add_command(TENANT, stored.run.run_id, signal)
        await house.seconds(2)
        house.store.readable.clear()
        await house.seconds(20)
        assert house.store.readers == 0, "its journal is not read again and again"
        assert stored.commands == [signal]
        await engine.command(ADA, stored.run.run_id, "cancel")
        await until(lambda: stored.ended)


async def parked_by_a_fault(house: House, engine: Engine, stored: StoredRun) -> None:
    """Lets time pass until a run shows that it cannot go on by our fault."""
    await house.seconds(3 * 16)
    await until(is_in(stored, session_pb2.SESSION_STATE_PARKED))
    assert stored.view.state_reason == "ENGINE_FAULT"
    assert "report incident" in stored.view.state_message
    assert engine.running == 0


async def test_a_run_by_which_its_program_fails_three_times_is_parked_and_left_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = program.decide
    parked = metrics.RUNS_PARKED.labels("ENGINE_FAULT")
    before = parked._value.get()

    def fail(state: program.RunState, entry: journal_pb2.JournalEntry) -> tuple[program.RunState, tuple[Command, ...]]:
        if entry.HasField("call_answered"):
            raise KeyError("a fault of ours")
        return decide(state, entry)

    async with house.replica() as engine:
        with monkeypatch.context() as broken:
            broken.setattr(program, "decide", fail)
            stored = await house.start(engine)
            await parked_by_a_fault(house, engine, stored)
            asked = len(house.calls.world.requests)
            assert parked._value.get() == before + 1
            await house.seconds(60)
            assert len(house.calls.world.requests) == asked, "nobody is asked again meanwhile"
            assert stored.journal[-1].HasField("run_parked")
            await house.ask(stored, "resume")
            await settled()
            assert stored.journal[-1].run_resumed.by == ADA.subject
            await parked_by_a_fault(house, engine, stored)
        async with house.replica("two", shards=0):
            await house.seconds(20)
            assert is_in(stored, session_pb2.SESSION_STATE_PARKED)(), "nor by whoever takes the shard over"
        await house.ask(stored, "resume")
        await house.seconds(2)
        await until(succeeded(stored))
    assert replays(stored)


async def test_a_run_that_the_database_refuses_is_parked_once_it_may_be_written(house: House) -> None:
    stored = house.left_behind()
    house.store.poison[stored.run.run_id] = ValueError("cannot be written")
    async with house.replica() as engine:
        await house.seconds(3 * 16)
        asked = len(house.calls.world.requests)
        await house.seconds(60)
        assert len(house.calls.world.requests) == asked, "nobody is asked again meanwhile"
        house.store.poison.clear()
        await parked_by_a_fault(house, engine, stored)
        await house.ask(stored, "cancel")
        await until(is_in(stored, session_pb2.SESSION_STATE_CANCELLED))
        assert stored.view.state_reason == "ENGINE_FAULT"
    assert replays(stored)


async def test_a_run_that_is_parked_by_a_fault_hears_its_signals_once_it_goes_on(house: House) -> None:
    stored = house.left_behind(a_run(a_workflow(a_node("go", wait=workflow_pb2.WaitNode(signal="go")))))
    house.store.poison[stored.run.run_id] = ValueError("cannot be written")
    async with house.replica():
        await house.ask(stored, "pause")
        await house.seconds(3 * 17)
        house.store.poison.clear()
        await house.seconds(16)
        await until(lambda: stored.seen.state_reason == "ENGINE_FAULT")
        go = journal_pb2.SignalReceived(name="go", by=ADA.subject).SerializeToString()
        await house.ask(stored, SIGNAL, go)
        await house.seconds(2)
        assert not stored.ended
        await house.ask(stored, "resume")
        await until(lambda: stored.seen.state == run_pb2.RUN_STATE_SUCCEEDED)
    assert replays(stored)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (JournalUnknown("run_x", 1, 9), "JOURNAL_UNKNOWN"),
        (KeyDestroyed(IDS.uuid()), "KEY_DESTROYED"),
        (BlobMissing("blobs/x"), "BLOB_MISSING"),
        (RuntimeError("a fault of ours"), "ENGINE_FAULT"),
    ],
)
async def test_a_run_whose_journal_cannot_be_read_says_so_and_can_be_cancelled(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    stored, readings = house.left_behind(), 0

    async def unreadable(tenant: object, run_id: str, *, after: int = 0) -> Sequence[object]:
        nonlocal readings
        readings += 1
        raise error

    facts = len(stored.journal)
    async with house.replica():
        monkeypatch.setattr(house.store, "entries", unreadable)
        await house.seconds(3 * 16)
        assert (stored.view.state, stored.view.state_reason) == (session_pb2.SESSION_STATE_PARKED, reason)
        assert stored.journal[-1].run_parked.reason == reason
        before = readings
        await house.seconds(60)
        assert readings == before, "its journal is not read again and again"
        await house.ask(stored, "cancel")
        await until(lambda: stored.ended)
        assert stored.view.state_reason == reason
        assert (stored.journal[-1].run_abandoned.by, len(stored.journal)) == (ADA.subject, facts + 2)
        assert not stored.commands


async def test_a_run_that_nobody_can_read_is_cancelled_at_once_though_the_bus_is_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, commit, readings = house.left_behind(), house.store.commit, 0

    async def unreadable(tenant: object, run_id: str, *, after: int = 0) -> Sequence[object]:
        nonlocal readings
        readings += 1
        raise JournalUnknown(run_id, 1, 9)

    async def refused(leases: object, writes: object) -> Sequence[int]:
        raise ValueError("cannot be written")

    async with house.replica():
        monkeypatch.setattr(house.store, "entries", unreadable)
        await house.seconds(3 * 16)
        assert stored.view.state_reason == "JOURNAL_UNKNOWN"
        before = readings
        await house.store.add_command(TENANT, stored.run.run_id, RunCommand(command_id=IDS.uuid(), kind=SIGNAL, by="x"))
        await house.seconds(20)
        assert readings == before, "a signal waits"
        monkeypatch.setattr(house.store, "commit", refused)
        await house.store.add_command(
            TENANT, stored.run.run_id, RunCommand(command_id=IDS.uuid(), kind="cancel", by=ADA.subject)
        )
        await house.seconds(14)
        assert (readings, stored.ended) == (before + 1, False), "what cannot be written is not tried every second"
        monkeypatch.setattr(house.store, "commit", commit)
        await house.seconds(5)
        assert stored.journal[-1].run_abandoned.by == ADA.subject
    assert stored.ended


async def test_a_run_whose_journal_can_be_read_again_goes_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = house.left_behind()

    async def unreadable(tenant: object, run_id: str, *, after: int = 0) -> Sequence[object]:
        raise JournalUnknown(run_id, 1, 9)

    async with house.replica():
        with monkeypatch.context() as older:
            older.setattr(house.store, "entries", unreadable)
            await house.seconds(3 * 16)
            assert stored.view.state_reason == "JOURNAL_UNKNOWN"
    async with house.replica():
        await until(succeeded(stored))
    assert replays(stored)


# --- limits


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
        await settled()
        assert engine.running == 2
        house.calls.open.set()
        await until(lambda: all(succeeded(stored)() for stored in runs))


async def test_a_run_that_is_to_be_cancelled_needs_no_room(house: House) -> None:
    async with house.replica(max_runs=1) as engine:
        resting = await house.start(engine, manual=True)
        await until(lambda: waits_after(resting, 1)() and engine.running == 0)
        house.calls.open.clear()
        await house.start(engine)
        command = RunCommand(command_id=IDS.uuid(), kind="advance", by="key_ada")
        await house.store.add_command(TENANT, resting.run.run_id, command)
        await house.live.wake_owner(resting.run.run_id)
        await settled()
        assert resting.commands == [command]
        await house.cancel(resting)
        await until(is_in(resting, session_pb2.SESSION_STATE_CANCELLED))
        house.calls.open.set()


async def test_a_sub_run_is_taken_up_where_all_places_are_taken(house: House) -> None:
    async with house.replica(max_runs=1) as engine:
        house.calls.open.clear()
        parent = await house.start(engine)
        inner = house.left_behind(run_id=sub_run_id(parent.run.run_id, "nodes/inner#1.1"))
        engine._gained(engine._shards.held[inner.run.shard])
        await until(lambda: inner.run.run_id in engine._lane.runs)
        house.calls.open.set()


async def test_a_sub_run_is_taken_up_behind_runs_that_find_no_place(house: House) -> None:
    async with house.replica(max_runs=1) as engine:
        house.calls.open.clear()
        parent = await house.start(engine)
        earlier = house.left_behind(run_id=an_id_of_shard(parent.run.shard))
        late_parent = IDS.new("run")
        inner = house.left_behind(
            run_id=next(
                run_id
                for place in itertools.count()
                if shard_of(run_id := sub_run_id(late_parent, f"nodes/inner#{place}")) == parent.run.shard
            )
        )
        engine._gained(engine._shards.held[parent.run.shard])
        await until(lambda: inner.run.run_id in engine._lane.runs)
        assert earlier.run.run_id not in engine._lane.runs
        house.calls.open.set()
        await until(lambda: all(succeeded(stored)() for stored in (parent, earlier, inner)))


# --- commands


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
        await house.seconds(61)
        await until(lambda: not stored.commands)
        assert succeeded(stored)(), "a terminal run never changes"


async def test_what_a_run_remembers_of_commands_is_bounded(house: House) -> None:
    """And a command that is read again just after it was recorded is not obeyed twice."""
    run_id = IDS.new("run")
    live = LiveRun(OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id)))
    live.recorded(live.begin(a_start(manual_advance=True, max_rounds=200), Timestamp()))
    rounds = 0
    for _ in range(90):
        while outstanding := live.outstanding:
            for intended in outstanding:
                key = intended.path, intended.call_intended.call_index
                live.answered(key, outcome_of(house.calls.world, intended))
            write = live.advance(Timestamp())
            assert write is not None
            live.recorded(write)
        again = RunCommand(command_id=IDS.uuid(), kind="advance", by="key_ada")
        live.tell([again])
        live.tell([again])
        write = live.advance(Timestamp())
        assert write is not None
        rounds += sum(entry.HasField("run_advanced") for entry in write.entries)
        live.tell([again])
        live.recorded(write)
        live.tell([again])
        assert live.remembered <= 64
    assert rounds == 90


# --- sub-runs


class Nested(HeldCalls):
    """Implements `Calls`: gives sub-runs, which wait for a signal, or start one themselves."""

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        if intended.call_intended.kind != journal_pb2.CALL_KIND_RUN:
            return await super().make(run, started, intended, outcome)
        await self.open.wait()
        task = journal_pb2.SubRunTask.FromString(intended.call_intended.request)
        first = nested() if depth_of(run.run_id) < 1 else a_run(a_workflow(a_node("go", wait=GO)))
        first.run.run_id, first.run.parent_run_id = task.run_id, run.run_id
        return first


GO = workflow_pb2.WaitNode(signal="go")


def nested() -> journal_pb2.RunStarted:
    """Builds the first fact of a run that starts another one."""
    return a_run(a_workflow(a_node("inner", run=workflow_pb2.RunNode(workflow="inner@1.0.0"))))


def seen(house: House) -> list[run_pb2.RunState.ValueType]:
    """Gives the states of all runs, from the one that somebody started down."""
    runs = sorted(house.store.runs.values(), key=lambda stored: depth_of(stored.run.run_id))
    return [stored.seen.state for stored in runs]  # type: ignore[misc]  # the same numbers


@pytest.fixture
async def tree() -> House:
    return House(calls=Nested())


async def test_a_pause_reaches_all_runs_below_and_so_does_what_ends_it(tree: House) -> None:
    parent = tree.left_behind(nested())
    async with tree.replica() as engine:
        await until(lambda: seen(tree)[1:] == [run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_WAITING])
        await tree.ask(parent, "pause")
        await until(lambda: seen(tree) == [run_pb2.RUN_STATE_PAUSED] * 3)
        await until(lambda: engine.running == 0)
        assert [stored.journal[-1].run_paused.by for stored in tree.store.runs.values()][1:] == list(tree.store.runs)[
            :2
        ]
        await tree.ask(parent, "resume")
        await until(lambda: seen(tree)[1:] == [run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_WAITING])
        [*_, last] = tree.store.runs.values()
        go = journal_pb2.SignalReceived(name="go", by=ADA.subject).SerializeToString()
        await tree.ask(last, SIGNAL, go)
        await until(lambda: seen(tree)[1:] == [run_pb2.RUN_STATE_SUCCEEDED] * 2)
        await tree.seconds(16)
        await until(lambda: seen(tree) == [run_pb2.RUN_STATE_SUCCEEDED] * 3)
    assert all(map(replays, tree.store.runs.values()))


async def test_a_paused_run_starts_no_other_and_waits_for_none_in_memory(tree: House) -> None:
    tree.calls.open.clear()
    parent = tree.left_behind(nested())
    async with tree.replica() as engine:
        await until(lambda: parent.run.run_id in engine._lane.runs)
        await settled()
        await tree.ask(parent, "pause")
        await until(lambda: seen(tree) == [run_pb2.RUN_STATE_PAUSED] and engine.running == 0)
        tree.calls.open.set()
        await settled()
        assert len(tree.store.runs) == 1
        await tree.ask(parent, "resume")
        await until(lambda: len(tree.store.runs) == 3)


async def test_a_pause_of_a_run_that_is_parked_by_a_fault_reaches_the_runs_below(tree: House) -> None:
    parent = tree.left_behind(nested())
    async with tree.replica() as engine:
        await until(lambda: len(tree.store.runs) == 3)
        await settled()
        live = engine._lane.runs[parent.run.run_id]
        live.fail(EngineFault("a fault of ours"))
        engine._lane._touch(live)
        await until(lambda: parent.seen.state == run_pb2.RUN_STATE_PARKED)
        await tree.ask(parent, "pause")
        await until(lambda: seen(tree)[1:] == [run_pb2.RUN_STATE_PAUSED] * 2)
        assert parent.journal[-1].run_paused.by == ADA.subject
        assert (parent.seen.state, parent.seen.state_reason) == (run_pb2.RUN_STATE_PARKED, "ENGINE_FAULT")
        await tree.ask(parent, "resume")
        await until(lambda: seen(tree)[1:] == [run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_WAITING])
    assert replays(parent)


@pytest.mark.parametrize("kind", ["a session", "a run"])
async def test_a_paused_run_that_fails_by_us_shows_it(house: House, kind: str) -> None:
    waits = a_run(a_workflow(a_node("go", wait=workflow_pb2.WaitNode(signal="go"))))
    stored = house.left_behind(a_start(manual_advance=True) if kind == "a session" else waits)
    async with house.replica() as engine:
        await until(lambda: stored.rests)
        await house.ask(stored, "pause")
        await until(lambda: stored.seen.state == run_pb2.RUN_STATE_PAUSED and engine.running == 0)
        for _ in range(3):
            engine._faults.note(stored.run.run_id, len(stored.journal), ValueError("a fault of ours"))
        await house.ask(stored, "pause")
        await until(lambda: stored.seen.state == run_pb2.RUN_STATE_PARKED)
        assert stored.seen.state_reason == "ENGINE_FAULT"
        await house.ask(stored, "resume")
        await until(lambda: stored.seen.state == run_pb2.RUN_STATE_WAITING)
    assert replays(stored)


async def test_a_run_that_nobody_can_read_is_cancelled_with_the_runs_below(
    tree: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, entries = nested(), tree.store.entries
    started.run.run_id = IDS.new("run")
    parent = tree.left_behind(started, run_id=started.run.run_id)

    async def unreadable(
        tenant: object, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        if run_id == parent.run.run_id:
            raise JournalUnknown(run_id, 1, 9)
        return await entries(TENANT, run_id, after=after)

    async with tree.replica():
        await until(lambda: seen(tree)[1:] == [run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_WAITING])
    monkeypatch.setattr(tree.store, "entries", unreadable)
    async with tree.replica("two"):
        await tree.seconds(3 * 16)
        assert parent.seen.state_reason == "JOURNAL_UNKNOWN"
        await tree.ask(parent, "cancel")
        await tree.seconds(3)
        await until(lambda: seen(tree) == [run_pb2.RUN_STATE_CANCELLED] * 3)


async def test_a_run_that_is_started_while_its_parent_is_paused_stands_still_as_well(tree: House) -> None:
    parent = tree.left_behind(nested())
    async with tree.replica():
        await until(lambda: len(tree.store.runs) == 3)
        await tree.ask(parent, "pause")
        await until(lambda: seen(tree) == [run_pb2.RUN_STATE_PAUSED] * 3)
        late = tree.left_behind(nested(), run_id=sub_run_id(parent.run.run_id, "nodes/late#1.1"))
        first, begun = a_run(a_workflow(a_node("go", wait=GO))), LiveRun(late.run)
        del tree.store.runs[late.run.run_id]
        first.run.run_id, first.run.parent_run_id = late.run.run_id, parent.run.run_id
        await tree.store.create(begun.begin(first, Timestamp()), None, None)
        [pause] = [one for one in tree.store.runs[late.run.run_id].commands if one.kind == "pause"]
        assert pause.by == parent.run.run_id
