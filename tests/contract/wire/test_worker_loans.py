"""A worker that is connected to one replica makes steps of runs that another one drives."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import struct_pb2

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import journal_pb2, worker_loan_service_pb2
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.errors import remote_error
from services.meshkit.testing.local_server import LocalServer, local_server
from services.orchestrator.clients import worker_loans
from services.orchestrator.clients.worker_loans import WorkerLoans
from services.orchestrator.engine.leases import Offer
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.step_room import PoolLimits
from services.orchestrator.transport.worker_servicer import WorkerLoanServicer
from tests.support.step_workers import TENANT, a_step, gave, gave_up, key_of, let_go, worker_door
from tests.support.worker_streams import WORK, Stream

LEND = "/comitia.orchestrator.v1.WorkerLoanService/LendWorker"
LIMITS = PoolLimits(workers=8, workers_of_tenant=8, waiting=1_000, waiting_of_tenant=1_000)


@dataclass
class Replica:
    """One of several: its pools behind a server, and what came of its steps."""

    name: str
    pools: StepPools
    server: LocalServer
    loans: WorkerLoans
    facts: asyncio.Queue[journal_pb2.JournalEntry] = field(default_factory=asyncio.Queue[journal_pb2.JournalEntry])

    def worker(self, project: str | None = None) -> Stream:
        """Opens a worker's stream to this replica."""
        method = self.server.channel.stream_stream(WORK)
        return Stream(method(metadata=call_metadata(self.server.keys.principal(project=project))))

    def offer(self, path: str = "nodes/charge", *, run_id: str = "", project: str = "", **wishes: Any) -> None:
        """Asks for a step of a run that this replica drives."""
        entry = a_step(path, **wishes)
        offer = Offer(
            TENANT, run_id or f"run_{self.name}", key_of(entry), entry, self.facts.put_nowait, project=project
        )
        assert self.pools.offer(offer, again=lambda: None)

    async def fact(self) -> journal_pb2.JournalEntry:
        """Waits for what a step came to."""
        async with asyncio.timeout(5):
            return await self.facts.get()


@dataclass
class House:
    """Replicas that know each other."""

    folder: Path
    replicas: dict[str, Replica] = field(default_factory=dict[str, Replica])
    #: A moment after each look around.
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self, name: str) -> Replica:
        """Starts a replica."""
        clock = SystemClock()
        pools = StepPools(clock=clock, limits=LIMITS)
        timer = asyncio.create_task(pools.keep_time())
        self.stack.callback(timer.cancel)
        house = self

        class Others:
            """Implements `Replicas`."""

            async def others(self) -> Mapping[str, str]:
                return {other.name: other.server.target for other in house.replicas.values() if other.name != name}

        @asynccontextmanager
        async def connect(address: str) -> AsyncGenerator[grpc.aio.Channel]:
            [there] = [other for other in self.replicas.values() if other.server.target == address]
            async with channel(address, identity=there.server.keys.workload("orchestrator")) as opened:
                yield opened

        loans = WorkerLoans(pools, replicas=Others(), connect=connect, clock=clock)
        folder = self.folder / name
        folder.mkdir()
        server = await self.stack.enter_async_context(
            local_server(
                worker_door(pools, loans).registration,
                WorkerLoanServicer(pools).registration,
                guards=GUARDS,
                folder=folder,
                name="orchestrator",
                peer="orchestrator",
                background=(loans.keep,),
            )
        )
        made = self.replicas[name] = Replica(name, pools, server, loans)
        return made


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[House]:
    monkeypatch.setattr(worker_loans, "_LOOK_SECONDS", 0.02)
    made = House(tmp_path)
    async with made.stack:
        yield made


