"""Live news of runs over core NATS: text deltas, and wakes of watchers and owners. May lose anything."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from comitia.orchestrator.v1 import session_service_pb2
from services.meshkit.bus.bus import Bus
from services.meshkit.bus.live import LiveSubscription
from services.meshkit.bus.subjects import live_subject
from services.meshkit.core.identity import TenantId

_WAKE: Final = live_subject("orchestrator", "run", "wake")


class NatsLiveEvents:
    """Implements `engine.ports.LiveEvents`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, tenant: TenantId, run_id: str, event: session_service_pb2.WatchSessionResponse) -> None:
        """See `LiveEvents.publish`."""
        await self._bus.publish_live(_progress(tenant, run_id), event.SerializeToString())

    @asynccontextmanager
    async def watch(
        self, tenant: TenantId, run_id: str
    ) -> AsyncGenerator[AsyncIterator[session_service_pb2.WatchSessionResponse]]:
        """See `LiveEvents.watch`."""
        async with self._bus.subscribe_live(_progress(tenant, run_id)) as messages:
            yield _Events(messages)

    async def wake_owner(self, run_id: str) -> None:
        """See `LiveEvents.wake_owner`."""
        await self._bus.publish_live(_WAKE, run_id.encode())

    @asynccontextmanager
    async def wakes(self) -> AsyncGenerator[AsyncIterator[str]]:
        """See `LiveEvents.wakes`."""
        async with self._bus.subscribe_live(_WAKE) as messages:
            yield (message.body.decode(errors="replace") async for message in messages)


class _Events:
    """Reads messages as events. No generator: a reader that gives up waiting would end it, and hear nothing more."""

    def __init__(self, messages: LiveSubscription) -> None:
        self._messages = messages

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> session_service_pb2.WatchSessionResponse:
        message = await anext(self._messages)
        return session_service_pb2.WatchSessionResponse.FromString(message.body)


def _progress(tenant: TenantId, run_id: str) -> str:
    return live_subject("orchestrator", "run", "progress", tenant=tenant, key=run_id)
