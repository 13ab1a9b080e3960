"""A service that stops while NATS is away does stop."""

import asyncio
from typing import Any

import pytest

from services.meshkit.bus import bus as module
from services.meshkit.bus.bus import bus


class LosesOneCancellation:
    """A client that tries on for ever and loses a cancellation, as `asyncio.wait_for` of Python 3.11 may."""

    is_connected = False

    async def connect(self, *_: Any, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async def close(self) -> None:
        """Has nothing to close."""


async def test_a_lost_cancellation_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Client", LosesOneCancellation)
    async with asyncio.timeout(5):
        async with bus("nats://127.0.0.1:9"):
            await asyncio.sleep(0.01)
