"""Watches what tenants spend, and tells of what is unusual."""

import asyncio
from datetime import datetime, timedelta
from typing import Final

from services.cost.domain.baseline import baseline_of
from services.cost.domain.hourly_spend import HOUR, hour_of
from services.cost.domain.spend_alert import (
    Causes,
    Level,
    SpendAlert,
    SpendAlertId,
    Turn,
    cause_of,
    closed,
    opened,
    risen,
    turn_of,
)
from services.cost.usecases.forecast_ports import SpendAlerts, Spender, SpendReader, WatchedTenants
from services.cost.usecases.rounds import for_each, make_round
from services.cost.usecases.spend_history import SpendHistory
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource, from_uuid
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: What spenders spend on average is taken from the week before.
_USUAL: Final = timedelta(days=7)
_NOT_WATCHED: Final = "spend is not watched"

log = logger(__name__)


class WatchSpend:
    """Opens an alert when a tenant's hour is unusual, notes higher peaks, and ends it when it is calm.

    Several replicas may watch: only one of them writes what is new.

    Args:
        floor: amount that nobody needs to hear of, nano-USD.
        cooldown: how long after an alert none opens.
    """

    def __init__(
        self,
        *,
        tenants: WatchedTenants,
        reader: SpendReader,
        history: SpendHistory,
        alerts: SpendAlerts,
        clock: Clock,
        ids: IdSource,
        floor: int,
        cooldown: timedelta,
        every_seconds: float,
    ) -> None:
        self._tenants = tenants
        self._reader = reader
        self._history = history
        self._alerts = alerts
        self._clock = clock
        self._ids = ids
        self._floor = floor
        self._cooldown = cooldown
        self._every_seconds = every_seconds

    async def __call__(self) -> None:
        """Watches until cancelled; what cannot be watched now is looked at again in the next round."""
        while True:
            await make_round("watch", self.once, fault=_NOT_WATCHED)
            await self._clock.sleep(self._every_seconds)

    async def once(self) -> None:
        """Looks at everybody who spent in this hour or the last, one after the other."""
        tenants = await self._tenants.spending(since=hour_of(self._clock.now()) - HOUR)
        await for_each("watch", tenants, self.watch, fault=_NOT_WATCHED)

    async def watch(self, tenant: TenantId) -> SpendAlert | None:
        """Looks at one tenant; gives its alert if something became of it."""
        now = self._clock.now()
        hour = hour_of(now)
        history = await self._history(tenant, now=now)
        last = await self._alerts.last(tenant)
        (spent,) = await self._reader.since(tenant, hour)
        current = Level(hour, spent, baseline_of(history, hour, floor=self._floor))
        ended = Level(
            hour - HOUR,
            history.amounts[-1] if history.amounts else 0,
            baseline_of(history.without_last(), hour - HOUR, floor=self._floor),
        )
        match turn_of(last, ended, current, now=now, cooldown=self._cooldown):
            case Turn.OPENS:
                causes = await self._causes(tenant, hour)
                made = opened(SpendAlertId(self._ids.uuid()), tenant, current, causes, now=now)
                return self._report("unusual spend", "opened", await self._alerts.open(made, now=now))
            case Turn.RISES if last is not None:
                higher = risen(last, current, await self._causes(tenant, hour))
                return self._report("unusual spend rises", "risen", await self._alerts.rise(higher, now=now))
            case Turn.ENDS if last is not None:
                return self._report("spend is usual again", "closed", await self._alerts.close(closed(last, now=now)))
            case _:
                return None

    async def _causes(self, tenant: TenantId, hour: datetime) -> Causes:
        shares = await asyncio.gather(
            *(self._reader.shares(tenant, by, hour=hour, start=hour - _USUAL) for by in Spender)
        )
        hours = _USUAL // HOUR
        found = {
            by.value: cause_of(share.since, {name: spent // hours for name, spent in share.before.items()})
            for by, share in zip(Spender, shares, strict=True)
        }
        return Causes(**found)

    def _report(self, sentence: str, event: str, alert: SpendAlert | None) -> SpendAlert | None:
        if alert is None:
            return None
        metrics.SPEND_ALERTS.labels(event).inc()
        log.warning(
            sentence,
            alert=from_uuid("alert", alert.id),
            spent_nano_usd=alert.spent,
            expected_nano_usd=alert.expected,
            run=alert.causes.run.name,
            budgets_degraded=len(alert.degraded),
        )
        return alert
