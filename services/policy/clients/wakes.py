"""Wakes between the replicas of policy, over core NATS. They say who should look, and nothing of what is there."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from services.meshkit.bus.bus import Bus
from services.meshkit.bus.live import LiveSubscription
from services.meshkit.bus.subjects import live_subject
from services.meshkit.core.identity import TenantId

_LAW: Final = live_subject("policy", "law", "changed")
_RECORDED: Final = live_subject("policy", "violation", "recorded")


class NatsWakes:
    """Implements `usecases.ports.Wakes`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def law_changed(self) -> None:
        """See `Wakes.law_changed`."""
        await self._bus.publish_live(_LAW, b"")

    async def violations_recorded(self, tenants: Iterable[TenantId]) -> None:
        """See `Wakes.violations_recorded`."""
        await self._bus.publish_live(_RECORDED, b"".join(tenant.bytes for tenant in tenants))

    @asynccontextmanager
    async def law_changes(self) -> AsyncGenerator[AsyncIterator[None]]:
        """See `Wakes.law_changes`."""
        async with self._bus.subscribe_live(_LAW) as messages:
            yield _rings(messages)

    @asynccontextmanager
    async def recorded(self) -> AsyncGenerator[AsyncIterator[TenantId]]:
        """See `Wakes.recorded`."""
        async with self._bus.subscribe_live(_RECORDED) as messages:
            yield _tenants(messages)


async def _rings(messages: LiveSubscription) -> AsyncGenerator[None]:
    async for _ in messages:
        yield None


async def _tenants(messages: LiveSubscription) -> AsyncGenerator[TenantId]:
    async for message in messages:
        for start in range(0, len(message.body) - 15, 16):
            yield TenantId(UUID(bytes=message.body[start : start + 16]))
