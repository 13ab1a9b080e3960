"""Watching with fakes: hours are read once, and several replicas tell once."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from services.cost.domain.baseline import MOST_HOURS
from services.cost.domain.hourly_spend import HOUR, hour_of
from services.cost.domain.spend_alert import AlertState, SpendAlert
from services.cost.domain.use_history import Use
from services.cost.usecases.forecast_ports import WHOLE, Shares, Spender, SpendPart
from services.cost.usecases.spend_history import SpendHistory
from services.cost.usecases.watch_spend import WatchSpend
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.money import ANNA, BERT

DOLLAR = 10**9


class Ledger:
    """Charges in memory, as a `SpendReader` and a `WatchedTenants`."""

    def __init__(self) -> None:
        self.charges: list[tuple[TenantId, datetime, int, str]] = []
        #: How many hours each look at the past asked for.
        self.asked: list[int] = []

    def charge(self, tenant: TenantId, at: datetime, cost: int, name: str = "usual") -> None:
        self.charges.append((tenant, at, cost, name))

    async def hourly(
        self, tenant: TenantId, *, start: datetime, end: datetime, part: SpendPart = WHOLE
    ) -> dict[datetime, int]:
        assert part == WHOLE
        self.asked.append((end - start) // HOUR)
        sums: Counter[datetime] = Counter()
        for whose, at, cost, _ in self.charges:
            if whose == tenant and start <= at < end:
                sums[hour_of(at)] += cost
        return dict(sums)

    async def since(self, tenant: TenantId, *starts: datetime) -> tuple[int, ...]:
        return tuple(
            sum(cost for whose, at, cost, _ in self.charges if whose == tenant and at >= start) for start in starts
        )

    async def shares(self, tenant: TenantId, by: Spender, *, hour: datetime, start: datetime) -> Shares:
        since, before = Counter[str](), Counter[str]()
        for whose, at, cost, name in self.charges:
            if whose == tenant and at >= start:
                (since if at >= hour else before)[f"{by}-{name}"] += cost
        return Shares(since=since, before=before)

    async def uses(self, tenant: TenantId, *, start: datetime, end: datetime) -> list[Use]:
        raise NotImplementedError

    async def spending(self, *, since: datetime) -> list[TenantId]:
        return sorted({whose for whose, at, _, _ in self.charges if at >= since})


class Alerts:
    """Alerts in memory, as a `SpendAlerts`: one open, and changes only of what was seen."""

    def __init__(self) -> None:
        self.kept: dict[UUID, SpendAlert] = {}
        self.told: list[tuple[TenantId, AlertState]] = []

    async def last(self, tenant: TenantId) -> SpendAlert | None:
        mine = [alert for alert in self.kept.values() if alert.tenant == tenant]
        return max(mine, key=lambda alert: alert.opened, default=None)

    async def page(self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None) -> list[SpendAlert]:
        raise NotImplementedError

    async def open(self, alert: SpendAlert, *, now: datetime) -> SpendAlert | None:
        if any(one.tenant == alert.tenant and one.state is AlertState.OPEN for one in self.kept.values()):
            return None
        self.kept[alert.id] = alert
        self.told.append((alert.tenant, alert.state))
        return alert

    async def rise(self, alert: SpendAlert, *, now: datetime) -> SpendAlert | None:
        return self._change(alert)

    async def close(self, alert: SpendAlert) -> SpendAlert | None:
        changed = self._change(alert)
        if changed is not None:
            self.told.append((alert.tenant, alert.state))
        return changed

    def _change(self, alert: SpendAlert) -> SpendAlert | None:
        if self.kept[alert.id].revision != alert.revision - 1:
            return None
        self.kept[alert.id] = alert
        return alert


def a_watch(ledger: Ledger, alerts: Alerts, clock: FakeClock) -> WatchSpend:
    return WatchSpend(
        tenants=ledger,
        reader=ledger,
        history=SpendHistory(ledger),
        alerts=alerts,
        clock=clock,
        ids=SystemIds(),
        floor=DOLLAR // 20,
        cooldown=timedelta(hours=1),
        every_seconds=60,
    )


def a_steady_past(ledger: Ledger, tenant: TenantId, clock: FakeClock, *, hours: int = 72) -> None:
    hour = hour_of(clock.now())
    for at in range(1, hours + 1):
        ledger.charge(tenant, hour - at * HOUR, DOLLAR)


async def test_two_replicas_tell_of_a_spike_once_and_of_its_end_once() -> None:
    ledger, alerts, clock = Ledger(), Alerts(), FakeClock()
    for tenant in (ANNA, BERT):
        a_steady_past(ledger, tenant, clock)
    replicas = [a_watch(ledger, alerts, clock) for _ in range(2)]
    ledger.charge(ANNA, clock.now(), 50 * DOLLAR, "wild")
    ledger.charge(BERT, clock.now(), DOLLAR)
    for replica in replicas:
        await replica.once()
    assert alerts.told == [(ANNA, AlertState.OPEN)]
    (alert,) = alerts.kept.values()
    names = [alert.causes.run.name, alert.causes.agent.name, alert.causes.model.name, alert.causes.project.name]
    assert names == ["run-wild", "agent-wild", "model-wild", "project-wild"]
    for _ in range(3):
        clock.advance(seconds=3600)
        ledger.charge(ANNA, clock.now(), DOLLAR // 10)
        for replica in replicas:
            await replica.once()
    assert alerts.told == [(ANNA, AlertState.OPEN), (ANNA, AlertState.CLOSED)]


async def test_a_peak_is_noted_when_it_rises_by_a_tenth_and_only_by_who_saw_the_last() -> None:
    ledger, alerts, clock = Ledger(), Alerts(), FakeClock()
    a_steady_past(ledger, ANNA, clock)
    watch = a_watch(ledger, alerts, clock)
    ledger.charge(ANNA, clock.now(), 50 * DOLLAR)
    opened = await watch.watch(ANNA)
    assert opened is not None
    ledger.charge(ANNA, clock.now(), 4 * DOLLAR)
    assert await watch.watch(ANNA) is None
    ledger.charge(ANNA, clock.now(), 2 * DOLLAR)
    risen = await watch.watch(ANNA)
    assert risen is not None
    assert (risen.spent, risen.revision) == (56 * DOLLAR, 2)
    assert await alerts.rise(replace(opened, revision=2), now=clock.now()) is None
    assert alerts.told == [(ANNA, AlertState.OPEN)]


async def test_the_past_is_read_once_and_then_hour_by_hour() -> None:
    ledger, clock = Ledger(), FakeClock()
    a_steady_past(ledger, ANNA, clock)
    history = SpendHistory(ledger)
    first = await history(ANNA, now=clock.now())
    assert await history(ANNA, now=clock.now() + timedelta(minutes=1)) is first
    ledger.charge(ANNA, clock.now(), 7)
    clock.advance(seconds=2 * 3600)
    later = await history(ANNA, now=clock.now())
    assert ledger.asked == [MOST_HOURS, 2]
    assert later.amounts[-3:] == (DOLLAR, 7, 0)
    assert later.end == hour_of(clock.now())
    assert later == await SpendHistory(ledger)(ANNA, now=clock.now())


async def test_a_clock_that_jumps_back_has_the_past_read_anew() -> None:
    ledger, clock = Ledger(), FakeClock()
    a_steady_past(ledger, ANNA, clock)
    history = SpendHistory(ledger)
    await history(ANNA, now=clock.now())
    back = clock.now() - 5 * HOUR
    assert (await history(ANNA, now=back)).end == hour_of(back)


async def test_who_never_spent_has_no_hours_and_no_alert() -> None:
    ledger, alerts, clock = Ledger(), Alerts(), FakeClock()
    watch = a_watch(ledger, alerts, clock)
    assert await watch.watch(ANNA) is None
    clock.advance(seconds=3600)
    assert await watch.watch(ANNA) is None
    assert alerts.told == []
