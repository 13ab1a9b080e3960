"""Alerts on unusual spend: when one opens, what it tells, and when it is over.

       hour above `high`, and no alert within the cooldown
none ───────────────────────────────────────────────────▶ open ─▶ closed
                                                          ▲ │     (a full hour below `calm`, or open for a day)
                                                          └─┘ a higher peak is noted, nobody is told again
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, NewType, TypedDict
from uuid import UUID

from services.cost.domain.baseline import Baseline, Basis
from services.cost.domain.hourly_spend import hour_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

SpendAlertId = NewType("SpendAlertId", UUID)

#: What goes on for longer is told of again.
LONGEST: Final = timedelta(days=1)
#: A peak is noted when it is higher by so much.
_NOTED_PERCENT: Final = 10


class AlertState(IntEnum):
    """Where an alert is in its life."""

    OPEN = 1
    CLOSED = 2


@dataclass(frozen=True, slots=True)
class Cause:
    """Who spent most beyond the usual; the name is empty when calls say none."""

    name: str
    #: What it spent in that hour.
    spent: NanoUsd
    #: What it spends in an hour on average.
    usual: NanoUsd


@dataclass(frozen=True, slots=True, kw_only=True)
class Causes:
    """Who is behind an unusual hour."""

    run: Cause
    agent: Cause
    model: Cause
    project: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendAlert:
    """One time of unusual spend."""

    id: SpendAlertId
    tenant: TenantId
    state: AlertState = AlertState.OPEN
    opened: datetime
    closed: datetime | None = None
    #: The hour that cost most so far, what it cost, and what it was compared with.
    hour: datetime
    spent: NanoUsd
    expected: NanoUsd
    high: NanoUsd
    basis: Basis
    causes: Causes
    #: Budgets that its rules have degraded.
    degraded: tuple[UUID, ...] = ()
    #: Grows by one with each change.
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Level:
    """What an hour cost, and what it usually costs."""

    hour: datetime
    spent: int
    baseline: Baseline | None

    @property
    def unusual(self) -> bool:
        """True when it costs more than it ever should. An hour that is not over can only rise."""
        return self.baseline is not None and self.spent > self.baseline.high

    @property
    def calm(self) -> bool:
        """True when it costs clearly less than what is unusual."""
        return self.baseline is None or self.spent < self.baseline.calm


class _Peak(TypedDict):
    hour: datetime
    spent: NanoUsd
    expected: NanoUsd
    high: NanoUsd
    basis: Basis


class Turn(IntEnum):
    """What becomes of a tenant's alert."""

    NOTHING = 0
    OPENS = 1
    #: It has a higher peak to note.
    RISES = 2
    ENDS = 3


def turn_of(last: SpendAlert | None, ended: Level, current: Level, *, now: datetime, cooldown: timedelta) -> Turn:
    """Tells what becomes of a tenant's last alert, if it has one.

    Args:
        ended: the last full hour.
        current: the hour in progress.
        cooldown: how long after an alert none opens.
    """
    if last is None or last.closed is not None:
        quiet = last is not None and last.closed is not None and now < last.closed + cooldown
        return Turn.OPENS if current.unusual and not quiet else Turn.NOTHING
    calm = ended.hour >= hour_of(last.opened) and ended.calm and not current.unusual
    if calm or now >= last.opened + LONGEST:
        return Turn.ENDS
    rises = current.unusual and current.spent * 100 >= last.spent * (100 + _NOTED_PERCENT)
    return Turn.RISES if rises else Turn.NOTHING


def opened(new: SpendAlertId, tenant: TenantId, level: Level, causes: Causes, *, now: datetime) -> SpendAlert:
    """Opens an alert on an unusual hour."""
    return SpendAlert(id=new, tenant=tenant, opened=now, causes=causes, **_peak(level))


def risen(alert: SpendAlert, level: Level, causes: Causes) -> SpendAlert:
    """Notes a higher peak, and who is behind it."""
    return replace(alert, causes=causes, revision=alert.revision + 1, **_peak(level))


def closed(alert: SpendAlert, *, now: datetime) -> SpendAlert:
    """Ends an alert."""
    return replace(alert, state=AlertState.CLOSED, closed=max(now, alert.opened), revision=alert.revision + 1)


def _peak(level: Level) -> _Peak:
    if level.baseline is None:
        raise ValueError("without a baseline nothing is unusual")
    return _Peak(
        hour=level.hour,
        spent=NanoUsd(level.spent),
        expected=level.baseline.expected,
        high=level.baseline.high,
        basis=level.baseline.basis,
    )


def cause_of(spent: Mapping[str, int], usual: Mapping[str, int]) -> Cause:
    """Finds whose spend is furthest above its usual one; the first by name among equals.

    Args:
        spent: by name, in the hour in question.
        usual: by name, on average in an hour before it.
    """
    name = min(spent, key=lambda one: (usual.get(one, 0) - spent[one], one), default="")
    return Cause(name, NanoUsd(spent.get(name, 0)), NanoUsd(usual.get(name, 0)))
