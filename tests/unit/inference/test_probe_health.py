"""Deployments that are left alone or idle are looked at, without a prompt, and never believed further than that."""

import asyncio
from random import Random
from typing import Any

import pytest

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import ProviderUnavailable
from services.inference.domain.reliability.breaker import BreakerState
from services.inference.domain.route import AttemptOutcome, Candidate
from services.inference.usecases.deployment_gates import DeploymentGates
from services.inference.usecases.ports import Permit, Probe, Wait
from services.inference.usecases.probe_health import ProbeHealth
from services.meshkit.content import Usage
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.inference import ANTHROPIC, OPENAI, STUB
from tests.unit.inference.test_registry import a_version

FINE, FAILED = AttemptOutcome(latency_us=1), AttemptOutcome(latency_us=1, reason=ProviderUnavailable.reason)


class Looks:
    """Looks at models, which answer unless they are down."""

    def __init__(self) -> None:
        self.at: list[str] = []
        self.down: set[str] = set()
        self.broken: set[str] = set()
        #: What cannot even be opened, and what answers otherwise than it should.
        self.shut: set[str] = set()
        self.odd: set[str] = set()
        self.under_way = self.most = 0

    def prober(self, version: DeploymentVersion) -> "Looks | None":
        if version.name in self.shut:
            raise ValueError("an adapter of others")
        return None if version is STUB else self

    async def probe(self, deployment: DeploymentVersion, *, seconds: float) -> Probe:
        self.at.append(deployment.name)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if deployment.name in self.broken:
            raise RuntimeError("an adapter of others")
        if deployment.name in self.odd:
            nothing: Any = None
            return nothing
        return Probe(failure="PROVIDER_UNAVAILABLE" if deployment.name in self.down else "", latency_us=7)


class Room:
    """Gates and what looks at those behind them."""

    def __init__(self, *, probe_seconds: float = 10.0) -> None:
        self.clock, self.looks = FakeClock(), Looks()
        self.gates = DeploymentGates(failures=5, dice=Random(7), probe_seconds=probe_seconds)
        self.gone = set[DeploymentVersion]()
        self.health = ProbeHealth(
            self.gates, self.looks, stands=lambda version: version not in self.gone, clock=self.clock
        )

    def allowed(self, version: DeploymentVersion) -> Permit | Wait:
        return self.gates.allow(Candidate(version=version), bound=Usage(), now=self.clock.monotonic())

    def ask(self, version: DeploymentVersion, outcome: AttemptOutcome = FINE) -> None:
        permit = self.allowed(version)
        assert isinstance(permit, Permit), permit
        self.gates.done(permit, outcome, now=self.clock.monotonic())

    def opened(self, version: DeploymentVersion) -> None:
        """Has a version fail until it stays left alone for half a minute."""
        for _ in range(5):
            self.ask(version, FAILED)
        for _ in range(6):
            self.clock.advance(seconds=40)
            self.ask(version, FAILED)

    def breaker(self, version: DeploymentVersion) -> BreakerState:
        (health,) = self.gates.health([version], now=self.clock.monotonic())
        return health.breaker

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(seconds=1)
            await self.health.look()


async def test_one_that_is_left_alone_is_looked_at_and_asked_by_one_call_as_soon_as_it_answers() -> None:
    room = Room()
    room.opened(OPENAI)
    room.looks.down.add(OPENAI.name)
    await room.seconds(12)
    assert (room.looks.at, room.breaker(OPENAI)) == ([OPENAI.name], BreakerState.OPEN)
    room.looks.down.clear()
    await room.seconds(12)
    assert room.breaker(OPENAI) is BreakerState.HALF_OPEN
    permit = room.allowed(OPENAI)
    assert isinstance(permit, Permit)
    assert permit.probing
    assert isinstance(room.allowed(OPENAI), Wait), "one call finds out"
    room.gates.done(permit, FAILED, now=room.clock.monotonic())
    assert room.breaker(OPENAI) is BreakerState.OPEN, "what it was seen to do is not believed further"


async def test_one_that_is_idle_is_looked_at_now_and_then_and_one_that_is_busy_is_not() -> None:
    room = Room()
    room.ask(ANTHROPIC)
    for _ in range(60):
        room.ask(OPENAI)
        await room.seconds(1)
    assert set(room.looks.at) == {ANTHROPIC.name}
    assert 2 <= len(room.looks.at) <= 4
    (health,) = room.gates.health([ANTHROPIC], now=room.clock.monotonic())
    assert (health.probe_failure, health.probe_us) == ("", 7)
    assert health.probed_seconds_ago is not None
    assert health.probed_seconds_ago < 13
    (busy,) = room.gates.health([OPENAI], now=room.clock.monotonic())
    assert busy.probed_seconds_ago is None


async def test_looks_of_replicas_are_spread() -> None:
    room = Room()
    versions = [a_version(f"w{number}") for number in range(40)]
    for one in versions:
        room.ask(one)
    room.clock.advance(seconds=29)
    await room.health.look()
    await room.seconds(1)
    first = len(room.looks.at)
    await room.seconds(6)
    assert first == 0
    room.looks.at.clear()
    await room.seconds(4)
    assert 0 < len(room.looks.at) < 40
    assert room.looks.most <= 16


async def test_what_is_switched_off_registered_no_more_or_cannot_be_looked_at_is_left_in_peace() -> None:
    off, room = Room(probe_seconds=0), Room()
    gone = a_version("gone")
    room.gone.add(gone)
    for each, version in ((off, OPENAI), (room, STUB), (room, gone)):
        each.ask(version)
        await each.seconds(60)
        assert each.looks.at == []


async def test_an_adapter_that_cannot_look_keeps_no_other_from_being_looked_at() -> None:
    room = Room()
    room.looks.broken.add(OPENAI.name)
    for version in (OPENAI, ANTHROPIC):
        room.ask(version)
    await room.seconds(50)
    assert {OPENAI.name, ANTHROPIC.name} == set(room.looks.at)
    (health,) = room.gates.health([OPENAI], now=room.clock.monotonic())
    assert health.probed_seconds_ago is None


@pytest.mark.parametrize("how", ["shut", "odd"])
async def test_an_adapter_that_cannot_be_opened_or_finds_nonsense_ends_no_look(how: str) -> None:
    room = Room()
    getattr(room.looks, how).add(OPENAI.name)
    for version in (OPENAI, ANTHROPIC):
        room.ask(version)
    await room.seconds(50)
    found = room.gates.health([OPENAI, ANTHROPIC], now=room.clock.monotonic())
    assert [one.probed_seconds_ago is None for one in found] == [True, False]


async def test_it_looks_until_it_is_cancelled() -> None:
    room = Room()
    room.opened(OPENAI)
    looking = asyncio.ensure_future(room.health())
    for _ in range(13):
        await room.clock.until_someone_sleeps()
        room.clock.advance(seconds=1)
    await room.clock.until_someone_sleeps()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert room.looks.at == [OPENAI.name]
