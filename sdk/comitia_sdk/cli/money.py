"""`comitia budget`: how much may be spent."""

from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, moment, one_line, show_json, show_one, show_rows
from comitia_sdk.cli.reading import EXIT_USAGE, CommandFailed, read_dollars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comitia.cost.v1.budget_service_pb2 import GetBudgetStatusResponse
    from comitia.cost.v1.cost_pb2 import Budget, BudgetGauge
    from comitia_sdk.sync import Client

app = typer.Typer(
    no_args_is_help=True, help="Limits on what is spent: of the tenant, projects, agents, runs and steps."
)

_WHICH: Final = "`tenant`, `project:NAME`, `agent:NAME`, `run:RUN`, `step:RUN/PATH`, or `budget_…`."
_BAR: Final = 20
_NODES: Final = ("project", "agent", "step")
_MOST_SEEN: Final = 5
_SUCH_AS: Final = {"project": "atlas", "agent": "Athena", "step": "run_…/rounds/2"}
Which = Annotated[str, typer.Argument(metavar="[BUDGET]", help=_WHICH)]


class Scope(StrEnum):
    """What a budget limits."""

    TENANT = "tenant"
    PROJECT = "project"
    AGENT = "agent"
    RUN = "run"
    STEP = "step"


class Reset(StrEnum):
    """What can be taken off a budget."""

    TOKENS = "tokens"
    CALLS = "calls"
    SECONDS = "seconds"
    MODE = "mode"
    WARN_AT = "warn-at"
    PERIOD = "period"
    ZONE = "zone"


_RESETS: Final = {**{one: one.value for one in Reset}, Reset.SECONDS: "wall_ms", Reset.WARN_AT: "warn_at_percent"}

#: Options by the fields that they set.
_OPTIONS: Final = {
    "limit_nano_usd": "DOLLARS",
    "limit_tokens": "--tokens",
    "limit_calls": "--calls",
    "limit_wall_ms": "--seconds",
    "warn_at_percent": "--warn-at",
    "period": "--period",
    "zone": "--zone",
    "budget_id": "--budget",
    "name": "--budget",
}


class Every(StrEnum):
    """After how long a budget begins anew."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@app.command()
def show(budget_id: Which = "tenant", output: FormOption = Form.TABLE) -> None:
    """Shows a budget and how full it is.

    Example:  comitia budget show project:atlas
    """
    with client() as mesh:
        found = mesh.costs.budget_status(budget_id)
    if output is Form.JSON:
        show_json(as_json(found))
        return
    show_one(output, found.budget, [*_lines(found.budget), *_status_lines(found)])


@app.command("list")
def list_(
    scope: Annotated[Scope | None, typer.Option(help="Only those that limit this.")] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Lists budgets, newest first.

    Example:  comitia budget list --scope project
    """
    with client() as mesh:
        found = list(mesh.costs.budgets(scope="" if scope is None else scope.value))
    rows = [
        (
            label(one),
            dollars(one.limit_nano_usd),
            dollars(one.spent_nano_usd),
            dollars(one.held_nano_usd),
            one.budget_id,
        )
        for one in found
    ]
    empty = "no budgets yet; the tenant's own is made with its first call"
    show_rows(output, found, ("budget", "limit", "spent", "held", "id"), rows, empty=empty)


@app.command()
def tree(
    runs: Annotated[int, typer.Option(min=1, max=500, help="Show at most so many runs, the newest.")] = 20,
    output: FormOption = Form.TABLE,
) -> None:
    """Draws budgets as a tree: the tenant's, those of projects with their runs and of agents, other runs, and steps.

    Example:  comitia budget tree
    """
    with client() as mesh:
        found = mesh.costs.budget_tree(most_runs=runs)
    if output is Form.JSON:
        show_json(as_json(found))
        return
    depths = [node.depth for node in found.nodes]
    labels = [_branch(depths, place) + label(node.budget) for place, node in enumerate(found.nodes)]
    width = max(map(len, labels), default=0)
    for drawn, node in zip(labels, found.nodes, strict=True):
        one = node.budget
        used = f"{dollars(one.spent_nano_usd)} of {dollars(one.limit_nano_usd)}"
        typer.echo(f"{drawn:<{width}}  {_bar(one)}  {used}{_marks(one)}")
    if found.more_runs:
        steps = f" with budgets of {found.left_out_step_count} steps" if found.left_out_step_count else ""
        typer.echo(f"… and older runs{steps}; --runs shows more")


