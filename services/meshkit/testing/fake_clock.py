"""A clock that tests move."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count

#: When a test's day begins unless it says otherwise.
NOON = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


class FakeClock:
    """Stands still until `advance`; sleepers wake in order, each at its own time."""

    def __init__(self, start: datetime = NOON) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        self._changed.set()
        await future

    @property
    def sleepers(self) -> int:
        """How many tasks sleep right now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def until_someone_sleeps(self, *, how_many: int = 1, within_seconds: float = 5.0) -> None:
        """Waits until so many tasks sleep on this clock.

        Raises: TimeoutError: it did not happen within real time.
        """
        async with asyncio.timeout(within_seconds):
            while self.sleepers < how_many:
                self._changed.clear()
                await self._changed.wait()

    def advance(self, *, seconds: float) -> None:
        """Moves time on and wakes who has slept long enough. They run when the test next awaits."""
        end = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, future = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, at)
            if not future.done():
                future.set_result(None)
        self._elapsed = end
