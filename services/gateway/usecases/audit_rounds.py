"""Does something again and again, and lives through outages."""

from collections.abc import Awaitable, Callable
from typing import Final

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.telemetry.logs import logger

#: What passes by itself.
_OUTAGES: Final = frozenset(
    {ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.CONFLICT, ErrorKind.DEADLINE, ErrorKind.PRECONDITION}
)
_RETRY_SECONDS: Final = 2.0

log = logger(__name__)


class Rounds:
    """Background work in rounds.

    Args:
        work: one round; True when the next one should follow at once.
        seconds: between the end of a round and the beginning of the next.
        before: done once before the first round, tried until it succeeds.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[bool | None]],
        *,
        seconds: float,
        clock: Clock,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._clock = clock
        self._before = before
        self._failing = False

    async def __call__(self) -> None:
        """Works until cancelled."""
        while self._before is not None and await self._attempt(self._before) is None:
            await self._clock.sleep(min(self._seconds, _RETRY_SECONDS))
        while True:
            if not await self._attempt(self._work):
                await self._clock.sleep(self._seconds)

    async def _attempt(self, work: Callable[[], Awaitable[bool | None]]) -> bool | None:
        """Gives what `work` says, None when it failed."""
        try:
            more = bool(await work())
        except MeshError as error:
            if not self._failing:
                report = log.warning if error.kind in _OUTAGES else log.error
                report("audit work waits", work=self._name, reason=error.reason, why=error.message)
            self._failing = True
            return None
        self._failing = False
        return more
