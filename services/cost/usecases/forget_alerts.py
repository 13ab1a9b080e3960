"""Removes alerts of long ago, so that their lists do not grow for ever."""

from datetime import datetime, timedelta
from typing import Final, Protocol

from services.cost.usecases.rounds import make_round
from services.meshkit.core.clock import Clock
from services.meshkit.telemetry.logs import logger

_BATCH: Final = 5_000
_EVERY_SECONDS: Final = 3600.0

log = logger(__name__)


class OldAlerts(Protocol):
    """Alerts of all tenants that may go."""

    async def forget(self, now: datetime, *, keep: timedelta, most: int) -> int:
        """Removes alerts of budgets, and alerts on spend that have ended, older than `keep`; gives how many.

        Args:
            now: by the clock of this replica; the time of the database, if that is earlier, holds.
            most: how many of each one transaction looks at.
        """
        ...


class ForgetAlerts:
    """Removes them in the background. Several replicas may: what one has removed, another does not find.

    Args:
        keep_days: alerts are kept for so many days; 0 keeps them for ever.
    """

    def __init__(self, *, alerts: OldAlerts, clock: Clock, keep_days: int) -> None:
        self._alerts = alerts
        self._clock = clock
        self._keep = timedelta(days=keep_days)

    async def __call__(self) -> None:
        """Looks every hour until cancelled."""
        while self._keep:
            await make_round("old_alerts", self.once, fault="old alerts wait")
            await self._clock.sleep(_EVERY_SECONDS)

    async def once(self) -> int:
        """Removes what is older than it may be; gives how many alerts."""
        removed = 0
        while some := await self._alerts.forget(self._clock.now(), keep=self._keep, most=_BATCH):
            removed += some
        if removed:
            log.info("old alerts removed", alerts=removed)
        return removed