@app.command("set")
def set_(
    limit: Annotated[
        str, typer.Argument(metavar="[DOLLARS]", help="The limit on money. A new budget needs one.", show_default=False)
    ] = "",
    budget_id: Annotated[str, typer.Option("--budget", metavar="BUDGET", help=_WHICH)] = "tenant",
    period: Annotated[Every | None, typer.Option(help="Begin anew each hour, day, week or month.")] = None,
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Time zone of the period; UTC unless given.")] = "",
    tokens: Annotated[int | None, typer.Option(min=0, help="Limit on tokens of all classes.")] = None,
    calls: Annotated[int | None, typer.Option(min=0, help="Limit on calls of models and tools.")] = None,
    seconds: Annotated[int | None, typer.Option(min=0, help="Limit on the time of calls, seconds.")] = None,
    warn_at: Annotated[
        int,
        typer.Option(metavar="PERCENT", help="Warn from so much of a limit on; 80 unless given.", show_default=False),
    ] = 0,
    hard: Annotated[bool, typer.Option("--hard", help="Refuse at the limit; so it is unless told otherwise.")] = False,
    soft: Annotated[bool, typer.Option("--soft", help="Warn only.")] = False,
    degrade: Annotated[
        bool, typer.Option("--degrade", help="From the warning on let only the cheapest models through.")
    ] = False,
    reset: Annotated[
        list[Reset] | None, typer.Option(help="Take this off, or give it its default again; may be repeated.")
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a budget, or changes it: what is not given stays as it is.

    Calls spend from the budgets of their project, agent and step without anybody naming them. A project or an agent
    under whose name nothing was spent yet is told: the name may be misspelt.

    Example:  comitia budget set 25.00 --budget project:atlas --period day --zone Europe/Berlin --degrade

    Example:  comitia budget set --budget project:atlas --reset period
    """
    amount = read_dollars(limit) if limit else None
    if hard + soft + degrade > 1:
        raise CommandFailed("give one of --hard, --soft and --degrade", code=EXIT_USAGE)
    given: dict[str, Any] = {
        "tokens": tokens,
        "calls": calls,
        "wall_ms": None if seconds is None else seconds * 1000,
        "mode": "hard" if hard else "soft" if soft else "degrade" if degrade else "",
        "warn_at_percent": warn_at,
        "period": "" if period is None else period.value,
        "zone": zone,
        "reset": [_RESETS[one] for one in reset or ()],
    }
    terms = {name: one for name, one in given.items() if one or (isinstance(one, int) and name != "warn_at_percent")}
    if amount is None and not terms:
        raise CommandFailed("say what to set: DOLLARS or an option", code=EXIT_USAGE)
    with client() as mesh, _options_named():
        budget = _set_terms(mesh, budget_id, amount, terms) if terms else _set_limit(mesh, budget_id, amount or 0)
        unknown = _unknown_name(mesh, budget_id) if output is Form.TABLE else ""
    show_one(output, budget, _lines(budget))
    if unknown:
        typer.secho(unknown, dim=True)


@app.command()
def remove(
    budget_id: Annotated[
        str, typer.Argument(metavar="BUDGET", help="`project:NAME`, `agent:NAME`, `step:RUN/PATH`, or `budget_…`.")
    ],
) -> None:
    """Removes the budget of a project, an agent or a step. What it paid stays in the ledger.

    Example:  comitia budget remove project:atlas
    """
    with client() as mesh:
        removed = mesh.costs.remove_budget(budget_id)
    typer.echo(f"removed {label(removed)} ({removed.budget_id})")


@contextmanager
def _options_named() -> "Iterator[None]":
    """Says of a field that is wrong by which option it was given."""
    from comitia_sdk.errors import InvalidRequest

    try:
        yield
    except InvalidRequest as refusal:
        option = _OPTIONS.get(refusal.field)
        if option is None:
            raise
        sentence = refusal.message.removeprefix(f"{refusal.field}: ")
        raise CommandFailed(f"{option}: {sentence}", code=EXIT_USAGE) from refusal


def _unknown_name(mesh: "Client", budget_id: str) -> str:
    """Says that no call has paid under the name of a project or an agent yet, which may be misspelt; else nothing."""
    from comitia_sdk.errors import ComitiaError

    kind, _, name = budget_id.partition(":")
    if kind not in ("project", "agent"):
        return ""
    project, agent = (name, "") if kind == "project" else ("", name)
    try:
        if mesh.costs.summary(by=kind, project=project, agent_name=agent, max_lines=1).event_count:
            return ""
        lines = mesh.costs.summary(by=kind, max_lines=_MOST_SEEN + 1).lines
    except ComitiaError:
        # The budget is set, and may be so by somebody who may not read what was spent.
        return ""
    seen = [one_line(line.key) for line in lines if line.key]
    more = ", …" if len(seen) > _MOST_SEEN else ""
    others = f"; {kind}s seen: {', '.join(seen[:_MOST_SEEN])}{more}" if seen else ""
    return f"nothing has been spent under {kind} '{one_line(name)}' yet{others}"


def _set_limit(mesh: "Client", budget_id: str, amount: int) -> "Budget":
    # Any budget may be named here, also that of a run; but only one that has a name can be made.
    if budget_id.partition(":")[0] in _NODES:
        return _set_terms(mesh, budget_id, amount, {})
    return mesh.costs.set_limit(amount, budget_id=budget_id)


def _set_terms(mesh: "Client", budget_id: str, amount: int | None, terms: dict[str, Any]) -> "Budget":
    kind, _, name = budget_id.partition(":")
    if budget_id == "tenant":
        return mesh.costs.set_budget(amount, **terms)
    if kind in _NODES and not name:
        raise CommandFailed(f"name the {kind}, such as {kind}:{_SUCH_AS[kind]}", code=EXIT_USAGE)
    if kind not in _NODES:
        sentence = "of a run's budget only DOLLARS can be set; name others tenant, project:…, agent:… or step:…"
        raise CommandFailed(sentence, code=EXIT_USAGE)
    return mesh.costs.set_budget(amount, **{kind: name}, **terms)


def _lines(budget: "Budget") -> list[tuple[str, str]]:
    from comitia.cost.v1.cost_pb2 import BudgetMode, BudgetPeriod
    from comitia_sdk.enums import short_name

    every = short_name(BudgetPeriod, budget.period) if budget.period else ""
    return [
        ("budget", label(budget)),
        ("id", budget.budget_id),
        ("limit", dollars(budget.limit_nano_usd)),
        ("spent", dollars(budget.spent_nano_usd)),
        ("held", dollars(budget.held_nano_usd)),
        ("overrun", dollars(budget.overrun_nano_usd) if budget.overrun_nano_usd else ""),
        ("tokens", _gauge(budget.tokens)),
        ("calls", _gauge(budget.calls)),
        ("call time", _gauge(budget.wall_ms, unit=" ms")),
        ("mode", short_name(BudgetMode, budget.mode) if budget.mode else ""),
        ("warns at", f"{budget.warn_at_percent} %" if budget.warn_at_percent else ""),
        ("begins anew", f"each {every} ({budget.zone})" if every else ""),
        ("next period", moment(budget.period_end_time)),
        ("degraded to", moment(budget.degraded_until_time)),
    ]


def _status_lines(found: "GetBudgetStatusResponse") -> list[tuple[str, str]]:
    from comitia.cost.v1.cost_pb2 import BudgetLevel
    from comitia_sdk.enums import short_name

    return [
        ("level", short_name(BudgetLevel, found.level)),
        ("left", dollars(found.left_nano_usd)),
        ("calls open", str(found.hold_count) if found.hold_count else ""),
        ("at the end", dollars(found.projected_nano_usd) if found.HasField("projected_nano_usd") else ""),
    ]


def _gauge(gauge: "BudgetGauge", *, unit: str = "") -> str:
    if not gauge.HasField("limit"):
        return ""
    return f"{gauge.spent} spent and {gauge.held} held of {gauge.limit}{unit}"


def label(budget: "Budget") -> str:
    """Names a budget in the form that commands take: `project:atlas`."""
    from comitia.cost.v1.cost_pb2 import BudgetScope
    from comitia_sdk.enums import short_name

    name = one_line(budget.name or budget.run_id)
    return f"{short_name(BudgetScope, budget.scope)}:{name}".rstrip(":")


def _branch(depths: list[int], place: int) -> str:
    """Draws what leads to a node: a line for each level above it that goes on below it."""
    drawn = ""
    for level in range(1, depths[place] + 1):
        below = next((depth for depth in depths[place + 1 :] if depth <= level), 0)
        last = level == depths[place]
        drawn += ("├─ " if last else "│  ") if below == level else ("└─ " if last else "   ")
    return drawn


def _bar(budget: "Budget") -> str:
    """Draws what is spent and held of the limit on money."""
    limit = max(1, budget.limit_nano_usd)
    spent = min(_BAR, budget.spent_nano_usd * _BAR // limit)
    used = min(_BAR, -(-(budget.spent_nano_usd + budget.held_nano_usd) * _BAR // limit))
    return "█" * spent + "▒" * (used - spent) + "·" * (_BAR - used)


def _marks(budget: "Budget") -> str:
    from comitia.cost.v1.cost_pb2 import BUDGET_MODE_DEGRADE, BUDGET_MODE_SOFT, BudgetPeriod
    from comitia_sdk.enums import short_name

    marks = [f"a {short_name(BudgetPeriod, budget.period)}"] if budget.period else []
    marks += {BUDGET_MODE_SOFT: ["soft"], BUDGET_MODE_DEGRADE: ["degrades"]}.get(budget.mode, [])
    marks += [f"{dollars(budget.overrun_nano_usd)} over"] if budget.overrun_nano_usd else []
    return f" ({', '.join(marks)})" if marks else ""
