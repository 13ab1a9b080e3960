"""How late the event loop is: what blocks it, all calls of the process wait for."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from services.meshkit.telemetry import metrics

#: Pause between two looks.
_EVERY_SECONDS: Final = 0.5


@asynccontextmanager
async def loop_lag_measured(service: str) -> AsyncGenerator[None]:
    """Measures the running loop while the block runs. By its own clock: a virtual one shows no lag."""
    loop = asyncio.get_running_loop()
    lag = metrics.LOOP_LAG.labels(service)

    def look(due: float) -> None:
        nonlocal timer
        lag.observe(max(0.0, loop.time() - due))
        due = loop.time() + _EVERY_SECONDS
        timer = loop.call_at(due, look, due)

    first = loop.time() + _EVERY_SECONDS
    timer = loop.call_at(first, look, first)
    try:
        yield
    finally:
        timer.cancel()
