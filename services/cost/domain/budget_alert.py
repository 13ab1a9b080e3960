"""What people should know about budgets: what happened to which limit, when, and by whose call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType
from uuid import UUID

from services.cost.domain.amounts import Measure
from services.cost.domain.budget import Budget, Warned

BudgetAlertId = NewType("BudgetAlertId", UUID)

_FULL: Final = 100


class AlertCause(StrEnum):
    """What happened to a budget that people should know."""

    #: A call was refused when nearly all was spent.
    EXHAUSTED = "exhausted"
    #: A settlement or a lowered limit took it beyond its limit.
    OVERRUN = "overrun"
    #: What is spent has reached the level from which it warns, or the limit of a soft one.
    WARNED = "warned"
    #: Unusual spend has it let only the cheapest models through for a while.
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAlert:
    """Something that people should know about a budget."""

    id: BudgetAlertId
    #: As it was then.
    budget: Budget
    cause: AlertCause
    #: Which of its limits it is about.
    measure: Measure
    at: datetime
    #: The run whose call caused it; empty: no call did, or it is not known.
    run_id: str = ""


def alerts_of(
    before: Budget, after: Budget, *, run_id: str, now: datetime, new_id: Callable[[], UUID]
) -> Sequence[BudgetAlert]:
    """Tells what people should know of a change of a budget.

    Args:
        run_id: whose call changed it; empty if no call did.
        new_id: makes UUIDv7s.
    """
    overruns, warns = after.overran and not before.overran, after.warned > before.warned
    if not (overruns or warns):
        # Nearly every change comes by here.
        return ()
    told: list[tuple[AlertCause, Measure]] = []
    if overruns:
        told.append((AlertCause.OVERRUN, next(measure for measure, gauge in after.gauges if gauge.overrun)))
    if warns:
        percent = _FULL if after.warned is Warned.FULL else after.warn_at
        reached = (measure for measure, gauge in after.gauges if gauge.reached(percent, also_held=False))
        told.append((AlertCause.WARNED, next(reached)))
    return [
        BudgetAlert(id=BudgetAlertId(new_id()), budget=after, cause=cause, measure=measure, at=now, run_id=run_id)
        for cause, measure in told
    ]
