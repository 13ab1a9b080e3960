"""What was spent hour by hour: the ground of baselines and forecasts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

HOUR: Final = timedelta(hours=1)


def hour_of(moment: datetime) -> datetime:
    """Gives the begin of the hour that a moment lies in, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlySpend:
    """Spend of full hours, one after the other without a gap."""

    #: When the first of them begins.
    start: datetime
    #: Nano-USD, each >= 0.
    amounts: tuple[int, ...]

    @classmethod
    def until(cls, end: datetime, sums: Mapping[datetime, int], *, most: int) -> "HourlySpend":
        """Lines up sums by hour, from the first hour in which anything was spent to `end`, at most the last `most`.

        An hour without a sum counts as 0; so does one whose corrections took back more than was charged in it.
        """
        first = max(min(sums, default=end), end - most * HOUR)
        hours = max(0, (end - first) // HOUR)
        return cls(start=first, amounts=tuple(max(0, sums.get(first + at * HOUR, 0)) for at in range(hours)))

    @property
    def end(self) -> datetime:
        """When the last of them ends."""
        return self.start + len(self.amounts) * HOUR

    def extended(self, sums: Mapping[datetime, int], end: datetime, *, most: int) -> "HourlySpend":
        """Goes on to `end` with sums of the hours since; at most the last `most` stay."""
        if not self.amounts:
            return HourlySpend.until(end, sums, most=most)
        hours = (end - self.end) // HOUR
        amounts = self.amounts + tuple(max(0, sums.get(self.end + at * HOUR, 0)) for at in range(hours))
        return HourlySpend(start=end - min(most, len(amounts)) * HOUR, amounts=amounts[-most:])

    def without_last(self) -> "HourlySpend":
        """Leaves out the last hour."""
        return HourlySpend(start=self.start, amounts=self.amounts[:-1])
