"""One core with fakes around it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest

from services.inference.domain.answer import Answer, StreamEvent
from services.inference.domain.deployment import Adapter, Deployments, DeploymentVersion
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import CallsInFlight
from services.inference.usecases.generate import Generate
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.route_calls import RouteCalls
from services.inference.usecases.stream_generate import StreamGenerate
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.inference import (
    ANTHROPIC,
    LOCAL,
    OPENAI,
    STUB,
    FakeHolds,
    FakeLaw,
    FakePrices,
    MemoryCallStore,
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
    notes: SettledNotes
    providers: dict[str, ScriptedProvider]
    in_flight: CallsInFlight
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
    known: KnownTenants | None = None,
    prices: Mapping[str, int] = MappingProxyType({OPENAI.name: 50, ANTHROPIC.name: 2, LOCAL.name: 3}),
) -> Room:
    clock = FakeClock()
    law, holds, calls = FakeLaw(), FakeHolds(), MemoryCallStore(clock)
    providers = {one.adapter: ScriptedProvider([says("Yes. ", "No.")]) for one in deployments}
    notes = SettledNotes("inference_settled_notes", calls, clock=clock)
    core = ModelCall(
        deployments=Deployments(deployments),
        router=RouteCalls(MemoryRegistry(Deployments(deployments), clock=clock), ObserveRollouts()),
        models=ScriptedModels(providers),
        law=law,
        holds=holds,
        prices=FakePrices(prices),
        calls=calls,
        notes=notes,
        tenants=known or KnownTenants(),
        clock=clock,
    )
    in_flight = CallsInFlight(most=most)
    return Room(
        clock=clock,
        law=law,
        holds=holds,
        calls=calls,
        notes=notes,
        providers=providers,
        in_flight=in_flight,
        generate=Generate(model_call=core, in_flight=in_flight),
        stream_generate=StreamGenerate(model_call=core, in_flight=in_flight),
    )


async def until(condition: Callable[[], object]) -> None:
    """Lets others run until a condition holds, 5 seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


@pytest.fixture
def room() -> Room:
    return make_room()
