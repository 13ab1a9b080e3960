"""Live news of runs over core NATS: text deltas, and wakes of watchers and owners. May lose anything.

A delta that nobody reads costs what one costs that somebody does, so watchers say that they are there, again and again,
and replicas keep still about runs that nobody watches.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from comitia.orchestrator.v1 import session_service_pb2
from services.meshkit.bus.bus import Bus
from services.meshkit.bus.live import LiveSubscription
from services.meshkit.bus.subjects import live_subject
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

T = TypeVar("T")

_WAKE: Final = live_subject("orchestrator", "run", "wake")
_WATCH: Final = live_subject("orchestrator", "run", "watch")
#: A watcher says so this often, and counts as gone after twice that and a little: one word of it may be lost.
_ANNOUNCE_SECONDS: Final = 5.0
_WATCHED_SECONDS: Final = 11.0
#: Runs remembered as watched, and runs whose last news was kept back; the longest unheard of goes first.
_MAX_RUNS: Final = 10_000


class NatsLiveEvents:
    """Implements `engine.ports.LiveEvents`. Opened by `live_events`."""

    def __init__(self, bus: Bus, *, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        #: Until when each run counts as watched.
        self._watched: OrderedDict[str, float] = OrderedDict()
        #: The latest news of runs that nobody watches: whoever comes now may have looked just before it.
        self._kept_back: OrderedDict[str, tuple[TenantId, int]] = OrderedDict()

    async def publish(self, tenant: TenantId, run_id: str, event: session_service_pb2.WatchSessionResponse) -> None:
        """See `LiveEvents.publish`."""
        # A delta is worth nothing to whoever comes later.
        news = event.WhichOneof("event") is None
        if self.is_watched(tenant, run_id, event.sequence) if news else self._is_watched(run_id):
            await self._bus.publish_live(_progress(tenant, run_id), event.SerializeToString())

    def is_watched(self, tenant: TenantId, run_id: str, sequence: int) -> bool:
        """See `LiveEvents.is_watched`."""
        if self._is_watched(run_id):
            return True
        _keep(self._kept_back, run_id, (tenant, sequence))
        return False

    def _is_watched(self, run_id: str) -> bool:
        until = self._watched.get(run_id)
        return until is not None and until >= self._clock.monotonic()

    @asynccontextmanager
    async def watch(
        self, tenant: TenantId, run_id: str
    ) -> AsyncGenerator[AsyncIterator[session_service_pb2.WatchSessionResponse]]:
        """See `LiveEvents.watch`."""
        async with self._bus.subscribe_live(_progress(tenant, run_id)) as messages:
            await self._bus.publish_live(_WATCH, run_id.encode())
            announcing = asyncio.create_task(self._announce(run_id), name=f"watch {run_id}")
            try:
                yield _Events(messages)
            finally:
                announcing.cancel()

    async def wake_owner(self, run_id: str) -> None:
        """See `LiveEvents.wake_owner`."""
        await self._bus.publish_live(_WAKE, run_id.encode())

    @asynccontextmanager
    async def wakes(self) -> AsyncGenerator[AsyncIterator[str]]:
        """See `LiveEvents.wakes`."""
        async with self._bus.subscribe_live(_WAKE) as messages:
            yield (message.body.decode(errors="replace") async for message in messages)

    async def _announce(self, run_id: str) -> None:
        while True:
            await self._clock.sleep(_ANNOUNCE_SECONDS)
            await self._bus.publish_live(_WATCH, run_id.encode())

    async def hear(self, watchers: LiveSubscription) -> None:
        """Notes which runs are watched, until cancelled. Run by `live_events`."""
        async for message in watchers:
            run_id = message.body.decode(errors="replace")
            _keep(self._watched, run_id, self._clock.monotonic() + _WATCHED_SECONDS)
            news = self._kept_back.pop(run_id, None)
            if news is not None:
                tenant, sequence = news
                await self.publish(tenant, run_id, session_service_pb2.WatchSessionResponse(sequence=sequence))


@asynccontextmanager
async def live_events(bus: Bus, *, clock: Clock) -> AsyncGenerator[NatsLiveEvents]:
    """Opens live news, and hears who watches while the block runs."""
    live = NatsLiveEvents(bus, clock=clock)
    async with bus.subscribe_live(_WATCH, most=_MAX_RUNS) as watchers:
        hearing = asyncio.create_task(live.hear(watchers), name="live-watchers")
        try:
            yield live
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])


def _keep(kept: OrderedDict[str, T], run_id: str, value: T) -> None:
    kept[run_id] = value
    kept.move_to_end(run_id)
    while len(kept) > _MAX_RUNS:
        kept.popitem(last=False)


class _Events:
    """Reads messages as events. No generator: a reader that gives up waiting would end it, and hear nothing more."""

    def __init__(self, messages: LiveSubscription) -> None:
        self._messages = messages

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> session_service_pb2.WatchSessionResponse:
        while True:
            message = await anext(self._messages)
            try:
                return session_service_pb2.WatchSessionResponse.FromString(message.body)
            except DecodeError:
                log.warning("news that cannot be read are passed over", bytes=len(message.body))


def _progress(tenant: TenantId, run_id: str) -> str:
    return live_subject("orchestrator", "run", "progress", tenant=tenant, key=run_id)
