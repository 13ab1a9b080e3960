"""The promises of the rate limits: what is admitted at most, what is never refused wrongly, what happens alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comitia.guard_table import Guard
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.rate import (
    LEASE_SECONDS,
    Ask,
    LeaseSlices,
    Slice,
    ahead_of,
    burst_of,
    most_admitted,
    slice_of,
)
from services.meshkit.core.tenant import GuardedTenantState, Quotas
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.limits import Allowance, RateLimited
from services.meshkit.guard.bucket import LocalBucket
from services.meshkit.guard.rate import RateGate, RouteRates
from services.meshkit.testing.fake_clock import FakeClock

TENANT = TenantId(UUID(int=1))
OTHER = TenantId(UUID(int=2))
METHOD = "/comitia.tools.v1.ToolService/InvokeTool"


@dataclass
class FakeGateway:
    """Leases as `LeaseRate` of the gateway does, on a fake clock."""

    clock: FakeClock
    away: bool = False
    calls: list[list[Ask]] = field(default_factory=list[list[Ask]])
    levels: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    async def __call__(self, asks: Sequence[Ask]) -> list[Slice]:
        if self.away:
            raise Unavailable("gateway")
        if len({ask.bucket for ask in asks}) < len(asks):
            raise Invalid("asks", "is asked for twice")
        self.calls.append(list(asks))
        return [self._lease(ask) for ask in asks]

    def _lease(self, ask: Ask) -> Slice:
        now = self.clock.monotonic()
        level, at = self.levels.get(ask.bucket, (ask.burst, now))
        level = min(ask.burst, level + ask.unused + (now - at) * ask.per_second) - ask.spent
        given = max(0, min(ask.tokens, int(level // 1)))
        level -= given
        self.levels[ask.bucket] = (level, now)
        wait = 0.0 if level >= 1 else (max(1.0, min(ask.tokens, ask.per_second * 0.1)) - level) / ask.per_second
        return Slice(tokens=given, seconds=LEASE_SECONDS, remaining=level, wait_seconds=wait)


@dataclass
class FromEdge:
    """A connection of an edge on this machine, for a client elsewhere."""

    address: str

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-forwarded-for", self.address),)


class Tenants:
    """Knows the quotas of tenants."""

    def __init__(self) -> None:
        self.factors: dict[TenantId, float] = {}

    def tenant(self, tenant: TenantId) -> GuardedTenantState | None:
        factor = self.factors.get(tenant)
        return None if factor is None else GuardedTenantState(quotas=Quotas(rate_factor=factor))


def a_guard(per_second: int = 10, *, subject: int = 0, address: int = 0, peers: frozenset[str] = frozenset()) -> Guard:
    return Guard("x", per_second, 5, False, peers, per_subject_per_second=subject, per_address_per_second=address)


def a_gate(
    gateway: FakeGateway,
    *,
    lease: LeaseSlices | None = None,
    tenants: Tenants | None = None,
    most_buckets: int = 1000,
) -> RateGate:
    return RateGate(
        lease or gateway,
        tenants=tenants or Tenants(),
        addresses=ClientAddresses(),
        service="tested",
        clock=gateway.clock,
        dice=Random(1),
        most_buckets=most_buckets,
    )


def a_caller(tenant: TenantId = TENANT, subject: str = "key_a") -> Principal:
    return Principal(tenant=tenant, subject=subject, roles=frozenset())


async def called(gate: RateGate, route: RouteRates, caller: Principal | None = None) -> Allowance:
    """Makes one call, and lets the gateway answer what it makes the replica ask. Raises: RateLimited."""
    call = asyncio.ensure_future(route.count(caller or a_caller(), None))
    await asyncio.sleep(0)
    for _ in range(3):
        if call.done():
            break
        await gate.lessee.once()
        await asyncio.sleep(0)
    allowance = await call
    assert allowance is not None
    return allowance


async def counted(gate: RateGate, route: RouteRates, caller: Principal | None = None) -> bool:
    """Makes one call as `called` does; True when it was admitted."""
    try:
        await called(gate, route, caller)
    except RateLimited:
        return False
    return True


async def settle(gate: RateGate) -> None:
    gate.lessee.return_void()
    await gate.lessee.once()


async def test_the_first_call_goes_ahead_of_the_gateway_and_is_booked_afterwards() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    allowance = await gate.route(METHOD, a_guard(10)).count(a_caller(), None)
    assert allowance is not None
    assert gateway.calls == []
    await gate.lessee.once()
    [[ask]] = gateway.calls
    assert (ask.spent, ask.bucket) == (1, f"tenant/{TENANT}/{METHOD[1:]}")
    assert gateway.levels[ask.bucket][0] == 19


async def test_a_burst_at_once_is_admitted_whole_and_one_more_is_refused_with_a_time() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(10))
    calls = [asyncio.ensure_future(route.count(a_caller(), None)) for _ in range(21)]
    for _ in range(4):
        await asyncio.sleep(0)
        await gate.lessee.once()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
    assert len(refusals) == 1
    assert refusals[0].metadata["limit"] == "10"
    assert refusals[0].metadata["remaining"] == "0"
    assert int(refusals[0].metadata["reset_seconds"]) >= 1
    assert 0 < refusals[0].seconds <= 0.2
    assert refusals[0].retry_after is not None
    assert dict(refusals[0].headers)["retry-after"] == "1"


async def test_the_time_that_is_named_counts_what_this_replica_has_yet_to_book() -> None:
    gateway = FakeGateway(FakeClock())
    bucket = LocalBucket("tenant/x/y", 1)
    answer = Slice(tokens=0, seconds=LEASE_SECONDS, remaining=0.1, wait_seconds=0.9)
    bucket.ask(0)
    assert bucket.wait_for(0, outage=0) == 0
    bucket.spend(0, outage=0)
    bucket.take(answer, asked_at=0, now=0)
    assert bucket.wait_for(0, outage=0) == pytest.approx(1.9)
    assert bucket.ask(0).spent == 1
    [booked] = await gateway([Ask(bucket="b", per_second=1, burst=5, tokens=0, spent=6)])
    bucket.take(booked, asked_at=0, now=0)
    assert bucket.wait_for(0, outage=0) == pytest.approx(2)


async def test_what_one_tenant_uses_up_another_still_has() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(2))
    spent = [await counted(gate, route) for _ in range(20)]
    assert (spent.count(True), spent[-1]) == (5, False)
    assert all([await counted(gate, route, a_caller(OTHER)) for _ in range(4)])


async def test_a_caller_at_its_limit_does_not_use_up_that_of_its_tenant() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(10, subject=1))
    greedy = [await counted(gate, route) for _ in range(60)]
    assert greedy.count(True) == 5
    others = [await counted(gate, route, a_caller(subject=f"key_{n % 10}")) for n in range(60)]
    # The tenant's 20, of which the greedy one used 5.
    assert others.count(True) == 15


async def test_callers_hear_of_the_limit_that_leaves_them_fewest_calls() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(10, subject=5))
    rested = await called(gate, route)
    assert (rested.limit, rested.remaining) == (5, 5)
    # Two others use up what the tenant has: 20, of which the first caller has had one.
    assert all([await counted(gate, route, a_caller(subject=f"key_{n % 2}")) for n in range(17)])
    last = await called(gate, route, a_caller(subject="key_c"))
    assert (last.limit, last.remaining) == (10, 1)


async def test_a_refusal_names_the_limit_that_lasts_longest() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(3, subject=1))
    # The caller's five, and the last one of the tenant's six: both have nothing left.
    assert all([await counted(gate, route) for _ in range(5)])
    assert await counted(gate, route, a_caller(subject="key_b"))
    await settle(gate)
    with pytest.raises(RateLimited) as refused:
        await called(gate, route)
    assert refused.value.metadata["limited"] == "caller"
    assert 0.9 < refused.value.seconds <= 1.0
    with pytest.raises(RateLimited) as other:
        await called(gate, route, a_caller(subject="key_b"))
    assert other.value.metadata["limited"] == "tenant"
    assert other.value.seconds < 0.4


async def test_a_limit_of_the_services_own_is_shared_by_replicas_and_has_its_own_burst() -> None:
    gateway = FakeGateway(FakeClock())
    replicas = [a_gate(gateway) for _ in range(2)]

    async def take(replica: RateGate, tenant: TenantId = TENANT) -> float:
        taking = asyncio.ensure_future(replica.take(("tool", "sums@1.0.0", tenant), per_second=0.1, burst=6))
        for _ in range(3):
            await asyncio.sleep(0)
            await replica.lessee.once()
        return await taking

    waits = [await take(replicas[n % 2]) for n in range(9)]
    assert [wait == 0 for wait in waits] == [True] * 6 + [False] * 3
    assert 0 < waits[-1] <= 20
    assert await take(replicas[0], OTHER) == 0
    gateway.clock.advance(seconds=10.1)
    assert await take(replicas[1]) == 0


async def test_a_bucket_that_was_forgotten_and_came_back_is_asked_for_once_at_a_time() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway, most_buckets=1)
    route = gate.route(METHOD, a_guard(100))
    for tenant in (TENANT, OTHER, TENANT):
        await route.count(a_caller(tenant), None)
    await gate.lessee.once()
    await gate.lessee.once()
    assert gate.lessee.outage == 0
    assert [[ask.spent for ask in call] for call in gateway.calls] == [[1, 1], [1]]
    assert gateway.levels[f"tenant/{TENANT}/{METHOD[1:]}"][0] == 198


async def test_the_factor_of_a_tenant_scales_its_limit_and_takes_effect_at_once() -> None:
    gateway, tenants = FakeGateway(FakeClock()), Tenants()
    gate = a_gate(gateway, tenants=tenants)
    route = gate.route(METHOD, a_guard(10))
    tenants.factors[TENANT] = 0.1
    assert [await counted(gate, route) for _ in range(30)].count(True) == 5
    tenants.factors[TENANT] = 10
    gateway.clock.advance(seconds=10)
    assert [await counted(gate, route) for _ in range(300)].count(True) == 200


async def test_open_calls_count_by_address_and_a_whole_ipv6_network_is_one() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(address=2))

    async def admitted(address: str, calls: int) -> int:
        connection = FromEdge(address)
        count = 0
        for _ in range(calls):
            await settle(gate)
            try:
                await route.count(None, connection)
            except RateLimited:
                continue
            count += 1
        return count

    assert await admitted("192.0.2.1", 9) == 5
    assert await admitted("192.0.2.2", 3) == 3
    assert await admitted("2001:db8::1", 3) + await admitted("2001:db8::2", 9) == 5


async def test_who_knocks_from_outside_at_an_internal_rpc_is_counted_too() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(1, peers=frozenset({"inference"})))
    assert [await counted(gate, route) for _ in range(9)].count(True) == 5


async def test_asks_of_one_tick_are_one_call_and_slices_are_asked_ahead() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    routes = [gate.route(f"/s/{n}", a_guard(100)) for n in range(5)]
    for route in routes:
        await route.count(a_caller(), None)
    await gate.lessee.once()
    assert [len(call) for call in gateway.calls] == [5]
    bucket = gate.bucket("tenant", (TENANT, "s/0"), 100)
    waits = 0
    for _ in range(100):
        gateway.clock.advance(seconds=0.012)
        waits += bucket.wait_for(gateway.clock.monotonic(), outage=0) is None
        await routes[0].count(a_caller(), None)
        await gate.lessee.once()
    assert waits == 0
    assert sum(map(bool, gateway.calls)) < 60
    assert bucket.tokens > 0


async def test_void_tokens_are_not_spent_and_handed_back() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(100))
    for _ in range(10):
        await route.count(a_caller(), None)
        await gate.lessee.once()
    bucket = gate.bucket("tenant", (TENANT, METHOD[1:]), 100)
    held = bucket.tokens
    assert held > 0
    before = gateway.levels[bucket.name][0]
    gateway.clock.advance(seconds=LEASE_SECONDS + 0.001)
    await settle(gate)
    assert bucket.tokens == 0
    assert gateway.calls[-1][0].unused == held
    assert gateway.levels[bucket.name][0] == min(200, before + held + 100.1)


async def test_without_the_gateway_a_replica_spends_a_quarter_alone_and_nobody_waits_for_long() -> None:
    gateway = FakeGateway(FakeClock(), away=True)
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(100))
    admitted = 0
    for _ in range(100):
        for _ in range(10):
            admitted += await counted(gate, route)
        gateway.clock.advance(seconds=0.1)
    assert gate.lessee.outage > 0
    # A quarter of 100/s for 10 s, and of the burst, and what went ahead of the first answer.
    assert 250 <= admitted <= 250 + 50 + 6
    gateway.away = False
    await settle(gate)
    assert gate.lessee.outage == 0


async def test_buckets_are_bounded_and_the_oldest_goes_first() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway, most_buckets=10)
    route = gate.route(METHOD, a_guard(100))
    for n in range(50):
        await route.count(a_caller(TenantId(UUID(int=n))), None)
    await gate.lessee.once()
    # Those that were forgotten are booked all the same.
    assert sum(ask.spent for ask in gateway.calls[0]) == 50
    kept = gate._buckets["tenant"]  # pyright: ignore[reportPrivateUsage]  # the bound itself
    assert len(kept) == 10


async def test_a_long_name_stays_within_what_the_gateway_takes() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    await gate.route(METHOD, a_guard(100, subject=1)).count(a_caller(subject="u" * 2000), None)
    await gate.lessee.once()
    assert all(len(ask.bucket) <= 300 for ask in gateway.calls[0])


async def test_background_work_asks_by_itself_and_tries_a_lost_gateway_again() -> None:
    gateway = FakeGateway(FakeClock())
    gate = a_gate(gateway)
    route = gate.route(METHOD, a_guard(10))
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work()) for work in gate.background]  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*(route.count(a_caller(), None) for _ in range(21)), return_exceptions=True)
            assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 1
            gateway.away = True
            gateway.clock.advance(seconds=1)
            await route.count(a_caller(), None)
            while not gate.lessee.outage:  # noqa: ASYNC110  # the loop itself is what is waited for
                await asyncio.sleep(0)
            gateway.away = False
            while gate.lessee.outage:
                gateway.clock.advance(seconds=0.5)
                await asyncio.sleep(0)
        for task in running:
            task.cancel()


class SlowWire:
    """Lets the test decide when an ask arrives at the gateway and when its answer comes back."""

    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway
        self.waiting: list[asyncio.Event] = []

    async def __call__(self, asks: Sequence[Ask]) -> list[Slice]:
        await self._pass()
        slices = await self._gateway(asks)
        await self._pass()
        return slices

    async def _pass(self) -> None:
        passed = asyncio.Event()
        self.waiting.append(passed)
        await passed.wait()


class Replica:
    """One replica, whose ask may still be on its way."""

    def __init__(self, gateway: FakeGateway, per_second: int) -> None:
        self.wire = SlowWire(gateway)
        self.gate = a_gate(gateway, lease=self.wire)
        self.route = self.gate.route(METHOD, a_guard(per_second))
        self.asking: asyncio.Task[None] | None = None

    def offered(self) -> bool:
        """Makes a call that does not wait; True when it was admitted."""
        buckets = self.route._buckets(a_caller(), None)  # pyright: ignore[reportPrivateUsage]
        try:
            unknown = self.route.decide(buckets)
        except RateLimited:
            return False
        if isinstance(unknown, LocalBucket):
            self.gate.lessee.ask(unknown)
            return False
        return True

    async def move_on(self) -> None:
        """Begins to ask, or takes what is on its way one step further."""
        if self.asking is None or self.asking.done():
            self.asking = asyncio.create_task(self.gate.lessee.once())
        elif self.wire.waiting:
            self.wire.waiting.pop().set()
        for _ in range(3):
            await asyncio.sleep(0)


MOVES = {"call": 3, "storm": 5, "wire": 20, "void": 2, "tick": 10, "pause": 1}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), replicas=st.integers(1, 4), per_second=st.sampled_from([1, 3, 10, 100]))
def test_within_any_span_no_more_is_admitted_than_was_promised(seed: int, replicas: int, per_second: int) -> None:
    asyncio.run(_never_more_than_promised(Random(seed), replicas, per_second))


async def _never_more_than_promised(dice: Random, replicas: int, per_second: int) -> None:
    gateway = FakeGateway(FakeClock())
    mesh = [Replica(gateway, per_second) for _ in range(replicas)]
    admitted: list[float] = []
    # Each example is a wire, a crowd and a pace of its own.
    weights = [weight * dice.uniform(0.1, 2.0) for weight in MOVES.values()]
    for move in dice.choices(list(MOVES), weights, k=1500):
        replica = dice.choice(mesh)
        if move in ("call", "storm"):
            calls = 1 if move == "call" else 3 * slice_of(per_second)
            let_in = sum(replica.offered() for _ in range(calls))
            admitted.extend([gateway.clock.monotonic()] * let_in)
        elif move == "wire":
            await replica.move_on()
        elif move == "void":
            replica.gate.lessee.return_void()
        else:
            gateway.clock.advance(seconds=(0.1 if move == "tick" else 2.0) / per_second)
    for replica in mesh:
        if replica.asking is not None:
            replica.asking.cancel()
            await asyncio.gather(replica.asking, return_exceptions=True)
    for first in range(0, len(admitted), 1 + len(admitted) // 300):
        most = most_admitted(per_second, seconds=admitted[-1] - admitted[first], replicas=replicas)
        assert len(admitted) - first <= most
    # From the beginning on: what a bucket gives, and what each is ahead of its booking.
    whole = per_second * gateway.clock.monotonic() + burst_of(per_second)
    assert len(admitted) <= whole + replicas * ahead_of(per_second)


@pytest.mark.parametrize("per_second", [1, 7, 40, 300])
async def test_a_caller_within_the_limit_is_never_refused(per_second: int) -> None:
    """Steady calls at 90 % of the limit, over two replicas in turn, for a minute."""
    gateway = FakeGateway(FakeClock())
    gates = [a_gate(gateway) for _ in range(2)]
    routes = [gate.route(METHOD, a_guard(per_second)) for gate in gates]
    for n in range(int(60 * per_second * 0.9)):
        gateway.clock.advance(seconds=1 / (0.9 * per_second))
        for gate in gates:
            await settle(gate)
        assert await counted(gates[n % 2], routes[n % 2])
