"""Alerts on unusual spend: told once, over when it is calm, quiet for the cooldown, and with the one who caused it."""

from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from services.cost.domain.baseline import Baseline, Basis
from services.cost.domain.hourly_spend import HOUR
from services.cost.domain.spend_alert import (
    LONGEST,
    AlertState,
    Cause,
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
from services.cost.domain.velocity import velocity_of
from services.meshkit.core.money import NanoUsd
from tests.support.money import ANNA, MINUTE, NOON

COOLDOWN = timedelta(hours=1)
USUAL = Baseline(basis=Basis.HOUR_OF_WEEK, hours=672, expected=NanoUsd(100), high=NanoUsd(400), calm=NanoUsd(200))
NOBODY = Cause("", NanoUsd(0), NanoUsd(0))
CAUSES = Causes(run=NOBODY, agent=NOBODY, model=NOBODY, project=NOBODY)


def level(spent: int, *, hours: int = 0) -> Level:
    return Level(NOON + hours * HOUR, spent, USUAL)


def an_alert(spent: int = 500) -> SpendAlert:
    return opened(SpendAlertId(uuid4()), ANNA, level(spent), CAUSES, now=NOON + 20 * MINUTE)


def turn(
    last: SpendAlert | None,
    current: Level,
    *,
    now: datetime,
    ended: Level | None = None,
    cooldown: timedelta = COOLDOWN,
) -> Turn:
    return turn_of(last, ended or level(300, hours=-1), current, now=now, cooldown=cooldown)


def test_it_opens_above_the_limit_and_not_at_it() -> None:
    assert turn(None, level(400), now=NOON) is Turn.NOTHING
    assert turn(None, level(401), now=NOON) is Turn.OPENS


def test_without_a_baseline_nothing_opens() -> None:
    assert turn(None, Level(NOON, 10**18, None), now=NOON) is Turn.NOTHING


def test_an_open_alert_is_told_once_and_notes_higher_peaks() -> None:
    alert = an_alert(500)
    assert turn(alert, level(549), now=NOON + 30 * MINUTE) is Turn.NOTHING
    assert turn(alert, level(900, hours=1), now=NOON + HOUR, ended=level(500)) is Turn.RISES
    higher = risen(alert, level(900, hours=1), CAUSES)
    assert (higher.id, higher.opened, higher.spent, higher.hour) == (alert.id, alert.opened, 900, NOON + HOUR)
    assert higher.revision == alert.revision + 1


def test_it_is_over_after_a_full_calm_hour_and_not_between_the_limits() -> None:
    alert, now = an_alert(), NOON + 2 * HOUR + MINUTE
    assert turn(alert, level(0, hours=2), now=now, ended=level(300, hours=1)) is Turn.NOTHING
    assert turn(alert, level(401, hours=2), now=now, ended=level(199, hours=1)) is Turn.NOTHING
    assert turn(alert, level(300, hours=2), now=now, ended=level(199, hours=1)) is Turn.ENDS


def test_a_calm_hour_before_it_opened_ends_nothing() -> None:
    assert turn(an_alert(), level(0), now=NOON + 30 * MINUTE, ended=level(0, hours=-1)) is Turn.NOTHING


def test_the_next_one_waits_for_the_cooldown() -> None:
    last = closed(an_alert(), now=NOON + 2 * HOUR)
    assert (last.state, last.closed) == (AlertState.CLOSED, NOON + 2 * HOUR)
    assert turn(last, level(900, hours=2), now=NOON + 2 * HOUR + 59 * MINUTE) is Turn.NOTHING
    assert turn(last, level(900, hours=3), now=NOON + 3 * HOUR) is Turn.OPENS


def test_what_lasts_for_a_day_is_told_again() -> None:
    alert = an_alert()
    late = alert.opened + LONGEST
    assert turn(alert, level(900, hours=24), now=late, ended=level(900, hours=23)) is Turn.ENDS


def test_a_clock_that_jumps_back_closes_nothing_before_it_opened() -> None:
    assert closed(an_alert(), now=NOON - HOUR).closed == NOON + 20 * MINUTE


def test_the_cause_is_whoever_is_furthest_above_the_usual() -> None:
    usual = {"steady": 900, "new": 0}
    assert cause_of({"steady": 950, "new": 500, "small": 20}, usual) == Cause("new", NanoUsd(500), NanoUsd(0))
    assert cause_of({}, usual) == NOBODY
    assert cause_of({"b": 5, "a": 5}, {}).name == "a"


@settings(max_examples=300, deadline=None)
@given(spends=st.lists(st.integers(0, 1000), min_size=1, max_size=80), cooldown=st.integers(0, 5))
def test_two_alerts_are_never_open_at_once_nor_closer_than_the_cooldown(spends: list[int], cooldown: int) -> None:
    quiet = timedelta(hours=cooldown)
    last: SpendAlert | None = None
    told: list[SpendAlert] = []
    for hour, spent in enumerate(spends):
        now = NOON + hour * HOUR + 59 * MINUTE
        current, ended = level(spent, hours=hour), level(spends[hour - 1] if hour else 0, hours=hour - 1)
        match turn(last, current, now=now, ended=ended, cooldown=quiet):
            case Turn.OPENS:
                last = opened(SpendAlertId(UUID(int=hour)), ANNA, current, CAUSES, now=now)
                told.append(last)
            case Turn.RISES if last is not None:
                told[-1] = last = risen(last, current, CAUSES)
            case Turn.ENDS if last is not None:
                told[-1] = last = closed(last, now=now)
            case _:
                pass
    for earlier, later in pairwise(told):
        assert earlier.closed is not None
        assert later.opened >= earlier.closed + quiet
    assert all(alert.spent > USUAL.high for alert in told)
    if told and not cooldown:
        # Without a cooldown, each unusual hour lies within an alert.
        for hour, spent in enumerate(spends):
            now = NOON + hour * HOUR + 59 * MINUTE
            if spent > USUAL.high:
                assert any(one.opened <= now and (one.closed is None or now <= one.closed + HOUR) for one in told)


def test_velocity_is_money_a_minute() -> None:
    velocity = velocity_of(500, 6_000, 144_000)
    assert (velocity.now, velocity.hour, velocity.day) == (100, 100, 100)
    assert velocity_of(-5, -1, 0).now == 0
