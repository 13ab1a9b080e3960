"""`comitia estimate`: what runs will take, and how well that was said of those that have ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, moment, one_line, show_json, show_lines
from comitia_sdk.cli.pairs import values_of
from comitia_sdk.cli.reading import read_dollars, read_mapping
from comitia_sdk.cli.tokens import tokens_in, tokens_out

if TYPE_CHECKING:
    from comitia.orchestrator.v1.estimate_pb2 import EstimatedRun, EstimateRange, RunEstimate
    from comitia.orchestrator.v1.run_pb2 import Run
    from comitia.orchestrator.v1.session_pb2 import Session
    from comitia_sdk.sync import Client

_PLOT: Final = 40
_MOST_ROWS: Final = 500
#: Below so many intervals a share of them says nothing about nine in ten.
_JUDGES: Final = 10
PREFLIGHT_HELP: Final = (
    "What to do when it may not fit its budgets: off, warn, reject, or degrade to a cheaper model. Default: what its "
    "workflow says, else what the operator has set."
)


def estimate(
    workflow: Annotated[
        str, typer.Argument(metavar="[WORKFLOW]", help="`name`, or `name@version`.", show_default=False)
    ] = "",
    session: Annotated[
        str, typer.Option(metavar="TOPIC", help="Estimate a session on this topic instead.", show_default=False)
    ] = "",
    history: Annotated[
        bool, typer.Option("--history", help="Show estimate against actual of runs that have ended instead.")
    ] = False,
    given: Annotated[
        Path | None,
        typer.Option(
            "--input", "-i", metavar="FILE", help="A file of what the run would be given; `-` reads standard input."
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One value of the input, JSON or text; repeat for each."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", "-a", metavar="NAME", help="Of a session: who takes part; repeat for each."),
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="MODE", help="Of a session: debate, brainstorm, consensus, dialogue or answer.")
    ] = "debate",
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Of a session: round_robin, parallel, moderated, or step:NAME.")
    ] = "round_robin",
    moderator: Annotated[str, typer.Option(metavar="NAME", help="Of a session: agent that picks who speaks.")] = "",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Of a session: most rounds.")] = 3,
    convergence: Annotated[
        bool, typer.Option("--convergence/--all-rounds", help="Of a session: end as soon as the agents agree.")
    ] = True,
    max_cost: Annotated[str, typer.Option(metavar="DOLLARS", help="Hard limit that it would have.")] = "1.00",
    model: Annotated[str, typer.Option(metavar="NAME", help="Model for every agent in place of its own.")] = "",
    project: Annotated[str, typer.Option(metavar="NAME", help="Project that it would be charged to.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=_MOST_ROWS, help="Of the history: so many runs, the latest.")] = 30,
    output: FormOption = Form.TABLE,
) -> None:
    """Says what a run would take: tokens, money and time, each with the interval that nine runs in ten end in.

    Nothing is started. Estimates are learnt from runs that have ended; one that rests on none says so.

    Example:  comitia estimate review --set text="A draft" --max-cost 0.50

    Example:  comitia estimate --session "Tabs or spaces?" -a Athena -a Apollo --rounds 2

    Example:  comitia estimate review --history
    """
    if history:
        if session:
            raise CommandFailed("--history is of a workflow, or of all runs; leave --session out", code=EXIT_USAGE)
        with client() as mesh:
            _history(mesh, workflow, limit, output)
        return
    if bool(workflow) == bool(session):
        raise CommandFailed("name one: a WORKFLOW, or --session TOPIC", code=EXIT_USAGE)
    most = read_dollars(max_cost)
    if workflow:
        asked = {**({} if given is None else read_mapping(given)), **values_of("--set", values or ())}
        with client() as mesh:
            found = mesh.estimates.workflow(workflow, asked, max_cost_nano_usd=most, model=model, project=project)
    else:
        with client() as mesh:
            found = mesh.estimates.session(
                session,
                agents=agent or ["Athena", "Apollo"],
                mode=mode,
                strategy=strategy,
                moderator=moderator,
                max_rounds=rounds,
                convergence=convergence,
                max_cost_nano_usd=most,
                model=model,
                project=project,
            )
    show_estimate(found, output)


def show_estimate(found: "RunEstimate", output: Form) -> None:
    """Writes an estimate as JSON or for people."""
    if output is Form.JSON:
        show_json(as_json(found))
    else:
        show_lines(estimate_lines(found))


def estimate_lines(found: "RunEstimate") -> list[tuple[str, str]]:
    """Names what an estimate says."""
    lines = [
        ("input", _range(found.input_tokens, "tokens")),
        ("output", _range(found.output_tokens, "tokens")),
        ("cost", _money(found)),
        ("work", _time(found.work_milliseconds)),
        ("rests on", _rests_on(found)),
    ]
    if found.judged_count:
        lines.append(("coverage", _coverage(found.covered_count, found.judged_count)))
    lines += [
        (f"budget {one_line(one.budget)}", f"{_verdict(one.verdict)}, {dollars(one.left_nano_usd)} left")
        for one in found.budgets
    ]
    if found.budgets_unknown:
        lines.append(("budgets", "cost does not answer; what the others have left is not known now"))
    if found.degraded_to:
        lines.append(("degraded to", found.degraded_to))
    return lines


def estimated(seen: "Run | Session") -> str:
    """Says what preflight expected of a run or session, with what it has taken; empty where none was made."""
    if not seen.HasField("estimate"):
        return ""
    found = seen.estimate
    degraded = f", degraded to {one_line(found.degraded_to)}" if found.degraded_to else ""
    return _against(found, seen, f"{_verdict(found.verdict)}{degraded}")


def estimated_after(mesh: "Client", seen: "Run | Session", run_id: str) -> str:
    """Says what would have been expected of a run or session that has succeeded; empty where that is not known.

    Args:
        seen: one of which no estimate was made at its start.
    """
    if seen.HasField("estimate") or not _succeeded(seen):
        return ""
    learnt = next(iter(mesh.estimates.list(run_id=run_id, page_size=1)), None)
    return "" if learnt is None else _against(learnt.estimate, seen, "made after its end, as if before its start")


def _against(found: "RunEstimate", seen: "Run | Session", told: str) -> str:
    """Holds cost and tokens that were taken against an estimate, a line for each."""
    done, read, said = _succeeded(seen), tokens_in(seen.usage), tokens_out(seen.usage)
    taken = (
        (_money(found), dollars(seen.cost_nano_usd), found.cost_nano_usd, seen.cost_nano_usd),
        (_range(found.input_tokens, "tokens in"), f"{read:,}", found.input_tokens, read),
        (_range(found.output_tokens, "tokens out"), f"{said:,}", found.output_tokens, said),
    )
    lines, when = [told], "until it stopped" if seen.HasField("end_time") else "so far"
    for expected, actual, bounds, value in taken:
        told = f"took {actual}, {_placed(bounds, value)}" if done else f"{actual} {when}"
        lines.append(f"{expected}; {told}")
    return "\n".join(lines)


def _placed(bounds: "EstimateRange", value: int) -> str:
    if value < bounds.low:
        return "below the interval"
    return "above the interval" if value > bounds.high else "inside"


def _succeeded(seen: "Run | Session") -> bool:
    from comitia.orchestrator.v1.run_pb2 import RUN_STATE_SUCCEEDED

    # States of runs and of sessions have the same numbers.
    return int(seen.state) == RUN_STATE_SUCCEEDED


def _history(mesh: "Client", workflow: str, limit: int, output: Form) -> None:
    from itertools import islice

    runs = list(islice(mesh.estimates.list(workflow=workflow, page_size=min(limit, _MOST_ROWS)), limit))
    if output is Form.JSON:
        show_json([as_json(run) for run in runs])
        return
    if not runs:
        typer.echo("no runs have ended that estimates were held against; look again a minute after one has succeeded")
        return
    judged, covered = mesh.estimates.coverage(workflow=workflow)
    for line in plot(runs):
        typer.echo(line)
    if judged:
        typer.echo(f"\n{_coverage(covered, judged)}")


def plot(runs: "Sequence[EstimatedRun]") -> list[str]:
    """Draws the interval, the median and the actual cost of runs, the oldest first, on one scale of logarithms."""
    from math import log10

    costs = [run for run in runs if run.estimate.cost_nano_usd.high or run.cost_nano_usd]
    sums = [
        value
        for run in costs
        for value in (run.estimate.cost_nano_usd.low, run.estimate.cost_nano_usd.high, run.cost_nano_usd)
        if value > 0
    ]
    low, high = (log10(min(sums)), log10(max(sums))) if sums else (0.0, 1.0)

    def place(value: int) -> int:
        share = (log10(max(value, 1)) - low) / ((high - low) or 1.0)
        return round(min(max(share, 0.0), 1.0) * (_PLOT - 1))

    lines = [f"{'ended':<20}  {'estimated':>12}  {'actual':>12}  {'':<{_PLOT}}  run"]
    for run in reversed(runs):
        money = run.estimate.cost_nano_usd
        row = [" "] * _PLOT
        if money.high or run.cost_nano_usd:
            for at in range(place(money.low), place(money.high) + 1):
                row[at] = "─"
            row[place(money.median)] = "│"
            inside = money.low <= run.cost_nano_usd <= money.high
            row[place(run.cost_nano_usd)] = "●" if inside else "○"
        lines.append(
            f"{moment(run.end_time):<20}  {dollars(rounded(money.median)):>12}  {dollars(run.cost_nano_usd):>12}  "
            f"{''.join(row)}  {run.run_id} {one_line(run.reference)}"
        )
    lines.append(f"\n─ 90 % interval of the estimate, │ its median, ● what it took, ○ outside; {_scale(sums)}")
    return lines


def _scale(sums: Sequence[int]) -> str:
    return f"from {dollars(min(sums))} to {dollars(max(sums))}" if sums else "nothing was spent"


def _range(found: "EstimateRange", unit: str) -> str:
    low, median, high = (f"{rounded(value):,}" for value in (found.low, found.median, found.high))
    return f"{median} {unit} ({low} to {high})"


def _money(found: "RunEstimate") -> str:
    cost = found.cost_nano_usd
    low, median, high = (dollars(rounded(value)) for value in (cost.low, cost.median, cost.high))
    said = f"{median} ({low} to {high})"
    if found.priced:
        return said
    return f"{said}, without {one_line(', '.join(found.unpriced_models)) or 'models'}: no price is known"


def rounded(value: int) -> int:
    """Leaves an estimate the three digits that it can promise."""
    return round(value, min(0, 3 - len(str(abs(value)))))


def _time(found: "EstimateRange") -> str:
    low, median, high = (_seconds(value) for value in (found.low, found.median, found.high))
    return f"{median} ({low} to {high}), without waits for signals and timers"


def _seconds(milliseconds: int) -> str:
    if milliseconds < 60_000:
        return f"{milliseconds / 1_000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1_000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _rests_on(found: "RunEstimate") -> str:
    if not found.calibrated_on:
        return "static tables alone; the interval promises nothing yet"
    runs = "1 run" if found.calibrated_on == 1 else f"{found.calibrated_on} runs"
    return f"{runs} of {'this tenant' if found.pooled else 'its kind'}"


def _coverage(covered: int, judged: int) -> str:
    """Says how many intervals held the cost; as a share only of enough to tell nine in ten from less."""
    if judged < _JUDGES:
        intervals = "1 interval" if judged == 1 else f"{judged} intervals"
        return f"{covered} of {intervals} held the cost, too few to judge by"
    return f"{covered / judged:.0%} of {judged} intervals held the cost; 90 % is promised"


def _verdict(number: int) -> str:
    from comitia.orchestrator.v1.estimate_pb2 import EstimateVerdict
    from comitia_sdk.enums import short_name

    return {
        "fits": "fits",
        "warns": "may not fit",
        "degrades": "fits, and makes the budget ask for cheaper models",
        "exceeds": "does not fit",
        "unknown": "nobody can say whether it fits",
    }.get(short_name(EstimateVerdict, number), "not known")
