"""Waits for news of a run, which the bus may lose."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from comitia.orchestrator.v1 import session_service_pb2


async def until_news(news: AsyncIterator[session_service_pb2.WatchSessionResponse], *, seconds: float) -> None:
    """Waits until something was recorded, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for event in news:
                if event.WhichOneof("event") is None:
                    return
