"""What a committed transaction tells operators: counters and log lines."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from services.cost.domain.budget import Budget
from services.cost.domain.budget_alert import AlertCause, BudgetAlert
from services.cost.domain.changes import Changes
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
    AlertCause.WARNED: "budget nearly used",
    AlertCause.DEGRADED: "budget degraded by unusual spend",
}


def report(changes: Changes) -> None:
    """Counts what was charged and held, and raises alerts in the log. Call it after the commit."""
    paid: Counter[tuple[str, str]] = Counter()
    for entry in changes.entries:
        if entry.cost > 0:
            paid[entry.purpose.provider, entry.purpose.model] += entry.cost
    for (provider, model), amount in paid.items():
        metrics.COST.labels(_provider(provider), _model(model)).inc(amount)
    for state, count in Counter(hold.state for hold in (*changes.new_holds, *changes.holds)).items():
        metrics.HOLDS.labels(state.name.lower()).inc(count)
    _alert(changes.alerts)


def report_refusals(outcomes: Iterable[object]) -> None:
    """Counts those outcomes that are refusals, once nothing more becomes of them."""
    refused = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, MeshError))
    for reason, count in refused.items():
        metrics.SPEND_REFUSED.labels(reason).inc(count)


def _alert(alerts: Iterable[BudgetAlert]) -> None:
    for alert in alerts:
        metrics.BUDGET_ALERTS.labels(alert.cause.value).inc()
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
