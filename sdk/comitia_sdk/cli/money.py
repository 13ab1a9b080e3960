"""`comitia costs` and `comitia budget`: what was spent, and how much may be."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, show_json, show_one, show_rows

if TYPE_CHECKING:
    from comitia.cost.v1.cost_pb2 import Budget

app = typer.Typer(no_args_is_help=True, help="Hard limits on money.")


def costs(
    by: Annotated[str, typer.Option(help="model, provider, agent, run, project or kind.")] = "model",
    session: Annotated[str, typer.Option(help="Only this session.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Shows what was spent.

    Example:  comitia costs --by agent --session run_01j…
    """
    with client() as mesh:
        summary = mesh.costs.summary(by=by, run_id=session)
    if output is Form.JSON:
        show_json(as_json(summary))
        return
    rows = [
        (
            line.key,
            str(line.event_count),
            str(line.usage.input_tokens),
            str(line.usage.output_tokens),
            dollars(line.cost_nano_usd),
            dollars(line.assumed_nano_usd) if line.assumed_nano_usd else "",
        )
        for line in summary.lines
    ]
    columns = (by, "calls", "tokens in", "tokens out", "cost", "of it assumed")
    show_rows(output, [], columns, rows, empty="nothing was spent")
    typer.echo(f"total {dollars(summary.total_nano_usd)}")


@app.command()
def show(
    budget_id: Annotated[str, typer.Argument(help="`budget_…`, or `tenant`.")] = "tenant",
    output: FormOption = Form.TABLE,
) -> None:
    """Shows a budget.

    Example:  comitia budget show
    """
    with client() as mesh:
        budget = mesh.costs.budget(budget_id)
    show_one(output, budget, _lines(budget))


@app.command("set")
def set_(
    limit: Annotated[str, typer.Argument(help="The new limit in dollars.")],
    budget_id: Annotated[str, typer.Option("--budget", help="`budget_…`, or `tenant`.")] = "tenant",
    output: FormOption = Form.TABLE,
) -> None:
    """Changes a budget's limit.

    Example:  comitia budget set 25.00
    """
    from decimal import InvalidOperation

    from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
    from comitia_sdk.money import nano_usd

    try:
        amount = nano_usd(limit)
    except InvalidOperation as error:
        raise CommandFailed(f"{limit!r} is no amount in dollars, such as 25.00", code=EXIT_USAGE) from error
    with client() as mesh:
        budget = mesh.costs.set_limit(amount, budget_id=budget_id)
    show_one(output, budget, _lines(budget))


def _lines(budget: "Budget") -> list[tuple[str, str]]:
    return [
        ("budget", budget.budget_id),
        ("limit", dollars(budget.limit_nano_usd)),
        ("spent", dollars(budget.spent_nano_usd)),
        ("held", dollars(budget.held_nano_usd)),
        ("overrun", dollars(budget.overrun_nano_usd) if budget.overrun_nano_usd else ""),
    ]
