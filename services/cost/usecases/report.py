"""What a committed transaction tells operators: counters and log lines."""

from collections.abc import Iterable, Sequence
from typing import Final

from services.cost.domain.budget import Budget
from services.cost.domain.hold import Hold
from services.cost.domain.spend_book import AlertCause, BudgetAlert, Changes
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import from_uuid
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)
_model: Final = metrics.BoundedLabel()
_provider: Final = metrics.BoundedLabel(most=30)
_SENTENCES: Final = {
    AlertCause.EXHAUSTED: "budget used up",
    AlertCause.OVERRUN: "budget overrun",
}


def report(changes: Changes, outcomes: Sequence[Hold | MeshError] = ()) -> None:
    """Counts what was charged, held and refused, and raises alerts in the log. Call it after the commit."""
    for entry in changes.entries:
        if entry.cost > 0:
            metrics.COST.labels(_provider(entry.purpose.provider), _model(entry.purpose.model)).inc(entry.cost)
    for hold in (*changes.new_holds, *changes.holds):
        metrics.HOLDS.labels(hold.state.name.lower()).inc()
    for outcome in outcomes:
        if isinstance(outcome, MeshError):
            metrics.SPEND_REFUSED.labels(outcome.reason).inc()
    _alert(changes.alerts)


def _alert(alerts: Iterable[BudgetAlert]) -> None:
    for alert in alerts:
        log.warning(_SENTENCES[alert.cause], **_fields(alert.budget))


def _fields(budget: Budget) -> dict[str, object]:
    return {
        "budget": from_uuid("budget", budget.id),
        "scope": budget.scope.name.lower(),
        "limit_nano_usd": budget.limit,
        "spent_nano_usd": budget.spent,
        "held_nano_usd": budget.held,
        "overrun_nano_usd": budget.overrun,
    }
