"""A machine whose wall clock is wrong, or becomes so."""

from datetime import datetime, timedelta

from services.meshkit.core.clock import Clock, SystemClock


class JumpingClock:
    """Another clock whose wall time is off by what a test says. Durations and waits are right, as on a real machine.

    Args:
        ahead: by how much it is ahead from the start; below 0: behind.
    """

    def __init__(self, ahead: timedelta = timedelta(), *, of: Clock | None = None) -> None:
        self._right: Clock = of or SystemClock()
        self._ahead = ahead

    def jump(self, by: timedelta) -> None:
        """Sets the wall time forward, or back."""
        self._ahead += by

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._right.now() + self._ahead

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._right.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await self._right.sleep(seconds)
