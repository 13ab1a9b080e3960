"""Shows how fast money goes, and whether that is usual."""

from dataclasses import dataclass
from datetime import timedelta

from services.cost.domain.baseline import Baseline, baseline_of
from services.cost.domain.hourly_spend import HOUR, hour_of
from services.cost.domain.spend_alert import AlertState, SpendAlert
from services.cost.domain.velocity import RECENT, Velocity, velocity_of
from services.cost.usecases.forecast_ports import SpendAlerts, SpendReader
from services.cost.usecases.spend_history import SpendHistory
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast money goes, what is usual at this hour, and the alert that is open, if one is."""

    velocity: Velocity
    this_hour: int
    baseline: Baseline | None
    alert: SpendAlert | None


class ShowVelocity:
    """Reads sums of the last day; what is usual comes from the hours before this one."""

    def __init__(
        self, *, reader: SpendReader, history: SpendHistory, alerts: SpendAlerts, clock: Clock, floor: int
    ) -> None:
        self._reader = reader
        self._history = history
        self._alerts = alerts
        self._clock = clock
        self._floor = floor

    async def __call__(self, tenant: TenantId) -> Pace:
        """Tells one tenant's pace."""
        now = self._clock.now()
        hour = hour_of(now)
        starts = (now - RECENT, now - HOUR, now - timedelta(days=1), hour)
        recent, last_hour, day, this_hour = await self._reader.since(tenant, *starts)
        last = await self._alerts.last(tenant)
        return Pace(
            velocity=velocity_of(recent, last_hour, day),
            this_hour=max(0, this_hour),
            baseline=baseline_of(await self._history(tenant, now=now), hour, floor=self._floor),
            alert=last if last is not None and last.state is AlertState.OPEN else None,
        )
