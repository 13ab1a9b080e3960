"""One core with fakes around it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any

import pytest

from services.inference.domain.answer import Answer, StreamEvent
from services.inference.domain.answer_cache import KeptAnswers
from services.inference.domain.deployment import Adapter, Deployments, DeploymentVersion
from services.inference.domain.fairness.fair_queue import FairQueue
from services.inference.domain.route import HopLimits
from services.inference.usecases.admit import FairScheduler, SeatedCalls
from services.inference.usecases.asked import Asked
from services.inference.usecases.bandits import Bandits
from services.inference.usecases.cached_answers import CachedAnswers
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.chain import Chain
from services.inference.usecases.claims import Claims
from services.inference.usecases.conclude import Conclude
from services.inference.usecases.deployment_gates import DeploymentGates
from services.inference.usecases.generate import Generate
from services.inference.usecases.given_answers import GivenAnswers
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.paces import Paces
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.route_calls import RouteCalls
from services.inference.usecases.shadow import ShadowedCalls, Shadows
from services.inference.usecases.stream_generate import StreamGenerate
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.seeded_ids import SeededIds
from tests.support.inference import (
    ANTHROPIC,
    LOCAL,
    OPENAI,
    STUB,
    FakeHolds,
    FakeLaw,
    FakePrices,
    MemoryCallStore,
    MemoryComparisons,
    ScriptedModels,
    ScriptedProvider,
    an_asked,
    says,
)
from tests.support.known_tenants import KnownTenants


@dataclass
class Room:
    """Inference without its walls."""

    clock: FakeClock
    law: FakeLaw
    holds: FakeHolds
    calls: MemoryCallStore
    claims: Claims
    notes: SettledNotes
    providers: dict[str, ScriptedProvider]
    in_flight: CallsInFlight
    queue: FairQueue
    registry: MemoryRegistry
    observe: ObserveRollouts
    bandits: Bandits
    given: GivenAnswers
    paces: Paces
    router: RouteCalls
    shadows: Shadows
    comparisons: MemoryComparisons
    generate: Generate
    stream_generate: StreamGenerate

    @property
    def openai(self) -> ScriptedProvider:
        return self.providers[Adapter.OPENAI]

    @property
    def anthropic(self) -> ScriptedProvider:
        return self.providers[Adapter.ANTHROPIC]

    async def ask(self, asked: Asked | None = None, **changes: Any) -> Answer:
        return await self.generate(asked or an_asked(**changes))

    async def watch(self, asked: Asked | None = None, **changes: Any) -> list[StreamEvent]:
        return [event async for event in self.events(asked, **changes)]

    def events(self, asked: Asked | None = None, **changes: Any) -> AsyncGenerator[StreamEvent]:
        return self.stream_generate(asked or an_asked(**changes))


def make_room(
    deployments: Sequence[DeploymentVersion] = (OPENAI, ANTHROPIC, LOCAL, STUB),
    *,
    most: int = 8,
    seats: int = 8,
    waiting: int = 8,
    cache_seconds: float = 0.0,
    cache_bytes: int = 1_000_000,
    tries: int = 1,
    known: KnownTenants | None = None,
    calls: MemoryCallStore | None = None,
    prices: Mapping[str, int] = MappingProxyType({OPENAI.name: 50, ANTHROPIC.name: 2, LOCAL.name: 3}),
) -> Room:
    clock = FakeClock()
    law, holds, calls = FakeLaw(), FakeHolds(), calls or MemoryCallStore(clock)
    claims = Claims(calls, every_seconds=3.0, clock=clock)
    providers = {one.adapter: ScriptedProvider([says("Yes. ", "No.")]) for one in deployments}
    notes = SettledNotes("inference_settled_notes", calls, clock=clock)
    known, dice = known or KnownTenants(), Random(7)
    registry, observe = MemoryRegistry(Deployments(deployments), clock=clock), ObserveRollouts()
    bandits, given, paces = Bandits(dice=Random(11)), GivenAnswers(), Paces(clock=clock)
    router = RouteCalls(registry, observe, bandits=bandits, given=given, paces=paces, hop=HopLimits(tries=tries))
    chain = Chain(
        registry=registry,
        models=ScriptedModels(providers),
        router=router,
        gates=DeploymentGates(failures=5, dice=dice),
        law=law,
        holds=holds,
        prices=FakePrices(prices),
        tenants=known,
        clock=clock,
        dice=dice,
    )
    core = ModelCall(
        router=router,
        cached=CachedAnswers(KeptAnswers(most_bytes=cache_bytes), seconds=cache_seconds, clock=clock),
        chain=chain,
        conclude=Conclude(router=router, law=law, holds=holds, calls=calls, notes=notes),
        law=law,
        claims=claims,
        tenants=known,
    )
    in_flight = CallsInFlight(most=most)
    queue = FairQueue(seats=seats, most_waiting=waiting, most_waiting_each=waiting)
    calls_with_seats = SeatedCalls(core, scheduler=FairScheduler(queue, wait_seconds=2.0, clock=clock))
    comparisons = MemoryComparisons()
    shadows = Shadows(registry, comparisons, clock=clock, ids=SeededIds(5))
    made = ShadowedCalls(calls_with_seats, copies=calls_with_seats, shadows=shadows)
    return Room(
        clock=clock,
        law=law,
        holds=holds,
        calls=calls,
        claims=claims,
        notes=notes,
        providers=providers,
        in_flight=in_flight,
        queue=queue,
        registry=registry,
        observe=observe,
        bandits=bandits,
        given=given,
        paces=paces,
        router=router,
        shadows=shadows,
        comparisons=comparisons,
        generate=Generate(model_call=made, in_flight=in_flight),
        stream_generate=StreamGenerate(model_call=made, in_flight=in_flight),
    )


async def until(condition: Callable[[], object]) -> None:
    """Lets others run until a condition holds, 5 seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


@pytest.fixture
def room() -> Room:
    return make_room()
