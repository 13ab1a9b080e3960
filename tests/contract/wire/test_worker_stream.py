"""Workers on the wire: a stream each, through every layer of the server; one that lies harms only itself."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf import struct_pb2

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import journal_pb2
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Role
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.local_server import LocalServer, local_server
from services.orchestrator.engine.leases import Offer
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.step_room import PoolLimits
from tests.support.memory_access_gate import MemoryAccessGate
from tests.support.step_workers import TENANT, a_step, gave, key_of, let_go, worker_door
from tests.support.worker_streams import WORK, Stream

UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
LIMITS = PoolLimits(workers=4, workers_of_tenant=2, waiting=1_000, waiting_of_tenant=1_000)


@dataclass
class Served:
    """Pools behind a server."""

    pools: StepPools
    server: LocalServer
    facts: asyncio.Queue[journal_pb2.JournalEntry]
    #: Of somebody outside, who keeps to no bound.
    channel: grpc.aio.Channel
    gate: MemoryAccessGate
    #: By which the door looks whether a worker may still serve its projects.
    clock: FakeClock

    def open(self, *roles: Role, project: str | None = None, seconds: float | None = None) -> Stream:
        """Opens a stream, for so long."""
        method = self.channel.stream_stream(WORK)
        principal = self.server.keys.principal(*(roles or (Role.TENANT_USER,)), project=project)
        return Stream(method(metadata=call_metadata(principal), timeout=seconds))

    def offer(self, step: journal_pb2.JournalEntry | None = None, *, run_id: str = "run_a", project: str = "") -> None:
        """Asks for a step."""
        entry = a_step() if step is None else step
        offer = Offer(TENANT, run_id, key_of(entry), entry, self.facts.put_nowait, project=project)
        assert self.pools.offer(offer, again=lambda: None)

    async def fact(self) -> journal_pb2.JournalEntry:
        """Waits for what a step came to."""
        async with asyncio.timeout(5):
            return await self.facts.get()


@asynccontextmanager
async def serving(folder: Path, limits: PoolLimits = LIMITS) -> AsyncGenerator[Served]:
    """Serves workers while the block runs."""
    pools = StepPools(clock=SystemClock(), limits=limits)
    timer = asyncio.create_task(pools.keep_time())
    gate, clock = MemoryAccessGate(), FakeClock()
    servicer = worker_door(pools, gate=gate, clock=clock)
    async with (
        local_server(servicer.registration, guards=GUARDS, folder=folder, name="orchestrator") as server,
        grpc.aio.insecure_channel(server.target, options=UNBOUNDED) as channel,
    ):
        yield Served(pools, server, asyncio.Queue(), channel, gate, clock)
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    """Pools behind a server."""
    async with serving(tmp_path) as made:
        yield made


async def test_a_worker_gets_leases_in_one_frame_and_answers_them(served: Served) -> None:
    for index in range(3):
        served.offer(a_step(index=index))
    stream = await served.open().hello(credits=2)
    leases = (await stream.hears()).leases
    assert [(lease.lease_id, lease.run_id, lease.name, lease.attempt) for lease in leases] == [
        (1, "run_a", "charge", 1),
        (2, "run_a", "charge", 1),
    ]
    await stream.says(gave(1, 5))
    assert (await served.fact()).call_answered.call_index == 0
    assert [lease.lease_id for lease in (await stream.hears()).leases] == [3]
    stream.call.cancel()


async def test_a_stream_that_is_to_end_soon_is_given_steps_for_half_its_time(served: Served) -> None:
    served.offer()
    stream = await served.open(seconds=5.0).hello()
    assert (await stream.hears()).leases
    assert (await stream.hears()).draining
    stream.call.cancel()


async def test_what_a_stream_had_goes_to_the_next_one_when_it_breaks(served: Served) -> None:
    served.offer()
    first = await served.open().hello()
    assert (await first.hears()).leases
    second = await served.open().hello()
    first.call.cancel()
    assert [lease.path for lease in (await second.hears()).leases] == ["nodes/charge"]
    second.call.cancel()


async def test_a_worker_that_says_all_it_has_to_say_ends_its_stream_well(served: Served) -> None:
    stream = await served.open().hello()
    await stream.call.done_writing()
    with pytest.raises(EOFError):
        await stream.hears()


async def test_a_worker_gets_steps_of_the_projects_that_it_names_and_of_no_others(served: Served) -> None:
    served.gate.grant("key_test", "editor", "project:claims")
    for project in ("claims", "payroll", ""):
        served.offer(run_id=f"run_{project}", project=project)
    named = await served.open().hello(projects=("claims",))
    assert [lease.run_id for lease in (await named.hears()).leases] == ["run_claims"]
    unnamed = await served.open().hello()
    assert [lease.run_id for lease in (await unnamed.hears()).leases] == ["run_"]
    named.call.cancel()
    unnamed.call.cancel()


async def test_one_stream_serves_several_projects_and_runs_of_none(served: Served) -> None:
    for project in ("claims", "payroll", ""):
        served.offer(run_id=f"run_{project}", project=project)
    stream = await served.open().hello(projects=("claims", ""))
    leases = (await stream.hears()).leases
    assert sorted((lease.run_id, lease.name) for lease in leases) == [("run_", "charge"), ("run_claims", "charge")]
    stream.call.cancel()


async def test_a_worker_serves_no_project_that_it_is_not_editor_of(served: Served) -> None:
    served.gate.grant("key_test", "viewer", "project:claims")
    stream = await served.open().hello(projects=("", "claims"))
    refusal = await stream.refusal()
    assert (refusal.reason, refusal.metadata["object"]) == ("RELATION_MISSING", "project:claims")


async def test_a_worker_whose_relation_is_taken_away_is_sent_home_and_its_steps_wait_again(served: Served) -> None:
    served.gate.grant("key_test", "editor", "project:claims")
    served.offer(project="claims")
    stream = await served.open().hello(projects=("claims",))
    assert (await stream.hears()).leases
    await served.clock.until_someone_sleeps()
    served.gate.granted.clear()
    served.clock.advance(seconds=60)
    assert (await stream.refusal()).reason == "RELATION_MISSING"
    other = await served.open(Role.ADMIN).hello(projects=("claims",))
    assert (await other.hears()).leases
    other.call.cancel()


async def test_a_worker_who_is_bound_to_a_project_serves_that_one_and_no_other(served: Served) -> None:
    for project in ("claims", ""):
        served.offer(run_id=f"run_{project}", project=project)
    stream = await served.open(project="claims").hello()
    assert [lease.run_id for lease in (await stream.hears()).leases] == ["run_claims"]
    stream.call.cancel()
    for others in (("payroll",), ("claims", "payroll"), ("",)):
        refused = await served.open(Role.ADMIN, project="claims").hello(projects=others)
        assert (await refused.refusal()).reason == "BOUND_TO_PROJECT"


async def test_a_worker_takes_nothing_up_of_a_project_that_it_does_not_name_any_more(served: Served) -> None:
    served.offer(project="claims")
    first = await served.open().hello(projects=("claims",))
    assert (await first.hears()).leases
    first.call.cancel()
    held = [pb.HeldStep(run_id="run_a", path="nodes/charge", attempt=1)]
    second = await served.open().hello(held=held)
    served.offer(run_id="run_b")
    assert [lease.run_id for lease in (await second.hears()).leases] == ["run_b"]
    second.call.cancel()


@pytest.mark.parametrize(
    ("hello", "field"),
    [
        (pb.WorkerHello(steps=["s"], credits=1), "hello.worker"),
        (pb.WorkerHello(worker="a b", steps=["s"], credits=1), "hello.worker"),
        (pb.WorkerHello(worker="w", pool="1st", steps=["s"], credits=1), "hello.pool"),
        (pb.WorkerHello(worker="w", credits=1), "hello.steps"),
        (pb.WorkerHello(worker="w", steps=["s"] * 1_001, credits=1), "hello.steps"),
        (pb.WorkerHello(worker="w", steps=["s", ""], credits=1), "hello.steps[1]"),
        (pb.WorkerHello(worker="w", steps=["s"]), "hello.credits"),
        (pb.WorkerHello(worker="w", steps=["s"], credits=-1), "hello.credits"),
        (pb.WorkerHello(worker="w", steps=["s"], credits=10_001), "hello.credits"),
        (pb.WorkerHello(worker="w", steps=["s"], credits=1, held=[pb.HeldStep()] * 2), "hello.held"),
        (pb.WorkerHello(worker="w", steps=["s"], credits=1, projects=["p"] * 101), "hello.projects"),
        (pb.WorkerHello(worker="w", steps=["s"] * 101, credits=1, projects=["p"] * 100), "hello.projects"),
        (pb.WorkerHello(worker="w", steps=["s"], credits=1, projects=["p", "p" * 129]), "hello.projects[1]"),
        (pb.WorkerHello(worker="w", steps=["s"], credits=1, projects=["p\0"]), "hello.projects[0]"),
        (
            pb.WorkerHello(worker="w", steps=["s"], credits=1, held=[pb.HeldStep(path="p" * 5_000_000)]),
            "hello",
        ),
    ],
)
async def test_a_hello_that_is_wrong_says_where(served: Served, hello: pb.WorkerHello, field: str) -> None:
    stream = served.open()
    await stream.send(pb.WorkRequest(hello=hello))
    refusal = await stream.refusal()
    assert (refusal.reason, refusal.metadata.get("field", refusal.field)) == ("INVALID_FIELD", field)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.WorkRequest(credits=pb.WorkerCredits(count=0)), "credits.count"),
        (pb.WorkRequest(credits=pb.WorkerCredits(count=-5)), "credits.count"),
        (pb.WorkRequest(credits=pb.WorkerCredits(count=9_997)), "credits.count"),
        (pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=[pb.StepOutcome(lease_id=1)])), "outcomes.outcomes[0]"),
        (
            pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=[gave(1)] * 1_001)),
            "outcomes.outcomes",
        ),
        (
            pb.WorkRequest(
                outcomes=pb.StepOutcomes(outcomes=[pb.StepOutcome(lease_id=1, failure=pb.StepFailure(reason="no!"))])
            ),
            "outcomes.outcomes[0].failure.reason",
        ),
        (
            pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=[let_go(1, seconds=3_601)])),
            "outcomes.outcomes[0].release.delay",
        ),
        (
            pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=[let_go(1, seconds=-1)])),
            "outcomes.outcomes[0].release.delay",
        ),
        (pb.WorkRequest(heartbeats=pb.Heartbeats(lease_ids=[1] * 10_001)), "heartbeats.lease_ids"),
    ],
)
async def test_a_message_that_is_wrong_ends_the_stream_and_says_where(
    served: Served, message: pb.WorkRequest, field: str
) -> None:
    stream = await served.open().hello(credits=4)
    await stream.send(message)
    refusal = await stream.refusal()
    assert (refusal.reason, refusal.metadata.get("field", refusal.field)) == ("INVALID_FIELD", field)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([pb.WorkRequest(credits=pb.WorkerCredits(count=1))], "WORKER_MALFORMED"),
        ([pb.WorkRequest()], "WORKER_MALFORMED"),
        ([b"\xff\xff\xff"], "MALFORMED_REQUEST"),
        ([b"\x0a\x04\x0a\x02\xff\xfe"], "MALFORMED_REQUEST"),
    ],
    ids=["no hello", "nothing", "garbage", "no text"],
)
async def test_a_stream_that_does_not_begin_with_hello_is_refused(
    served: Served, frames: list[pb.WorkRequest | bytes], reason: str
) -> None:
    stream = served.open()
    for frame in frames:
        await stream.send(frame)
    assert (await stream.refusal()).reason == reason


async def test_a_stream_that_says_nothing_at_all_is_refused(served: Served) -> None:
    stream = served.open()
    await stream.call.done_writing()
    assert (await stream.refusal()).reason == "WORKER_MALFORMED"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (pb.WorkRequest(hello=pb.WorkerHello(worker="w", steps=["s"], credits=1)), "WORKER_MALFORMED"),
        (pb.WorkRequest(), "WORKER_MALFORMED"),
        (b"\x1a\xff\xff", "MALFORMED_REQUEST"),
    ],
    ids=["two hellos", "an empty message", "garbage"],
)
async def test_a_frame_that_cannot_be_taken_ends_the_stream_and_its_leases_go_to_others(
    served: Served, frame: pb.WorkRequest | bytes, reason: str
) -> None:
    served.offer()
    liar = await served.open().hello()
    assert (await liar.hears()).leases
    honest = await served.open().hello()
    await liar.send(frame)
    assert (await liar.refusal()).reason == reason
    [lease] = (await honest.hears()).leases
    await honest.says(gave(lease.lease_id))
    assert (await served.fact()).HasField("call_answered")
    honest.call.cancel()


async def test_a_frame_of_five_megabytes_costs_only_the_results_in_it_that_are_too_large(served: Served) -> None:
    served.offer()
    served.offer(a_step(index=1))
    stream = await served.open().hello()
    leases = list((await stream.hears()).leases)
    first, second = leases if len(leases) == 2 else (*leases, *(await stream.hears()).leases)
    huge = pb.StepOutcome(lease_id=first.lease_id, output=struct_pb2.Value(string_value="x" * 5_000_000))
    await stream.says(huge, gave(second.lease_id))
    [refused] = (await stream.hears()).refused
    assert (refused.lease_id, refused.reason) == (first.lease_id, "OUTPUT_TOO_LARGE")
    assert (await served.fact()).call_answered.call_index == 1
    await stream.says(pb.StepOutcome(lease_id=first.lease_id, failure=pb.StepFailure(message="x" * 5_000_000)))
    assert (await served.fact()).call_failed.message == "x" * 4_000
    stream.call.cancel()


async def test_a_result_of_50_megabytes_reaches_nobody(served: Served) -> None:
    served.offer()
    liar = await served.open().hello()
    assert (await liar.hears()).leases
    huge = pb.StepOutcome(lease_id=1, output=struct_pb2.Value(string_value="x" * 50_000_000))
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the stream may end while it is sent
        await liar.says(huge)
    assert await liar.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    honest = await served.open().hello()
    [lease] = (await honest.hears()).leases
    await honest.says(gave(lease.lease_id))
    assert (await served.fact()).HasField("call_answered")
    honest.call.cancel()


async def test_a_result_beyond_the_bound_is_refused_and_the_stream_goes_on(served: Served) -> None:
    served.offer()
    stream = await served.open().hello()
    assert (await stream.hears()).leases
    await stream.says(pb.StepOutcome(lease_id=1, output=struct_pb2.Value(string_value="x" * 300_000)))
    [refused] = (await stream.hears()).refused
    assert (refused.lease_id, refused.reason) == (1, "OUTPUT_TOO_LARGE")
    await stream.says(gave(1))
    assert (await served.fact()).HasField("call_answered")
    stream.call.cancel()


async def test_wrong_double_and_late_results_are_refused_and_change_nothing(served: Served) -> None:
    served.offer(a_step(timeout=0.1))
    stream = await served.open().hello(credits=1)
    assert (await stream.hears()).leases
    assert list((await stream.hears()).revoked_lease_ids) == [1]
    assert (await served.fact()).call_failed.reason == "NODE_TIMED_OUT"
    served.offer(a_step(index=1))
    await stream.says(gave(1), gave(77))
    answer = await stream.hears()
    assert [(one.lease_id, one.reason) for one in answer.refused] == [(1, "LEASE_EXPIRED"), (77, "LEASE_UNKNOWN")]
    leases = list(answer.leases) or list((await stream.hears()).leases)
    await stream.says(gave(leases[0].lease_id, 1), gave(leases[0].lease_id, 2))
    assert (await served.fact()).call_answered.call_index == 1
    assert [one.reason for one in (await stream.hears()).refused] == ["LEASE_EXPIRED"]
    assert served.facts.empty()
    stream.call.cancel()


async def test_a_cancelled_run_reaches_its_worker(served: Served) -> None:
    served.offer()
    stream = await served.open().hello()
    assert (await stream.hears()).leases
    served.pools.withdraw("run_a")
    assert list((await stream.hears()).revoked_lease_ids) == [1]
    stream.call.cancel()


async def test_one_worker_too_many_is_told_to_wait(served: Served) -> None:
    streams = [await served.open().hello(credits=1) for _ in range(2)]
    for index in range(2):
        served.offer(a_step(index=index))
    for stream in streams:
        assert (await stream.hears()).leases
    refusal = await (await served.open().hello()).refusal()
    assert (refusal.reason, refusal.retry_after is not None) == ("WORKERS_AT_LIMIT", True)
    for stream in streams:
        stream.call.cancel()


async def test_a_server_that_stops_lets_workers_finish_what_they_have(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.offer()
        busy, idle = await served.open().hello(credits=1), await served.open().hello("other")
        assert (await busy.hears()).leases
        served.server.running.drain.begin()
        assert (await idle.hears()).draining
        with pytest.raises(EOFError):
            await idle.hears()
        assert (await busy.hears()).draining
        await busy.says(gave(1))
        assert (await served.fact()).HasField("call_answered")
        with pytest.raises(EOFError):
            await busy.hears()


async def test_only_those_who_may_work_get_a_stream(served: Served) -> None:
    refusal = await (await served.open(Role.AUDITOR).hello()).refusal()
    assert (refusal.reason, refusal.metadata["permission"]) == ("PERMISSION_MISSING", "workers.work")
