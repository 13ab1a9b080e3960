"""Notes which recorded calls cost has charged, after their callers have been answered."""

import asyncio
from typing import Final

from services.meshkit.calls.ports import Settlement, SettlementStore
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: So long notes are gathered; far shorter than what the sweep leaves alone.
_GATHER_SECONDS: Final = 0.1
#: Pause after notes could not be written.
_PAUSE_SECONDS: Final = 1.0
_AT_ONCE: Final = 500
_MOST_WAITING: Final = 10_000


class SettledNotes:
    """Writes notes in groups. One that is lost costs nothing: the sweep settles that call again, to the same effect.

    Args:
        name: of the queue, in metrics.
    """

    def __init__(self, name: str, calls: SettlementStore, *, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._waiting: list[Settlement] = []
        self._news = asyncio.Event()
        self._depth = metrics.QUEUE_ITEMS.labels(name)
        self._refused = metrics.QUEUE_REFUSED.labels(name)

    def add(self, settlement: Settlement) -> None:
        """Takes a note; beyond 10,000 that wait it is left to the sweep."""
        if len(self._waiting) >= _MOST_WAITING:
            self._refused.inc()
            return
        self._waiting.append(settlement)
        self._depth.set(len(self._waiting))
        self._news.set()

    async def __call__(self) -> None:
        """Writes until cancelled, then writes what is left."""
        try:
            while True:
                await self._news.wait()
                await self._clock.sleep(_GATHER_SECONDS)
                while not await self.write():
                    await self._clock.sleep(_PAUSE_SECONDS)
        finally:
            await self.write()

    async def write(self) -> bool:
        """Writes everything that waits; False when some of it still does."""
        self._news.clear()
        while self._waiting:
            group, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            self._depth.set(len(self._waiting))
            try:
                await self._calls.mark_settled(group)
            except MeshError as error:
                self._waiting[:0] = group
                self._depth.set(len(self._waiting))
                log.warning("settled calls stay marked as pending for now", calls=len(group), error=error.message)
                return False
        return True
