"""`comitia costs watch|alerts|forecast|recommend` and `comitia budget on-spike`: where spend is heading."""

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.money import label
from comitia_sdk.cli.output import (
    DEFAULT_LIMIT,
    Form,
    FormOption,
    LimitOption,
    as_json,
    dollars,
    moment,
    newest,
    one_line,
    show_one,
    show_rows,
)

if TYPE_CHECKING:
    from comitia.cost.v1.forecast_pb2 import SpendAlert, SpendForecast
    from comitia.cost.v1.forecast_service_pb2 import GetSpendVelocityResponse
    from comitia_sdk.sync import Client

_CENT: Final = 10_000_000
_WHICH: Final = "`tenant`, `project:NAME`, `agent:NAME`, `run:RUN` or `budget_…`."
_ADVICE: Final = {
    "cheaper_model": "take a cheaper model",
    "prompt_caching": "cache prompts",
    "prompt_trimming": "shorten prompts",
    "batch_class": "use the batch class",
}


def watch(
    every: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Look again after so long.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Shows how fast money goes, where the month will end, and what is unusual, until you interrupt it.

    Example:  comitia costs watch --every 30
    """
    told = ""
    with client() as mesh:
        while True:
            pace, month = mesh.forecasts.velocity(), mesh.forecasts.forecast()
            if output is Form.JSON:
                typer.echo(json.dumps({"velocity": as_json(pace), "forecast": as_json(month)}, ensure_ascii=True))
            else:
                typer.echo(f"{datetime.now(UTC):%H:%M:%SZ}  {_pace(pace)}")
                typer.echo(f"{'':9}  {_this_hour(pace)}; this month {_so_far(month)}")
                alarm = pace.alert.alert_id and _alarm(pace.alert)
                if alarm and alarm != told:
                    typer.secho(f"  {alarm}", fg=typer.colors.RED)
                elif told and not alarm:
                    typer.secho("  spend is usual again", fg=typer.colors.GREEN)
                told = alarm
            if once:
                return
            time.sleep(every)


def alerts(limit: LimitOption = DEFAULT_LIMIT, output: FormOption = Form.TABLE) -> None:
    """Lists times of unusual spend, newest first, and who caused them.

    Example:  comitia costs alerts
    """
    with client() as mesh:
        found = newest(mesh.forecasts.alerts(), limit)
    rows = [
        (
            moment(one.open_time),
            moment(one.close_time) or "open",
            _money(one.spent_nano_usd),
            _money(one.expected_nano_usd),
            one_line(one.run.name),
            one_line(one.agent.name),
            one_line(one.model.name),
            str(len(one.degraded_budget_ids) or ""),
        )
        for one in found
    ]
    columns = ("from", "until", "in an hour", "usual", "run", "agent", "model", "budgets degraded")
    show_rows(output, found, columns, rows, empty="no spend was unusual")


def forecast(
    budget_id: Annotated[
        str, typer.Option("--budget", metavar="BUDGET", help=f"In the period of this budget: {_WHICH}")
    ] = "",
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Time zone of the month, such as Europe/Berlin.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Forecasts what will have been spent at the end of this month, or of a budget's period.

    Example:  comitia costs forecast --budget project:atlas
    """
    with client() as mesh:
        found = mesh.forecasts.forecast(budget_id=budget_id, zone=zone)
    lines = [
        ("from", moment(found.start_time)),
        ("until", moment(found.end_time)),
        ("spent", _money(found.spent_nano_usd)),
        ("at the end", _end(found)),
        ("limit", _money(found.limit_nano_usd) if found.HasField("limit_nano_usd") else ""),
        ("rests on", f"{found.day_count} days of the past"),
    ]
    show_one(output, found, lines)


def recommend(output: FormOption = Form.TABLE) -> None:
    """Lists ways to spend less, by what they would have saved on your own calls.

    Example:  comitia costs recommend
    """
    from comitia.cost.v1.forecast_pb2 import RecommendationKind
    from comitia_sdk.enums import short_name

    with client() as mesh:
        found = list(mesh.forecasts.recommendations())
    rows = [
        (
            _ADVICE.get(short_name(RecommendationKind, one.kind), "another way"),
            one_line(one.agent_name),
            one_line(one.model),
            one_line(one.other_model),
            _money(one.saving_nano_usd_per_month),
            f"{_money(one.low_nano_usd_per_month)} to {_money(one.high_nano_usd_per_month)}",
            str(one.event_count),
            one_line(one.assumption),
        )
        for one in found
    ]
    columns = ("what", "agent", "model", "instead", "saves a month", "nine in ten", "calls", "if")
    empty = "nothing to recommend: it takes seven days of calls, and 10 cents a month to save"
    show_rows(output, found, columns, rows, empty=empty)


def on_spike(
    budget_id: Annotated[str, typer.Argument(metavar="[BUDGET]", help=f"{_WHICH} Without it, rules are listed.")] = "",
    minutes: Annotated[
        int, typer.Option(min=0, max=10_080, metavar="MINUTES", help="Degrade it for so long; 0 takes the rule away.")
    ] = 60,
    output: FormOption = Form.TABLE,
) -> None:
    """Has unusual spend degrade a budget: only the cheapest models pass for a while. Lists such rules.

    Example:  comitia budget on-spike agent:Loki --minutes 30
    """
    with client() as mesh:
        if budget_id:
            rule = mesh.forecasts.set_spike_rule(budget_id, minutes * 60)
            say = f"degrades it for {rule.degrade_seconds // 60} minutes" if rule.degrade_seconds else "no rule"
            show_one(output, rule, [("budget", rule.budget_id), ("unusual spend", say)])
            return
        found = list(mesh.forecasts.spike_rules())
        rows = [
            (one.budget_id, f"{one.degrade_seconds // 60} minutes", _of(mesh, one.budget_id))
            for one in (found if output is Form.TABLE else ())
        ]
    show_rows(output, found, ("budget", "degraded for", "of"), rows, empty="unusual spend degrades no budget")


def _of(mesh: "Client", budget_id: str) -> str:
    from comitia_sdk.errors import NotFound

    try:
        return label(mesh.costs.budget(budget_id))
    except NotFound:
        return "removed"


def _pace(pace: "GetSpendVelocityResponse") -> str:
    rates = (pace.now_nano_usd_per_minute, pace.hour_nano_usd_per_minute, pace.day_nano_usd_per_minute)
    now, hour, day = map(_money, rates)
    return f"a minute costs {now} now, {hour} over the last hour, {day} over the last day"


def _this_hour(pace: "GetSpendVelocityResponse") -> str:
    usual = "what is usual is known after two days"
    if pace.HasField("baseline"):
        usual = f"usual {_money(pace.baseline.expected_nano_usd)}, up to {_money(pace.baseline.high_nano_usd)}"
    return f"this hour {_money(pace.this_hour_nano_usd)} ({usual})"


def _so_far(forecast: "SpendForecast") -> str:
    spent = f"{_money(forecast.spent_nano_usd)} so far"
    return f"{spent}, {_end(forecast)} at its end" if forecast.HasField("expected_nano_usd") else spent


def _end(forecast: "SpendForecast") -> str:
    if not forecast.HasField("expected_nano_usd"):
        return "not known yet; a forecast takes two days of spend"
    low, high = _money(forecast.low_nano_usd), _money(forecast.high_nano_usd)
    return f"{_money(forecast.expected_nano_usd)} (nine in ten: {low} to {high})"


def _alarm(alert: "SpendAlert") -> str:
    causes = [("run", alert.run), ("agent", alert.agent), ("model", alert.model)]
    named = ", ".join(f"{kind} {one_line(cause.name)}" for kind, cause in causes if cause.name)
    spent, usual = _money(alert.spent_nano_usd), _money(alert.expected_nano_usd)
    return f"unusual since {moment(alert.open_time)}: {spent} in an hour, usually {usual}; {named or 'by nobody named'}"


def _money(nano_usd: int) -> str:
    """Writes money to the cent, and less than that in full."""
    return f"${nano_usd / 10**9:,.2f}" if abs(nano_usd) >= _CENT else dollars(nano_usd)
