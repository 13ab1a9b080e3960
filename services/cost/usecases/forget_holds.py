"""Removes holds of calls that ended long ago, so that the table which every call goes through stays small."""

from datetime import datetime, timedelta
from typing import Final, Protocol

from services.cost.domain.rollup import Step
from services.cost.usecases.rounds import make_round
from services.meshkit.core.clock import Clock
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

_BATCH: Final = 5_000
_EVERY_SECONDS: Final = 3600.0

log = logger(__name__)


class OldHolds(Protocol):
    """Holds of all tenants that may go."""

    async def forget(self, before: datetime, *, most: int) -> int:
        """Removes holds that were made before a moment and are settled, released or assumed; gives how many.

        Charges whose price nobody knew stay, whatever their age, for RepriceEvents to put right.

        Args:
            most: how many one transaction looks at.
        """
        ...


class ForgetHolds:
    """Removes them in the background. Several replicas may: what one has removed, another does not find.

    Until then a repeat of a request finds its hold, late usage corrects what was assumed, and charges are priced anew.

    Args:
        keep_days: holds are kept for so many days; 0 keeps them for ever.
    """

    def __init__(self, *, holds: OldHolds, clock: Clock, keep_days: int) -> None:
        self._holds = holds
        self._clock = clock
        self._keep = timedelta(days=keep_days)

    async def __call__(self) -> None:
        """Looks every hour until cancelled."""
        while self._keep:
            await make_round("old_holds", self.once, fault="old holds wait")
            await self._clock.sleep(_EVERY_SECONDS)

    async def once(self) -> int:
        """Removes what is older than it may be, by whole days of UTC; gives how many holds."""
        before = Step.DAY.floor(self._clock.now() - self._keep)
        removed = await self._holds.forget(before, most=_BATCH)
        if removed:
            metrics.HOLDS_FORGOTTEN.inc(removed)
            log.info("old holds removed", holds=removed, before=before.date().isoformat())
        return removed
