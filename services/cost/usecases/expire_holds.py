"""Ends holds that nobody settled in time."""

from typing import Final

from services.cost.usecases.outage import passes
from services.cost.usecases.ports import BeginSweep
from services.cost.usecases.report import report
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.telemetry.logs import logger

BEFORE_EXPIRY: Final = "cost.before_expiry"
register(BEFORE_EXPIRY)

log = logger(__name__)


class ExpireHolds:
    """Releases what was never dispatched and charges the bound of what was, in bounded transactions.

    Several replicas share the work. The time comes from the clock that also gave the holds their expiry.
    """

    def __init__(self, *, begin: BeginSweep, clock: Clock, every_seconds: float, most: int = 200) -> None:
        self._begin = begin
        self._clock = clock
        self._every_seconds = every_seconds
        self._most = most

    async def __call__(self) -> None:
        """Sweeps until cancelled; an outage of the database only delays it."""
        while True:
            try:
                while await self.once():
                    pass
            except MeshError as error:
                if not passes(error):
                    raise
                log.warning("expiry of holds waits", reason=error.reason, cause=error.message)
            await self._clock.sleep(self._every_seconds)

    async def once(self) -> int:
        """Ends at most one batch of holds; gives how many it ended."""
        now = self._clock.now()
        async with self._begin() as sweep:
            book = await sweep.load_due(now=now, most=self._most)
            if book is None:
                return 0
            await failpoint(BEFORE_EXPIRY)
            ended = book.expire_due()
            changes = book.changes()
            if changes.empty:
                return 0
            await sweep.save(changes)
            await sweep.commit()
        report(changes)
        log.info("holds expired", holds=len(ended), assumed=len(changes.entries))
        return len(ended)
