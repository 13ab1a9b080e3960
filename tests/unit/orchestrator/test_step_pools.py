"""Steps and the workers that make them: every step is settled once, whatever workers do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from functools import partial
from uuid import UUID

import psutil
import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from comitia.orchestrator.v1 import journal_pb2
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.errors import WorkersAtLimit
from services.orchestrator.engine.leases import MAX_FRAME_LEASES
from services.orchestrator.engine.step_room import PoolLimits
from tests.support.step_workers import Bench, Worker, a_step, gave, gave_up, let_go

OTHERS = TenantId(UUID("01900000-0000-7000-8000-000000000002"))


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    """Pools whose timer runs."""
    made = Bench()
    timer = asyncio.create_task(made.pools.keep_time())
    yield made
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)


async def test_a_step_goes_to_a_worker_that_offers_it_and_its_output_comes_back(bench: Bench) -> None:
    with bench.worker("charge") as worker:
        bench.offer(a_step(timeout=60, heartbeat=5, attempt=2))
        [lease] = worker.hears()
        assert (lease.name, lease.run_id, lease.path, lease.attempt) == ("charge", "run_a", "nodes/charge", 2)
        assert lease.input.struct_value.fields["amount"].number_value == 7
        assert (lease.timeout.seconds, lease.heartbeat.seconds) == (60, 5)
        assert lease.expire_time.ToDatetime() == bench.clock.now().replace(tzinfo=None, minute=1)
        worker.says(gave(lease.lease_id, 3))
    fact = bench.outcome().call_answered
    assert (fact.call_index, fact.kind) == (0, journal_pb2.CALL_KIND_STEP)
    assert journal_pb2.StepResult.FromString(fact.response).output.number_value == 3


async def test_a_failure_keeps_its_reason_and_whether_it_lasts(bench: Bench) -> None:
    with bench.worker() as worker:
        bench.offer(a_step("a"))
        bench.offer(a_step("b"))
        worker.hears()
        worker.says(gave_up(1, "CARD_DECLINED", message="no" * 4_000, permanent=True), gave_up(2))
    declined, other = bench.outcome("a").call_failed, bench.outcome("b").call_failed
    assert (declined.reason, len(declined.message), declined.final) == ("CARD_DECLINED", 4_000, True)
    assert (other.reason, other.final) == ("STEP_FAILED", False)


async def test_a_step_waits_for_a_worker_of_its_pool_name_and_tenant(bench: Bench) -> None:
    bench.offer(a_step(pool="gpu"))
    with (
        bench.worker("other", pool="gpu") as wrong_name,
        bench.worker("charge") as wrong_pool,
        bench.worker("charge", pool="gpu", tenant=OTHERS) as wrong_tenant,
    ):
        assert [worker.hears() for worker in (wrong_name, wrong_pool, wrong_tenant)] == [[], [], []]
        with bench.worker("charge", pool="gpu") as right:
            assert [lease.path for lease in right.hears()] == ["nodes/charge"]


async def test_steps_that_are_held_back_go_to_nobody_until_they_are_offered_again(bench: Bench) -> None:
    with bench.worker(credits_=1) as worker:
        bench.offer(a_step("begun"))
        bench.offer(a_step("waiting"))
        [begun] = worker.hears()
        assert [path for path, _ in bench.pools.hold_back("run_a")] == ["waiting"]
        worker.says(gave(begun.lease_id))
        assert worker.hears() == []
        bench.offer(a_step("waiting"))
        assert [lease.path for lease in worker.hears()] == ["waiting"]


async def test_no_worker_gets_more_than_its_credits(bench: Bench) -> None:
    for index in range(5):
        bench.offer(a_step(index=index))
    with bench.worker(credits_=2) as worker:
        assert len(worker.hears()) == 2
        worker.says(gave(1))
        assert len(worker.hears()) == 1
        bench.pools.add_credits(worker.desk, 1)
        assert len(worker.hears()) == 1
        assert worker.hears() == []


async def test_runs_take_turns_and_so_do_workers(bench: Bench) -> None:
    for index in range(50):
        bench.offer(a_step(index=index), run_id="run_wide")
    bench.offer(run_id="run_narrow")
    with bench.worker(credits_=2) as worker:
        assert {lease.run_id for lease in worker.hears()} == {"run_wide", "run_narrow"}
    bench.pools.withdraw("run_wide")
    bench.pools.withdraw("run_narrow")
    with bench.worker(credits_=9) as one, bench.worker(credits_=9) as two:
        for index in range(4):
            bench.offer(a_step(index=index))
        assert (len(one.hears()), len(two.hears())) == (2, 2)


async def test_names_of_steps_take_turns(bench: Bench) -> None:
    for index, name in enumerate(("wide", "wide", "wide", "narrow", "other")):
        bench.offer(a_step(f"nodes/{name}", name=name, index=index))
    with bench.worker("wide", "narrow", credits_=3) as worker:
        assert [lease.name for lease in worker.hears()] == ["wide", "narrow", "wide"]


class _Counted(frozenset[str]):
    """Names, and how often they were looked at."""

    looks = 0

    def __contains__(self, name: object) -> bool:
        _Counted.looks += 1
        return super().__contains__(name)


async def test_what_others_wait_for_is_not_looked_through_for_each_lease(bench: Bench) -> None:
    for index in range(300):
        bench.offer(a_step(f"nodes/{index}", name=f"nobody-{index}"))
    for index in range(100):
        bench.offer(a_step(index=index))
    _Counted.looks = 0
    with bench.worker(credits_=0) as worker:
        worker.desk.steps = _Counted(worker.desk.steps)
        bench.pools.add_credits(worker.desk, 100)
        assert len(worker.hears()) == 100
        assert _Counted.looks <= 301


async def test_what_is_ready_goes_together_in_frames_of_so_many(bench: Bench) -> None:
    with bench.worker(credits_=MAX_FRAME_LEASES + 36) as worker:
        for index in range(MAX_FRAME_LEASES + 36):
            bench.offer(a_step(index=index))
        worker.hears()
        assert worker.frames == [MAX_FRAME_LEASES, 36]


async def test_leases_too_large_for_one_frame_travel_in_several(bench: Bench) -> None:
    with bench.worker(credits_=8) as worker:
        for index in range(4):
            step = a_step(index=index)
            task = journal_pb2.StepTask(name="charge")
            task.input.string_value = "x" * 900_000
            step.call_intended.request = task.SerializeToString()
            bench.offer(step)
        worker.hears()
        assert worker.frames == [2, 2]


async def test_a_step_whose_time_is_up_fails_and_its_late_outcome_is_refused(bench: Bench) -> None:
    with bench.worker(credits_=1) as worker:
        bench.offer(a_step(timeout=2))
        worker.hears()
        await bench.passes(2.5)
        failure = bench.outcome().call_failed
        assert (failure.reason, failure.final) == ("NODE_TIMED_OUT", False)
        worker.hears()
        assert worker.revoked == [1]
        bench.offer(a_step("next"))
        assert worker.hears() == []  # the slot is taken until the worker says that it is not
        worker.says(gave(1))
        assert [lease.path for lease in worker.hears()] == ["next"]
        assert worker.refused == [(1, "LEASE_EXPIRED")]
    assert bench.outcome().HasField("call_failed")


async def test_a_silent_worker_loses_the_step_to_another_and_a_heartbeat_keeps_it(bench: Bench) -> None:
    with bench.worker(credits_=1) as silent:
        bench.offer(a_step(timeout=600, heartbeat=2))
        silent.hears()
        await bench.passes(1.5)
        bench.pools.heard(silent.desk, [1, 99])
        with bench.worker(name="other") as other:
            await bench.passes(1.5)
            assert other.hears() == []
            await bench.passes(1)
            [lease] = other.hears()
            assert lease.attempt == 1
            silent.hears()
            assert silent.revoked == [1]
            silent.says(gave(1, 1))
            other.says(gave(lease.lease_id, 2))
            silent.hears()
            assert silent.refused == [(1, "LEASE_EXPIRED")]
    assert journal_pb2.StepResult.FromString(bench.outcome().call_answered.response).output.number_value == 2


async def test_a_silent_worker_is_noticed_though_it_had_let_go_of_the_step_before(bench: Bench) -> None:
    with bench.worker() as worker:
        bench.offer(a_step(timeout=60))
        worker.hears()
        worker.says(let_go(1, seconds=3))
        await bench.passes(4)
        assert [lease.lease_id for lease in worker.hears()] == [2]
        await bench.passes(61)
    assert bench.outcome().call_failed.reason == "NODE_TIMED_OUT"


async def test_a_silent_worker_is_noticed_though_another_was_silent_before(bench: Bench) -> None:
    with bench.worker(credits_=1) as first, bench.worker(credits_=1, name="second") as second:
        bench.offer(a_step(timeout=60, heartbeat=2))
        first.hears()
        await bench.passes(3)
        [lease] = second.hears()
        await bench.passes(3)
        second.hears()
        assert second.revoked == [lease.lease_id]


async def test_what_a_broken_stream_had_goes_to_the_next_worker(bench: Bench) -> None:
    with bench.worker() as first:
        bench.offer()
        first.hears()
    with bench.worker() as second:
        [lease] = second.hears()
        second.says(gave(lease.lease_id))
    assert bench.outcome().HasField("call_answered")


async def test_a_step_over_which_three_workers_were_lost_fails(bench: Bench) -> None:
    bench.offer()
    for _ in range(3):
        with bench.worker() as worker:
            assert len(worker.hears()) == 1
    assert (bench.outcome().call_failed.reason, bench.outcome().call_failed.final) == ("WORKER_LOST", False)


async def test_workers_that_leave_in_order_cost_a_step_nothing(bench: Bench) -> None:
    bench.offer()
    for _ in range(5):
        with bench.worker() as worker:
            worker.hears()
            bench.pools.drain(worker.desk)
    with bench.worker() as worker:
        [lease] = worker.hears()
        worker.says(let_go(lease.lease_id))
        assert len(worker.hears()) == 1
    assert not bench.settled


async def test_a_released_step_comes_again_after_its_delay(bench: Bench) -> None:
    with bench.worker() as worker:
        bench.offer()
        worker.hears()
        worker.says(let_go(1, seconds=3))
        await bench.passes(2)
        assert worker.hears() == []
        await bench.passes(1.5)
        [lease] = worker.hears()
        assert lease.attempt == 1


async def test_a_released_step_that_is_taken_back_never_comes_again(bench: Bench) -> None:
    with bench.worker() as worker:
        bench.offer()
        worker.hears()
        worker.says(let_go(1, seconds=3))
        bench.pools.withdraw("run_a")
        await bench.passes(5)
        assert worker.hears() == []
    assert not bench.settled


async def test_a_double_outcome_and_one_of_a_lease_that_never_was_change_nothing(bench: Bench) -> None:
    with bench.worker(credits_=1) as worker:
        bench.offer()
        worker.hears()
        worker.says(gave(1, 1), gave(1, 2), gave(7), gave(0))
        worker.hears()
        assert worker.refused == [(1, "LEASE_EXPIRED"), (7, "LEASE_UNKNOWN"), (0, "LEASE_UNKNOWN")]
        assert worker.desk.credits == 1
    assert journal_pb2.StepResult.FromString(bench.outcome().call_answered.response).output.number_value == 1


async def test_nobody_answers_for_another_worker(bench: Bench) -> None:
    with bench.worker(credits_=1) as honest, bench.worker("nothing") as liar:
        bench.offer()
        honest.hears()
        liar.says(gave(1, 666))
        liar.hears()
        assert liar.refused == [(1, "LEASE_UNKNOWN")]
        honest.says(gave(1, 1))
    assert journal_pb2.StepResult.FromString(bench.outcome().call_answered.response).output.number_value == 1


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (struct_pb2.Value(string_value="x" * (256 * 1024 + 1)), "OUTPUT_TOO_LARGE"),
        (struct_pb2.Value(number_value=float("nan")), "OUTPUT_NOT_JSON"),
        (
            struct_pb2.Value(list_value=struct_pb2.ListValue(values=[struct_pb2.Value(number_value=float("-inf"))])),
            "OUTPUT_NOT_JSON",
        ),
    ],
    ids=["too large", "not a number", "endless within a list"],
)
async def test_an_output_that_cannot_be_recorded_is_refused_and_the_lease_goes_on(
    bench: Bench, output: struct_pb2.Value, reason: str
) -> None:
    with bench.worker() as worker:
        bench.offer()
        worker.hears()
        worker.says(pb.StepOutcome(lease_id=1, output=output))
        worker.hears()
        assert worker.refused == [(1, reason)]
        assert not bench.settled
        worker.says(gave_up(1, "TOO_MUCH"))
    assert bench.outcome().call_failed.reason == "TOO_MUCH"


@pytest.mark.parametrize(
    "value",
    [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 0.0],
)
async def test_any_finite_number_and_any_text_is_an_output(bench: Bench, value: float) -> None:
    output = struct_pb2.Value()
    output.struct_value.fields["n"].number_value = value
    output.struct_value.fields["\x11text\x7f"].string_value = "\x11\x11\x11\x11\x11\x11\x11\U000f0000\x7f"
    with bench.worker() as worker:
        bench.offer()
        worker.hears()
        worker.says(pb.StepOutcome(lease_id=1, output=output))
    assert journal_pb2.StepResult.FromString(bench.outcome().call_answered.response).output == output


async def test_what_a_run_gives_up_is_revoked_at_its_worker(bench: Bench) -> None:
    with bench.worker(credits_=3) as worker:
        for index in range(3):
            bench.offer(a_step(index=index))
        worker.hears()
        bench.pools.withdraw("run_a", [("nodes/charge", 1)])
        worker.hears()
        assert worker.revoked == [2]
        bench.pools.withdraw("run_a")
        worker.hears()
        assert worker.revoked == [2, 1, 3]
        worker.says(gave(1))
        assert not bench.settled


async def test_a_worker_never_hears_of_a_step_that_was_given_up_before_it_was_told(bench: Bench) -> None:
    with bench.worker(credits_=1) as worker:
        bench.offer(a_step("a"))
        bench.offer(a_step("b"), run_id="run_b")
        bench.pools.withdraw("run_a")
        assert [lease.path for lease in worker.hears()] == ["b"]
        assert worker.revoked == []


async def test_beyond_the_room_a_run_is_asked_again_when_there_is_some(bench: Bench) -> None:
    bench = Bench(limits=PoolLimits(workers=2, workers_of_tenant=2, waiting=100, waiting_of_tenant=4))
    timer = asyncio.create_task(bench.pools.keep_time())
    asked: list[str] = []
    for index in range(4):
        assert bench.offer(a_step(index=index))
    assert not bench.offer(a_step(index=4), again=partial(asked.append, "again"))
    assert bench.offer(a_step(index=0), tenant=OTHERS, run_id="run_other")  # others have room of their own
    with bench.worker(credits_=1):
        await bench.passes(1)
        assert asked == []
    with bench.worker(credits_=3):
        await bench.passes(1)
    assert asked == ["again"]
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)


async def test_a_tenant_has_so_many_workers_and_no_more(bench: Bench) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(bench.worker())
        with pytest.raises(WorkersAtLimit):
            stack.enter_context(bench.worker())
        for _ in range(4):
            stack.enter_context(bench.worker(tenant=OTHERS))
        with pytest.raises(WorkersAtLimit):
            stack.enter_context(bench.worker(tenant=TenantId(UUID(int=9))))
    with bench.worker():
        pass


async def test_a_draining_stream_gets_no_more_and_finishes_what_it_has(bench: Bench) -> None:
    with bench.worker(credits_=2) as worker:
        bench.offer(a_step("a"))
        worker.hears()
        bench.pools.drain(worker.desk)
        bench.offer(a_step("b"))
        assert worker.hears() == []
        assert (worker.draining, worker.desk.finished) == (True, False)
        worker.says(gave(1))
        assert worker.desk.finished
    assert set(bench.settled) == {("run_a", "a", 0)}


async def test_a_worker_that_takes_up_all_that_waits_gets_what_comes_next(bench: Bench) -> None:
    with bench.worker() as worker:
        bench.offer(a_step("a"))
        assert [lease.path for lease in worker.hears()] == ["a"]
    with bench.worker(credits_=2, held=[pb.HeldStep(run_id="run_a", path="a", attempt=1)]) as again:
        assert [lease.path for lease in again.hears()] == ["a"]
        bench.offer(a_step("b"))
        assert [lease.path for lease in again.hears()] == ["b"]
        again.says(gave(1), gave(2))
    bench.offer(a_step("c"))
    with bench.worker() as other:
        assert [lease.path for lease in other.hears()] == ["c"]


async def test_a_worker_takes_up_what_it_had_on_an_earlier_stream(bench: Bench) -> None:
    held = [pb.HeldStep(run_id="run_a", path="a", attempt=1)]
    with bench.worker(credits_=1) as earlier:
        bench.offer(a_step("a"))
        earlier.hears()
        bench.pools.drain(earlier.desk)
        with bench.worker(name="thief", held=held) as thief:
            assert thief.hears() == []
            with bench.worker(held=[*held, pb.HeldStep(run_id="run_x", path="a", attempt=1)]) as later:
                assert [lease.path for lease in later.hears()] == ["a"]
                earlier.says(gave(1, 1))
                later.says(gave(1, 2))
    assert journal_pb2.StepResult.FromString(bench.outcome("a").call_answered.response).output.number_value == 2


async def test_nothing_is_left_of_what_has_ended() -> None:
    bench = Bench(limits=PoolLimits(workers=1, workers_of_tenant=1, waiting=5_000, waiting_of_tenant=5_000))
    with bench.worker() as worker:
        for index in range(3_000):
            bench.offer(a_step(index=index, name="charge" if index % 2 else "other"))
        bench.pools.withdraw("run_a", [("nodes/charge", index) for index in range(0, 3_000, 2)])
        while leases := worker.hears():
            worker.says(*(gave(lease.lease_id) for lease in leases))
    assert len(bench.settled) == 1_500
    assert {name for name, value in vars(bench.pools).items() if isinstance(value, dict) and value} == set()
    assert len(bench.pools._deadlines) <= 1_001  # pyright: ignore[reportPrivateUsage]  # what ended is swept out


Steps = st.lists(
    st.sampled_from(
        [
            *("offer", "offer", "answer", "answer", "answer twice", "fail", "release", "release later", "silence"),
            *("join", "leave", "drain", "credits", "withdraw", "withdraw one", "heartbeat", "tick", "lie", "hold"),
        ]
    ),
    max_size=80,
)


@given(steps=Steps, data=st.data())
@settings(max_examples=200, deadline=None)
def test_every_step_is_settled_once_whatever_workers_do(steps: list[str], data: st.DataObject) -> None:
    asyncio.run(_at_random(steps, data))


async def _at_random(steps: list[str], data: st.DataObject) -> None:
    bench = Bench()
    timer = asyncio.create_task(bench.pools.keep_time())
    offered, withdrawn = set[tuple[str, int]](), set[tuple[str, int]]()
    with ExitStack() as stack:
        workers: list[tuple[Worker, ExitStack]] = []

        def join(held: list[pb.HeldStep]) -> None:
            one = ExitStack()
            workers.append((one.enter_context(bench.worker(credits_=data.draw(st.integers(1, 3)), held=held)), one))
            stack.callback(one.close)

        for number, step in enumerate(steps):
            run_id = f"run_{number % 3}"
            worker = data.draw(st.sampled_from(workers))[0] if workers else None
            if worker is not None:
                worker.hears()
            known = sorted(lease.lease_id for lease in worker.leases) if worker else []
            lease_id = data.draw(st.sampled_from(known)) if known else 1
            match step:
                case "offer":
                    offered.add((run_id, number))
                    heartbeat = data.draw(st.sampled_from([0.0, 1.0]))
                    bench.offer(a_step(index=number, timeout=3, heartbeat=heartbeat), run_id=run_id)
                case "join" if len(workers) < 4:
                    join([])
                case "hold" if len(workers) < 4 and worker is not None:
                    leases = worker.leases[-1:]
                    join([pb.HeldStep(run_id=one.run_id, path=one.path, attempt=one.attempt) for one in leases])
                case "leave" if workers:
                    workers.pop(data.draw(st.integers(0, len(workers) - 1)))[1].close()
                case "withdraw":
                    withdrawn |= {(run, at) for run, at in offered if run == run_id}
                    bench.pools.withdraw(run_id)
                case "withdraw one" if offered:
                    run, at = data.draw(st.sampled_from(sorted(offered)))
                    withdrawn.add((run, at))
                    bench.pools.withdraw(run, [("nodes/charge", at)])
                case "tick":
                    await bench.passes(data.draw(st.sampled_from([0.5, 1.5, 4.0])))
                case _ if worker is None:
                    continue
                case "answer":
                    worker.says(gave(lease_id))
                case "answer twice":
                    worker.says(gave(lease_id), gave(lease_id))
                case "fail":
                    worker.says(gave_up(lease_id))
                case "release":
                    worker.says(let_go(lease_id))
                case "release later":
                    worker.says(let_go(lease_id, seconds=1))
                case "lie":
                    worker.says(gave(999), gave(0))
                case "heartbeat":
                    bench.pools.heard(worker.desk, known)
                case "credits":
                    bench.pools.add_credits(worker.desk, 1)
                case "drain":
                    bench.pools.drain(worker.desk)
                case _:
                    pass
            for one, _ in workers:
                assert one.desk.credits >= 0
    # Whatever happened: an honest worker finishes the rest.
    await bench.passes(2)
    with bench.worker(credits_=100) as honest:
        while leases := honest.hears():
            honest.says(*(gave(lease.lease_id) for lease in leases))
    settled = {(run_id, index): len(facts) for (run_id, _, index), facts in bench.settled.items()}
    assert set(settled.values()) <= {1}
    assert offered - withdrawn <= set(settled)
    kept = {name for name, value in vars(bench.pools).items() if isinstance(value, dict) and value}
    assert kept == set()
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)


async def test_what_was_told_of_leases_takes_no_memory(bench: Bench) -> None:
    path = f"nodes/{'n' * 10_000}"
    with bench.worker(credits_=100) as worker:
        before = psutil.Process().memory_info().rss
        for _ in range(100):
            for index in range(100):
                bench.offer(a_step(path, index=index))
            worker.says(*(gave(lease.lease_id) for lease in worker.hears()))
            worker.leases.clear()
            bench.settled.clear()
            await bench.passes(0.25)
    grown = psutil.Process().memory_info().rss - before
    assert grown < 50_000_000, "each path is still in memory, 100 MB of them"


async def test_a_step_that_was_taken_back_on_the_way_to_its_worker_is_not_told(bench: Bench) -> None:
    with bench.worker(credits_=2 * MAX_FRAME_LEASES) as worker:
        for number in range(MAX_FRAME_LEASES + 2):
            bench.offer(a_step(f"nodes/{number}"))
        frames = bench.pools.frames(worker.desk)
        next(frames)
        bench.pools.withdraw("run_a", [(f"nodes/{MAX_FRAME_LEASES + 1}", 0)])
        [frame] = frames
        assert [lease.path for lease in pb.WorkResponse.FromString(frame).leases] == [f"nodes/{MAX_FRAME_LEASES}"]
        assert worker.desk.credits == MAX_FRAME_LEASES - 1