async def test_a_worker_is_lent_for_the_projects_that_it_serves_and_for_no_others(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker(project="claims").hello(credits=2)
    there.offer(run_id="run_payroll", project="payroll")
    there.offer(run_id="run_none")
    there.offer(run_id="run_claims", project="claims")
    assert [lease.run_id for lease in (await stream.hears()).leases] == ["run_claims"]
    stream.call.cancel()


async def test_a_step_reaches_a_worker_of_another_replica_and_its_outcome_comes_back(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker().hello(credits=1)
    there.offer()
    [lease] = (await stream.hears()).leases
    assert (lease.run_id, lease.name, lease.attempt) == ("run_there", "charge", 1)
    assert lease.input.struct_value.fields["amount"].number_value == 7
    await stream.says(gave(lease.lease_id, 5))
    answered = (await there.fact()).call_answered
    assert journal_pb2.StepResult.FromString(answered.response).output.number_value == 5
    # The credit came back with the outcome, and serves either replica.
    for replica in (here, there, here, there):
        replica.offer("nodes/next")
        [lease] = (await stream.hears()).leases
        assert lease.run_id == f"run_{replica.name}"
        await stream.says(gave_up(lease.lease_id, "NO", permanent=True))
        assert (await replica.fact()).call_failed.reason == "NO"
    stream.call.cancel()


async def test_nobody_gets_more_than_its_credits_however_many_replicas_have_steps(house: House) -> None:
    replicas = [await house.open(name) for name in ("one", "two", "three")]
    stream = await replicas[0].worker().hello(credits=3)
    for replica in replicas:
        replica.offer("nodes/first")
        [lease] = (await stream.hears()).leases
        await stream.says(gave(lease.lease_id))
        await replica.fact()
    for replica in replicas:
        for item in range(20):
            replica.offer(f"nodes/{item}")
    open_: list[int] = []
    made: list[str] = []
    async with asyncio.timeout(10):
        while len(made) < 60:
            for lease in (await stream.hears()).leases:
                open_.append(lease.lease_id)
                made.append(lease.run_id)
            assert len(open_) <= 3
            await stream.says(*(gave(lease_id) for lease_id in open_))
            open_.clear()
    assert {run_id: made.count(run_id) for run_id in made} == {"run_one": 20, "run_two": 20, "run_three": 20}
    # Replicas without a worker of their own take turns with that which has one.
    assert {"run_two", "run_three"} <= set(made[:12])
    for replica in replicas:
        assert {(await replica.fact()).path for _ in range(20)} == {f"nodes/{item}" for item in range(20)}
    stream.call.cancel()


async def test_a_replica_with_idle_workers_helps_one_whose_workers_are_busy(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    busy = await there.worker().hello(credits=1)
    there.offer("nodes/first")
    assert (await busy.hears()).leases
    there.offer("nodes/second")
    idle = await here.worker().hello(credits=8)
    [lease] = (await idle.hears()).leases
    assert lease.path == "nodes/second"
    await idle.says(gave(lease.lease_id))
    assert (await there.fact()).path == "nodes/second"
    busy.call.cancel()
    [lease] = (await idle.hears()).leases
    assert lease.path == "nodes/first"
    idle.call.cancel()


async def test_cancels_and_signs_of_life_cross_replicas(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker().hello(credits=1)
    there.offer(heartbeat=1.0)
    [lease] = (await stream.hears()).leases
    for _ in range(8):
        await stream.send(pb.WorkRequest(heartbeats=pb.Heartbeats(lease_ids=[lease.lease_id])))
        await asyncio.sleep(0.15)
    there.pools.withdraw("run_there")
    assert list((await stream.hears()).revoked_lease_ids) == [lease.lease_id]
    there.offer("nodes/next")
    await stream.says(gave(lease.lease_id))
    told = await stream.hears()
    refused = list(told.refused) or list((await stream.hears()).refused)
    assert [(one.lease_id, one.reason) for one in refused] == [(lease.lease_id, "LEASE_EXPIRED")]
    leases = list(told.leases) or list((await stream.hears()).leases)
    assert [lease.path for lease in leases] == ["nodes/next"]
    stream.call.cancel()


async def test_a_worker_that_lies_harms_no_other_replica(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker().hello(credits=1)
    there.offer()
    [lease] = (await stream.hears()).leases
    number = lease.lease_id
    await stream.says(pb.StepOutcome(lease_id=number, output=struct_pb2.Value(string_value="x" * 300_000)))
    assert [one.reason for one in (await stream.hears()).refused] == ["OUTPUT_TOO_LARGE"]
    await stream.says(pb.StepOutcome(lease_id=number, output=struct_pb2.Value(number_value=float("nan"))))
    assert [one.reason for one in (await stream.hears()).refused] == ["OUTPUT_NOT_JSON"]
    await stream.says(gave(number, 1), gave(number, 2), gave(number + 1), gave(number << 3))
    reasons = [(one.lease_id, one.reason) for one in (await stream.hears()).refused]
    assert reasons == [
        (number, "LEASE_EXPIRED"),
        (number + 1, "LEASE_UNKNOWN"),
        (number << 3, "LEASE_UNKNOWN"),
    ]
    assert journal_pb2.StepResult.FromString((await there.fact()).call_answered.response).output.number_value == 1
    assert there.facts.empty()
    stream.call.cancel()


async def test_what_is_too_large_for_the_other_replica_is_not_passed_on(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker().hello(credits=1)
    there.offer()
    [lease] = (await stream.hears()).leases
    # Field 101, which we do not know: protobuf keeps it.
    unknown = b"\xaa\x06\xe0\x84\xee\x01" + b"x" * 3_900_000
    await stream.says(pb.StepOutcome.FromString(let_go(lease.lease_id).SerializeToString() + unknown))
    assert [one.reason for one in (await stream.hears()).refused] == ["OUTPUT_TOO_LARGE"]
    await stream.says(pb.StepOutcome(lease_id=lease.lease_id, failure=pb.StepFailure(message="x" * 3_900_000)))
    assert (await there.fact()).call_failed.message == "x" * 4_000
    stream.call.cancel()


async def test_a_step_goes_to_another_when_the_worker_of_the_other_replica_is_lost(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    lost = await here.worker().hello(credits=1)
    there.offer()
    assert (await lost.hears()).leases
    second = await there.worker().hello(credits=1)
    lost.call.cancel()
    assert [lease.path for lease in (await second.hears()).leases] == ["nodes/charge"]
    second.call.cancel()


async def test_a_step_that_costs_lent_workers_is_given_up(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    there.offer()
    for _ in range(3):
        lost = await here.worker().hello(credits=1)
        assert (await lost.hears()).leases
        lost.call.cancel()
    assert (await there.fact()).call_failed.reason == "WORKER_LOST"


async def test_a_step_survives_any_number_of_loans_that_break(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker().hello(credits=1)
    there.offer()
    [lease] = (await stream.hears()).leases
    for _ in range(4):
        # Its channel breaks with all that is on its way; the worker goes on.
        del house.replicas["there"]
        while here.loans.possible:  # noqa: ASYNC110  # it looks around by itself
            await asyncio.sleep(0.01)
        house.replicas["there"] = there
        while lease.lease_id not in (told := await stream.hears()).revoked_lease_ids:
            pass
        await stream.says(gave(lease.lease_id))
        while not told.leases:
            told = await stream.hears()
        [lease] = told.leases
    await stream.says(gave(lease.lease_id))
    assert (await there.fact()).HasField("call_answered")
    stream.call.cancel()


async def test_a_worker_that_comes_back_to_another_replica_takes_up_what_it_held(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    first = await there.worker().hello(credits=2)
    there.offer("nodes/slow")
    assert (await first.hears()).leases
    while not here.loans.possible:  # noqa: ASYNC110  # it looks around by itself
        await asyncio.sleep(0.01)
    held = pb.HeldStep(run_id="run_there", path="nodes/slow", attempt=1)
    second = await here.worker().hello(credits=1, held=[held])
    [lease] = (await second.hears()).leases
    assert lease.path == "nodes/slow"
    # It has one credit, and that is taken.
    here.offer("nodes/next")
    await second.says(gave(lease.lease_id))
    assert (await there.fact()).path == "nodes/slow"
    assert [lease.path for lease in (await second.hears()).leases] == ["nodes/next"]
    first.call.cancel()
    second.call.cancel()


async def test_what_a_stopped_replica_leased_is_revoked_and_the_worker_goes_on(house: House) -> None:
    here = await house.open("here")
    async with AsyncExitStack() as short:
        house.stack, kept = short, house.stack
        there = await house.open("there")
        house.stack = kept
        stream = await here.worker().hello(credits=1)
        there.offer()
        [lease] = (await stream.hears()).leases
        del house.replicas["there"]
        there.server.running.drain.begin()
    assert list((await stream.hears()).revoked_lease_ids) == [lease.lease_id]
    await stream.says(gave(lease.lease_id))
    assert [one.reason for one in (await stream.hears()).refused] == ["LEASE_EXPIRED"]
    here.offer()
    assert [lease.run_id for lease in (await stream.hears()).leases] == ["run_here"]
    stream.call.cancel()


async def test_a_worker_that_stops_finishes_steps_of_all_replicas(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker().hello(credits=2)
    there.offer()
    [lease] = (await stream.hears()).leases
    await stream.send(pb.WorkRequest(draining=pb.WorkerDraining()))
    assert (await stream.hears()).draining
    there.offer("nodes/later")
    here.offer("nodes/later")
    await stream.says(gave(lease.lease_id))
    with pytest.raises(EOFError):
        await stream.hears()
    assert (await there.fact()).path == "nodes/charge"
    successor = await there.worker().hello(credits=2)
    runs = {lease.run_id for lease in (await successor.hears()).leases}
    while runs != {"run_here", "run_there"}:
        runs |= {lease.run_id for lease in (await successor.hears()).leases}
    successor.call.cancel()


async def test_a_step_that_is_given_back_waits_where_its_run_is(house: House) -> None:
    here, there = await house.open("here"), await house.open("there")
    stream = await here.worker().hello(credits=1)
    there.offer()
    [lease] = (await stream.hears()).leases
    await stream.says(let_go(lease.lease_id))
    [again] = (await stream.hears()).leases
    assert (again.path, again.attempt) == (lease.path, lease.attempt)
    await stream.says(gave(again.lease_id))
    assert (await there.fact()).HasField("call_answered")
    stream.call.cancel()


@pytest.mark.parametrize(
    ("worker", "field"),
    [
        (worker_loan_service_pb2.LentWorker(tenant_id="tenant_x"), "worker.tenant_id"),
        (
            worker_loan_service_pb2.LentWorker(tenant_id="tenant_01jd0000000000000000000000"),
            "hello.worker",
        ),
        (
            worker_loan_service_pb2.LentWorker(
                tenant_id="tenant_01jd0000000000000000000000", hello=pb.WorkerHello(worker="w" * (3 << 20))
            ),
            "hello",
        ),
    ],
)
async def test_a_loan_that_is_wrong_says_where(
    house: House, worker: worker_loan_service_pb2.LentWorker, field: str
) -> None:
    here = await house.open("here")
    call: Any = here.server.channel.stream_stream(LEND)(
        iter_of(worker_loan_service_pb2.LendWorkerRequest(worker=worker).SerializeToString())
    )
    with pytest.raises(MeshError) as refused:
        await read(call)
    assert refused.value.metadata.get("field", refused.value.field) == field  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def test_only_orchestrators_lend_workers(house: House) -> None:
    here = await house.open("here")
    async with channel(here.server.target, identity=here.server.keys.workload("tools")) as opened:
        call: Any = opened.stream_stream(LEND)(iter_of(b""))
        with pytest.raises(MeshError) as refused:
            await read(call)
    assert refused.value.reason == "PEER_NOT_ALLOWED"
    call = here.server.channel.stream_stream(LEND)(iter_of(b""))
    with pytest.raises(MeshError) as refused:
        await read(call)
    assert refused.value.reason == "WORKER_MALFORMED"


async def iter_of(message: bytes) -> AsyncGenerator[bytes]:
    """A stream of one message."""
    yield message


async def read(call: Any) -> bytes:
    """Reads the next message. Raises: MeshError."""
    try:
        async with asyncio.timeout(5):
            return await call.read()
    except grpc.aio.AioRpcError as error:
        raise remote_error(error) from error
