"""Keeps the sums of the ledger up to date, and removes what is old."""

from datetime import timedelta
from typing import Final

from services.cost.domain.rollup import Step
from services.cost.usecases.ledger_ports import Rollups
from services.cost.usecases.rounds import make_round
from services.meshkit.core.clock import Clock
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Entries of one transaction, so that none keeps others from vacuuming for long.
_BATCH: Final = 20_000
_FORGET_BATCH: Final = 5_000
_FORGET_EVERY: Final = timedelta(hours=1)

log = logger(__name__)


class RollUp:
    """Adds the ledger up in the background. Several replicas may: one at a time does.

    Args:
        keep_days: entries are kept for so many days; 0 keeps them for ever. Their sums stay.
    """

    def __init__(self, *, rollups: Rollups, clock: Clock, every_seconds: float, keep_days: int) -> None:
        self._rollups = rollups
        self._clock = clock
        self._every_seconds = every_seconds
        self._keep = timedelta(days=keep_days)
        self._forget_next = clock.now()

    async def __call__(self) -> None:
        """Adds up until cancelled. While it cannot, reports read the entries themselves."""
        while True:
            await make_round("roll_up", self._round, fault="sums of the ledger wait")
            await self._clock.sleep(self._every_seconds)

    async def _round(self) -> None:
        while await self.once():
            pass
        if self._keep and self._clock.now() >= self._forget_next:
            await self.forget()
            self._forget_next = self._clock.now() + _FORGET_EVERY

    async def once(self) -> int:
        """Adds up one batch; gives how many entries it added."""
        added = await self._rollups.add_up(most=_BATCH)
        if added:
            metrics.COST_EVENTS_ROLLED_UP.inc(added)
        return added

    async def forget(self) -> int:
        """Removes the entries of days that are long past and added up; gives how many."""
        before = Step.DAY.floor(self._clock.now() - self._keep)
        await self._rollups.keep_from(before)
        removed = 0
        while some := await self._rollups.forget(before, most=_FORGET_BATCH):
            removed += some
        if removed:
            metrics.COST_EVENTS_FORGOTTEN.inc(removed)
            log.info("old entries of the ledger removed", entries=removed, before=before.date().isoformat())
        return removed
