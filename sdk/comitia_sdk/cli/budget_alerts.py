"""`comitia budget alerts`: what happened to budgets."""

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.money import label
from comitia_sdk.cli.output import (
    DEFAULT_LIMIT,
    Form,
    FormOption,
    LimitOption,
    dollars,
    moment,
    newest,
    one_line,
    show_rows,
)

if TYPE_CHECKING:
    from comitia.cost.v1.cost_pb2 import BudgetAlert


def alerts(
    budget_id: Annotated[
        str, typer.Argument(metavar="[BUDGET]", help="Only its own, by name or id; of a removed one by id.")
    ] = "",
    limit: LimitOption = DEFAULT_LIMIT,
    output: FormOption = Form.TABLE,
) -> None:
    """Lists what happened to budgets, newest first: that one warned, was used up, overran or was degraded.

    Example:  comitia budget alerts project:atlas
    """
    with client() as mesh:
        found = newest(mesh.costs.budget_alerts(budget_id), limit)
    rows = [(moment(one.create_time), one_line(label(one.budget)), *_told(one), one_line(one.run_id)) for one in found]
    empty = "no budget warned, was used up, overran or was degraded"
    show_rows(output, found, ("when", "budget", "what", "spent then", "run"), rows, empty=empty)


class _Limit(NamedTuple):
    """The limit that an alert is about, as it was then."""

    unit: str
    limit: int
    spent: int
    overrun: int

    def amount(self, number: int) -> str:
        return f"{number} {self.unit}" if self.unit else dollars(number)


def _told(alert: "BudgetAlert") -> tuple[str, str]:
    """Says what happened, and what was spent of the limit that it is about."""
    from comitia.cost.v1.cost_pb2 import BUDGET_MODE_DEGRADE, BudgetAlertCause
    from comitia_sdk.enums import short_name

    budget, limit = alert.budget, _limit(alert)
    what = short_name(BudgetAlertCause, alert.cause)
    if what == "warned":
        what += " at its limit" if limit.spent >= limit.limit else f" at {budget.warn_at_percent} %"
        what += "; only the cheapest models pass" if budget.mode == BUDGET_MODE_DEGRADE else ""
    elif what == "exhausted":
        what = "used up"
    elif what == "overrun":
        what = f"overran by {limit.amount(limit.overrun)}"
    elif what == "degraded":
        what = f"degraded by unusual spend until {moment(budget.degraded_until_time)}"
    if not limit.unit and alert.quota_nano_usd == budget.limit_nano_usd > 0:
        what += " (the limit is the operator's)"
    return what, f"{limit.amount(limit.spent)} of {limit.amount(limit.limit)}"


def _limit(alert: "BudgetAlert") -> _Limit:
    from comitia.cost.v1.cost_pb2 import BUDGET_MEASURE_CALLS, BUDGET_MEASURE_TOKENS, BUDGET_MEASURE_WALL_TIME

    budget = alert.budget
    others = {
        BUDGET_MEASURE_TOKENS: ("tokens", budget.tokens),
        BUDGET_MEASURE_CALLS: ("calls", budget.calls),
        BUDGET_MEASURE_WALL_TIME: ("ms", budget.wall_ms),
    }
    if alert.measure in others:
        unit, gauge = others[alert.measure]
        return _Limit(unit, gauge.limit, gauge.spent, gauge.overrun)
    return _Limit("", budget.limit_nano_usd, budget.spent_nano_usd, budget.overrun_nano_usd)
