"""Steps and workers of the step pools, without a server."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import journal_pb2
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.core.access import AccessGate
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.leases import Desk, Offer
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.step_room import PoolLimits
from services.orchestrator.transport.worker_servicer import Lending, WorkerServicer
from services.orchestrator.usecases.run_access import RunAccess
from tests.support.memory_access_gate import MemoryAccessGate

LIMITS = PoolLimits(workers=8, workers_of_tenant=4, waiting=1_000, waiting_of_tenant=500)


class NoLending:
    """Implements `transport.worker_servicer.Lending` where there is no other replica."""

    possible = False

    @asynccontextmanager
    async def lend(self, desk: Desk, hello: pb.WorkerHello) -> AsyncGenerator[None]:
        """See `Lending.lend`."""
        yield


def worker_door(
    pools: StepPools, lending: Lending | None = None, *, gate: AccessGate | None = None, clock: Clock | None = None
) -> WorkerServicer:
    """Gives the door of workers; everybody may serve every project unless a gate says otherwise."""
    access = RunAccess(gate or MemoryAccessGate())
    return WorkerServicer(pools, lending or NoLending(), access=access, clock=clock or FakeClock())


def step_pools(clock: Clock) -> StepPools:
    """Gives pools for whoever does not test them."""
    return StepPools(clock=clock, limits=LIMITS)


def a_step(
    path: str = "nodes/charge",
    *,
    index: int = 0,
    name: str = "charge",
    pool: str = "",
    timeout: float = 60.0,
    heartbeat: float = 0.0,
    attempt: int = 0,
) -> journal_pb2.JournalEntry:
    """Gives the fact that asks for a step."""
    task = journal_pb2.StepTask(name=name, pool=pool)
    task.input.struct_value.fields["amount"].number_value = 7
    task.timeout.FromMilliseconds(int(timeout * 1000))
    if heartbeat:
        task.heartbeat.FromMilliseconds(int(heartbeat * 1000))
    intended = journal_pb2.CallIntended(
        call_index=index, kind=journal_pb2.CALL_KIND_STEP, request=task.SerializeToString(), attempt=attempt
    )
    return journal_pb2.JournalEntry(path=path, call_intended=intended)


def key_of(step: journal_pb2.JournalEntry) -> CallKey:
    """Gives the place of a step in its run."""
    return step.path, step.call_intended.call_index


def gave(lease_id: int, output: float = 1.0) -> pb.StepOutcome:
    """Gives the outcome of a step that succeeded."""
    return pb.StepOutcome(lease_id=lease_id, output=struct_pb2.Value(number_value=output))


def gave_up(lease_id: int, reason: str = "", *, message: str = "", permanent: bool = False) -> pb.StepOutcome:
    """Gives the outcome of a step that failed."""
    return pb.StepOutcome(
        lease_id=lease_id, failure=pb.StepFailure(reason=reason, message=message, permanent=permanent)
    )


def let_go(lease_id: int, *, seconds: float = 0.0) -> pb.StepOutcome:
    """Gives the outcome of a step that its worker gives back."""
    delay = Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    return pb.StepOutcome(lease_id=lease_id, release=pb.StepRelease(delay=delay))


@dataclass(slots=True)
class Worker:
    """A worker that does what the test says."""

    pools: StepPools
    desk: Desk
    #: What it was told, in order.
    leases: list[pb.Lease] = field(default_factory=list[pb.Lease])
    revoked: list[int] = field(default_factory=list[int])
    refused: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    frames: list[int] = field(default_factory=list[int])
    draining: bool = False

    def hears(self) -> Sequence[pb.Lease]:
        """Reads what it is told; gives the new leases."""
        fresh: list[pb.Lease] = []
        for frame in self.pools.frames(self.desk):
            told = pb.WorkResponse.FromString(frame)
            fresh += told.leases
            self.revoked += told.revoked_lease_ids
            self.refused += [(refused.lease_id, refused.reason) for refused in told.refused]
            self.draining = self.draining or told.draining
            self.frames.append(len(told.leases))
        self.leases += fresh
        return fresh

    def says(self, *outcomes: pb.StepOutcome) -> None:
        """Sends outcomes."""
        self.pools.outcomes(self.desk, outcomes)


@dataclass(slots=True)
class Bench:
    """Pools on a clock that the test moves, and what came of the steps."""

    clock: FakeClock = field(default_factory=FakeClock)
    limits: PoolLimits = LIMITS
    pools: StepPools = field(init=False)
    #: What each step came to, by run, path and index; a list, so that a second one would be seen.
    settled: dict[tuple[str, str, int], list[journal_pb2.JournalEntry]] = field(
        default_factory=dict[tuple[str, str, int], list[journal_pb2.JournalEntry]]
    )

    def __post_init__(self) -> None:
        self.pools = StepPools(clock=self.clock, limits=self.limits)

    def offer(
        self,
        step: journal_pb2.JournalEntry | None = None,
        *,
        run_id: str = "run_a",
        tenant: TenantId = TENANT,
        project: str = "",
        again: Callable[[], None] = lambda: None,
    ) -> bool:
        """Asks for a step."""
        entry = a_step() if step is None else step
        key = key_of(entry)

        def settle(fact: journal_pb2.JournalEntry) -> None:
            self.settled.setdefault((run_id, *key), []).append(fact)

        return self.pools.offer(Offer(tenant, run_id, key, entry, settle, project=project), again=again)

    def outcome(self, path: str = "nodes/charge", *, run_id: str = "run_a", index: int = 0) -> journal_pb2.JournalEntry:
        """Gives what a step came to, once."""
        [fact] = self.settled[(run_id, path, index)]
        return fact

    @contextmanager
    def worker(
        self,
        *steps: str,
        credits_: int = 4,
        pool: str = "default",
        tenant: TenantId = TENANT,
        name: str = "w",
        projects: Sequence[str] = ("",),
        held: Sequence[pb.HeldStep] = (),
    ) -> Iterator[Worker]:
        """Connects a worker while the block runs."""
        desk = Desk(
            tenant=tenant,
            subject="key_w",
            worker=name,
            pool=pool,
            steps=steps or ("charge",),
            wake=lambda: None,
            projects=projects,
        )
        with self.pools.connected(desk, credits_=credits_, held=held):
            yield Worker(self.pools, desk)

    async def passes(self, seconds: float) -> None:
        """Moves time on, by the steps in which the pools look at the clock."""
        while seconds > 0:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.clock.advance(seconds=min(0.25, seconds))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            seconds -= 0.25
