"""`comitia costs` and `comitia budget`: what was spent, and how much may be."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, show_json, show_one, show_rows
from comitia_sdk.cli.reading import read_dollars

if TYPE_CHECKING:
    from comitia.cost.v1.cost_pb2 import Budget

app = typer.Typer(no_args_is_help=True, help="Hard limits on money.")


def costs(
    by: Annotated[
        str, typer.Option(metavar="WHAT", help="Add up by model, provider, agent, run, project or kind.")
    ] = "model",
    session: Annotated[str, typer.Option(metavar="SESSION", help="Only this session.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Adds up what was spent.

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
    budget_id: Annotated[
        str, typer.Argument(metavar="[BUDGET]", help="`budget_…`, or `tenant` for the tenant's own.")
    ] = "tenant",
    output: FormOption = Form.TABLE,
) -> None:
    """Shows a budget.

    Example:  comitia budget show
    """
    with client() as mesh:
        budget = mesh.costs.budget(budget_id)
    show_one(output, budget, _lines(budget))


@app.command("list")
def list_(output: FormOption = Form.TABLE) -> None:
    """Lists budgets, newest first: the tenant's own and one for each session.

    Example:  comitia budget list
    """
    from comitia.cost.v1.cost_pb2 import BudgetScope
    from comitia_sdk.enums import short_name

    with client() as mesh:
        found = list(mesh.costs.budgets())
    rows = [
        (
            one.budget_id,
            short_name(BudgetScope, one.scope),
            dollars(one.limit_nano_usd),
            dollars(one.spent_nano_usd),
            dollars(one.held_nano_usd),
            one.run_id,
        )
        for one in found
    ]
    empty = "no budgets yet; the tenant's own is made with its first call"
    show_rows(output, found, ("budget", "of", "limit", "spent", "held", "session"), rows, empty=empty)


@app.command("set")
def set_(
    limit: Annotated[str, typer.Argument(metavar="DOLLARS", help="The new limit.")],
    budget_id: Annotated[
        str, typer.Option("--budget", metavar="BUDGET", help="`budget_…`, or `tenant` for the tenant's own.")
    ] = "tenant",
    output: FormOption = Form.TABLE,
) -> None:
    """Changes a budget's limit.

    Example:  comitia budget set 25.00
    """
    amount = read_dollars(limit)
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
