"""What tenants spent hour by hour, remembered: only hours that have ended since are read."""

from collections import OrderedDict
from datetime import datetime
from typing import Final

from services.cost.domain.baseline import MOST_HOURS
from services.cost.domain.hourly_spend import HOUR, HourlySpend, hour_of
from services.cost.usecases.forecast_ports import SpendReader
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.metrics import show_size

#: Tenants whose hours are remembered: 11 KB each.
_MOST_KEPT: Final = 2_000


class SpendHistory:
    """Gives the full hours of the last eight weeks. The ledger is only added to, so what was read stays so."""

    def __init__(self, reader: SpendReader) -> None:
        self._reader = reader
        self._kept: OrderedDict[TenantId, HourlySpend] = OrderedDict()
        show_size("cost.spend_history", self._kept)

    async def __call__(self, tenant: TenantId, *, now: datetime) -> HourlySpend:
        """Gives the hours before the one that `now` lies in."""
        hour = hour_of(now)
        kept = self._kept.get(tenant)
        if kept is None or kept.end > hour or kept.end < hour - MOST_HOURS * HOUR:
            sums = await self._reader.hourly(tenant, start=hour - MOST_HOURS * HOUR, end=hour)
            kept = HourlySpend.until(hour, sums, most=MOST_HOURS)
        elif kept.end < hour:
            kept = kept.extended(await self._reader.hourly(tenant, start=kept.end, end=hour), hour, most=MOST_HOURS)
        self._kept[tenant] = kept
        self._kept.move_to_end(tenant)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return kept
