"""Live news over a real NATS: who watches hears it, and nothing is sent to nobody."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from comitia.orchestrator.v1 import session_service_pb2 as pb
from services.meshkit.bus.bus import Bus, bus
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.clients.live_events import NatsLiveEvents, live_events
from tests.integration.conftest import NatsServer

DELTA = pb.WatchSessionResponse(sequence=3, text_delta=pb.TextDelta(path="rounds/1/Ada", text="word "))


class Bench:
    """Two replicas on one NATS, and somebody who counts what goes over the wire."""

    def __init__(self, stack: AsyncExitStack, nats: NatsServer) -> None:
        self.clock = FakeClock()
        self.run_id = SystemIds().new("run")
        self.heard: list[bytes] = []
        self._stack = stack
        self._nats = nats

    async def open(self) -> None:
        """Connects everybody."""
        self.owner, self.edge = await self._replica(), await self._replica()
        spy = await self._bus()
        wire = await self._stack.enter_async_context(spy.subscribe_live("comitia.live.orchestrator.run.progress.>"))

        async def count() -> None:
            async for message in wire:
                self.heard.append(message.body)

        counting = asyncio.create_task(count())
        self._stack.callback(counting.cancel)

    async def _bus(self) -> Bus:
        connected = await self._stack.enter_async_context(bus(self._nats.url, token=self._nats.token))
        await connected.wait_connected()
        return connected

    async def _replica(self) -> NatsLiveEvents:
        return await self._stack.enter_async_context(live_events(await self._bus(), clock=self.clock))

    async def say(self, event: pb.WatchSessionResponse = DELTA) -> None:
        """Publishes as the run's owner does."""
        await self.owner.publish(TENANT, self.run_id, event)
        await asyncio.sleep(0.05)

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[AsyncIterator[pb.WatchSessionResponse]]:
        """Watches at the other replica."""
        async with self.edge.watch(TENANT, self.run_id) as news:
            async with asyncio.timeout(10):
                while self.run_id not in self.owner._watched:  # noqa: ASYNC110  # pyright: ignore[reportPrivateUsage]
                    await asyncio.sleep(0.005)
            yield news


@pytest.fixture
async def bench(nats_server: NatsServer) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        made = Bench(stack, nats_server)
        await made.open()
        yield made


async def test_nothing_is_sent_while_nobody_watches(bench: Bench) -> None:
    for _ in range(5):
        await bench.say()
    assert bench.heard == []


async def test_a_watcher_at_another_replica_hears_every_delta(bench: Bench) -> None:
    async with bench.watching() as news:
        for _ in range(3):
            await bench.say()
        async with asyncio.timeout(5):
            assert [(await anext(news)).text_delta.text for _ in range(3)] == ["word "] * 3


async def test_who_comes_just_after_news_hears_it_all_the_same(bench: Bench) -> None:
    await bench.say(pb.WatchSessionResponse(sequence=7))
    async with bench.watching() as news, asyncio.timeout(5):
        assert (await anext(news)).sequence == 7


async def test_who_comes_just_after_a_run_was_found_unwatched_hears_of_it_all_the_same(bench: Bench) -> None:
    assert not bench.owner.is_watched(TENANT, bench.run_id, 7)
    async with bench.watching() as news, asyncio.timeout(5):
        assert (await anext(news)).sequence == 7
        assert bench.owner.is_watched(TENANT, bench.run_id, 8)


async def test_a_watcher_counts_as_long_as_it_is_there(bench: Bench) -> None:
    async with bench.watching() as news:
        for _ in range(6):
            await bench.clock.until_someone_sleeps()
            bench.clock.advance(seconds=5)
            await asyncio.sleep(0.05)
        await bench.say()
        async with asyncio.timeout(5):
            assert (await anext(news)).text_delta.text == "word "
    bench.clock.advance(seconds=12)
    bench.heard.clear()
    await bench.say()
    assert bench.heard == []
