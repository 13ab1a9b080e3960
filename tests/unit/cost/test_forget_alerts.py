"""Alerts of long ago go, however many they are."""

import asyncio
from datetime import datetime, timedelta

import pytest

from services.cost.usecases.forget_alerts import ForgetAlerts
from services.meshkit.testing.fake_clock import FakeClock

DAY = timedelta(days=1)


class Alerts:
    """Alerts by their age, removed so many at once as one transaction looks at."""

    def __init__(self, *ages: int, clock: FakeClock) -> None:
        self.made = sorted(clock.now() - age * DAY for age in ages)

    async def forget(self, now: datetime, *, keep: timedelta, most: int) -> int:
        old = [made for made in self.made[:most] if made < now - keep]
        self.made = self.made[len(old) :]
        return len(old)


async def test_all_that_is_older_than_it_may_be_goes_and_the_rest_stays() -> None:
    clock = FakeClock()
    alerts = Alerts(*(11 for _ in range(12_000)), 10, 9, clock=clock)
    assert await ForgetAlerts(alerts=alerts, clock=clock, keep_days=10).once() == 12_000
    assert len(alerts.made) == 2


async def test_it_looks_again_each_hour() -> None:
    clock = FakeClock()
    alerts = Alerts(10, clock=clock)
    working = asyncio.ensure_future(ForgetAlerts(alerts=alerts, clock=clock, keep_days=10)())
    await clock.until_someone_sleeps()
    assert len(alerts.made) == 1
    clock.advance(seconds=3601)
    await clock.until_someone_sleeps()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert alerts.made == []


async def test_zero_days_keep_them_for_ever() -> None:
    clock = FakeClock()
    alerts = Alerts(100_000, clock=clock)
    await ForgetAlerts(alerts=alerts, clock=clock, keep_days=0)()
    assert len(alerts.made) == 1
