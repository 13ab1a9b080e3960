"""`comitia costs`: what was spent, by whom and when."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.drafts import draft
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, moment, one_line, show_json, show_rows
from comitia_sdk.cli.periods import PERIOD_HELP, TIME_HELP, Period, read_period
from comitia_sdk.cli.tokens import tokens_in, tokens_out

if TYPE_CHECKING:
    from comitia.cost.v1.ledger_service_pb2 import GetCostSeriesResponse, GetCostSummaryResponse

app = typer.Typer()

_FORMATS: Final = {".csv": "csv", ".json": "json"}
#: Stands where a charge names none, such as no project.
_NOBODY: Final = "(none)"


class Series(StrEnum):
    """How long a step is."""

    HOUR = "hour"
    DAY = "day"


class Detail(StrEnum):
    """What a line of an export stands for."""

    DAY = "day"
    HOUR = "hour"
    EVENT = "event"


@app.callback(invoke_without_command=True)
def costs(
    context: typer.Context,
    by: Annotated[
        str,
        typer.Option(
            metavar="WHAT", help="Add up by model, provider, agent, run, project, kind or tool; by model unless given."
        ),
    ] = "",
    period: Annotated[str, typer.Option(metavar="PERIOD", help=PERIOD_HELP)] = "",
    since: Annotated[str, typer.Option("--from", metavar="TIME", help=TIME_HELP)] = "",
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to, not including, this date or time.")] = "",
    session: Annotated[str, typer.Option(metavar="RUN", help="Only this session or run.")] = "",
    project: Annotated[str, typer.Option(metavar="PROJECT", help="Only this project.")] = "",
    agent: Annotated[str, typer.Option(metavar="AGENT", help="Only this agent.")] = "",
    top: Annotated[
        int, typer.Option(min=0, max=500, metavar="N", help="The dearest so many; 0 shows the most, 500.")
    ] = 0,
    series: Annotated[Series | None, typer.Option(help="A row for each hour or day.", show_default=False)] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write who is charged what to FILE.csv or FILE.json.", show_default=False),
    ] = None,
    detail: Annotated[Detail, typer.Option(help="What a line of the export stands for.")] = Detail.DAY,
    force: Annotated[bool, typer.Option("--force", help="Let the export take the place of a file.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Adds up what was spent.

    Example:  comitia costs --by agent --period month

    Example:  comitia costs --period last-month --export november.csv
    """
    if context.invoked_subcommand is not None:
        return
    start, end = asked = read_period(period, since, until, now=datetime.now(UTC))
    if export is not None:
        if export.exists() and not force:
            raise CommandFailed(f"{export} is there already; --force writes over it", code=EXIT_USAGE)
        _export(export, asked, detail=detail, session=session, project=project, agent=agent)
        return
    with client() as mesh:
        if series is not None:
            drawn = mesh.costs.series(
                by=by or None,
                step=series.value,
                start=start,
                end=end,
                run_id=session,
                project=project,
                agent_name=agent,
                max_lines=top,
            )
            _show_series(drawn, output, hours=series is Series.HOUR, alone=not by)
            return
        summary = mesh.costs.summary(
            by=by or "model", start=start, end=end, run_id=session, project=project, agent_name=agent, max_lines=top
        )
    _show_summary(summary, output, by=by or "model")


@app.command()
def reprice(
    since: Annotated[str, typer.Option("--from", metavar="TIME", help=f"Charges from then on. {TIME_HELP}")],
    until: Annotated[
        str,
        typer.Option("--to", metavar="TIME", help="Up to, not including, this date or time; now if it is not given."),
    ] = "",
    apply: Annotated[
        bool, typer.Option("--apply", help="Write it; without this the difference is only shown.")
    ] = False,
    unpriced: Annotated[
        bool, typer.Option("--unpriced", help="Only charges of models whose price was unknown, however old they are.")
    ] = False,
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands with each entry.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Prices charges of the past as the price table has it now. Shows the difference per model first.

    Entries of the ledger are never changed: each charge is taken back and written anew.

    Example:  comitia costs reprice --from 2026-11-01 --to 2026-12-01
    """
    start, end = read_period("", since, until, now=datetime.now(UTC))
    if start is None:
        raise CommandFailed("--from is required", code=EXIT_USAGE)
    with client() as mesh:
        repriced = mesh.costs.reprice(start, end, apply=apply, unpriced=unpriced, note=note)
    rows = [
        (
            one.provider,
            one.model,
            str(one.event_count),
            dollars(one.before_nano_usd),
            dollars(one.after_nano_usd),
            dollars(one.after_nano_usd - one.before_nano_usd),
        )
        for one in repriced.models
    ]
    if output is Form.JSON:
        show_json(as_json(repriced))
        return
    columns = ("provider", "model", "charges", "before", "after", "difference")
    show_rows(output, [], columns, rows, empty="every charge is priced as the table has it")
    if rows:
        difference = dollars(repriced.after_nano_usd - repriced.before_nano_usd)
        typer.echo(f"{difference} were booked" if apply else f"{difference} in all; --apply writes it")


def _show_summary(summary: "GetCostSummaryResponse", output: Form, *, by: str) -> None:
    if output is Form.JSON:
        show_json(as_json(summary))
        return
    rows = [
        (
            one_line(line.key) or _NOBODY,
            str(line.event_count),
            str(tokens_in(line.usage)),
            str(tokens_out(line.usage)),
            dollars(line.cost_nano_usd),
            dollars(line.assumed_nano_usd) if line.assumed_nano_usd else "",
            dollars(line.unpriced_nano_usd) if line.unpriced_nano_usd else "",
        )
        for line in summary.lines
    ]
    columns = (by, "calls", "tokens in", "tokens out", "cost", "of it assumed", "of it unpriced")
    show_rows(output, [], columns, rows, empty="nothing was spent")
    typer.echo(f"total {dollars(summary.total_nano_usd)}")
    if summary.unpriced_event_count:
        typer.secho(
            f"{summary.unpriced_event_count} charges ({dollars(summary.unpriced_nano_usd)} of it) are of models without"
            " a price, made at a ceiling: `comitia prices import` takes prices, `comitia costs reprice` corrects them",
            fg=typer.colors.YELLOW,
            err=True,
        )


def _show_series(series: "GetCostSeriesResponse", output: Form, *, hours: bool, alone: bool) -> None:
    if output is Form.JSON:
        show_json(as_json(series))
        return
    nobody = "cost" if alone else _NOBODY
    names = ["the rest" if line.rest else one_line(line.key) or nobody for line in series.lines]
    steps = [line.points for line in series.lines]
    rows = [
        (
            moment(points[0].start_time)[: 16 if hours else 10],
            *(dollars(point.cost_nano_usd) if point.event_count or point.cost_nano_usd else "-" for point in points),
        )
        for points in zip(*steps, strict=True)
    ]
    show_rows(output, [], ("UTC", *names), rows, empty="nothing was spent")
    typer.echo(f"total {dollars(series.total_nano_usd)}")


def _export(file: Path, asked: Period, *, detail: Detail, session: str, project: str, agent: str) -> None:
    form = _FORMATS.get(file.suffix.lower())
    if form is None:
        raise CommandFailed(f"{file} must end in .csv or .json", code=EXIT_USAGE)
    start, end = asked
    with draft(file) as (part, progress), client() as mesh:
        written = mesh.costs.save(
            part,
            form=form,
            detail=detail.value,
            start=start,
            end=end,
            run_id=session,
            project=project,
            agent_name=agent,
            told=lambda done: progress(f"{done:,} bytes"),
        )
    typer.echo(f"{written:,} bytes in {file}")
