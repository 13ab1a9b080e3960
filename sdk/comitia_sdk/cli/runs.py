"""`comitia run`: runs, sessions among them."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from comitia_sdk.cli import record
from comitia_sdk.cli.connect import client
from comitia_sdk.cli.estimates import PREFLIGHT_HELP, estimated, estimated_after
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import (
    DEFAULT_LIMIT,
    Form,
    FormOption,
    LimitOption,
    as_json,
    dollars,
    moment,
    newest,
    show_json,
    show_one,
    show_rows,
)
from comitia_sdk.cli.pairs import pairs, value_of, values_of
from comitia_sdk.cli.reading import read_dollars, read_mapping
from comitia_sdk.cli.run_tree import follow_run, require_success, run_state, step_note, step_state
from comitia_sdk.cli.tokens import in_and_out

if TYPE_CHECKING:
    from comitia.orchestrator.v1.run_pb2 import Run
    from comitia_sdk.sync import Client

app = typer.Typer(no_args_is_help=True, help="Runs of workflows and sessions, and their record.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run or session, `run_…`.")]
_SPAN: Final = re.compile(r"(\d+)(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command()
def start(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="`name`, or `name@version`.")],
    given: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="A file of what the run is given, YAML or JSON; `-` reads standard input.",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One value of the input, JSON or text; repeat for each."),
    ] = None,
    max_cost: Annotated[
        str, typer.Option(metavar="DOLLARS", help="Hard limit of the run and the runs it starts.")
    ] = "1.00",
    deadline: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Longest life, such as 90s, 15m, 2h or 7d. Default: the workflow's.",
            show_default=False,
        ),
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="For finding it again; `project=…` charges a project."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model for every agent in place of its own; see `comitia models`.")
    ] = "",
    preflight: Annotated[str, typer.Option(metavar="MODE", help=PREFLIGHT_HELP, show_default=False)] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it until it ends.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Starts a run of a workflow and returns at once; with -f, shows it until it ends.

    Example:  comitia run start review --set text="A draft" -f

    Example:  comitia run start review@1.0.0 --input draft.yaml --max-cost 0.50 --deadline 1h
    """
    asked = {**({} if given is None else read_mapping(given)), **values_of("--set", values or ())}
    labels = pairs("--label", label or (), empty=True)
    limit, life = read_dollars(max_cost), _span(deadline)
    with client() as mesh:
        run = mesh.runs.start(
            workflow,
            asked,
            max_cost_nano_usd=limit,
            deadline=life,
            metadata=labels,
            model=model,
            preflight=preflight,
        )
        if follow:
            _follow(mesh, run.run_id, output)
            return
    show_one(output, run, lines_of(run))
    if output is Form.TABLE:
        typer.echo(f"\nwatch it with `comitia run watch {run.run_id}`")


@app.command()
def watch(
    run_id: RunId,
    after: Annotated[int, typer.Option(min=0, metavar="SEQUENCE", help="Only events after this sequence.")] = 0,
    output: FormOption = Form.TABLE,
) -> None:
    """Shows what happened and what happens as a tree of steps, until the run ends. Ctrl-C stops watching, not the run.

    As JSON, each event is one line.

    Example:  comitia run watch run_01j…
    """
    with client() as mesh:
        _follow(mesh, run_id, output, after=after)


@app.command("list")
def list_(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    limit: LimitOption = DEFAULT_LIMIT,
    output: FormOption = Form.TABLE,
) -> None:
    """Lists runs, newest first, sessions among them.

    Example:  comitia run list --open
    """
    with client() as mesh:
        runs = newest(mesh.runs.list(open_only=open_only), limit)
    rows = [
        (
            one.run_id,
            run_state(one),
            moment(one.start_time),
            str(one.steps.succeeded + one.steps.failed + one.steps.skipped),
            dollars(one.cost_nano_usd),
            one.workflow or one.program,
            one.state_reason,
        )
        for one in runs
    ]
    empty = "no runs yet; start one with `comitia run start WORKFLOW`, or a session with `comitia session start TOPIC`"
    show_rows(output, runs, ("run", "state", "started", "steps", "cost", "workflow", "why"), rows, empty=empty)


@app.command()
def show(
    run_id: RunId,
    at: Annotated[int, typer.Option(min=0, metavar="SEQUENCE", help="As it stood after this fact.")] = 0,
    output: FormOption = Form.TABLE,
) -> None:
    """Shows a run as it stands, or stood, and its steps.

    Example:  comitia run show run_01j…

    Example:  comitia run show run_01j… --at 12
    """
    with client() as mesh:
        run = mesh.runs.get(run_id, at_sequence=at)
        steps = [] if at else list(mesh.runs.steps(run_id, page_size=500))
        learnt = "" if output is Form.JSON else estimated_after(mesh, run, run_id)
    if output is Form.JSON:
        show_json({**as_json(run), **({} if at else {"run_steps": [as_json(step) for step in steps]})})
        return
    show_one(output, run, lines_of(run, learnt))
    if not at:
        typer.echo("")
        rows = [(step.path, step_state(step), step_note(step)) for step in steps]
        show_rows(output, steps, ("step", "state", ""), rows, empty="no step has begun")


@app.command()
def pause(run_id: RunId, output: FormOption = Form.TABLE) -> None:
    """Has a run, and those that it started, make no new call; calls in progress end and are recorded.

    Example:  comitia run pause run_01j…
    """
    with client() as mesh:
        run = mesh.runs.pause(run_id)
    show_one(output, run, lines_of(run))
    if output is Form.TABLE:
        typer.echo(f"\n{not_taken(run, 'paused') or f'let it go on with `comitia run resume {run_id}`'}")


@app.command()
def resume(run_id: RunId, output: FormOption = Form.TABLE) -> None:
    """Lets a paused run go on, with those that it started, and begins its parked steps anew.

    One that is parked for ENGINE_FAULT is tried again.

    Example:  comitia run resume run_01j…
    """
    with client() as mesh:
        run = mesh.runs.resume(run_id)
    show_one(output, run, lines_of(run))
    if output is Form.TABLE and run_state(run) == "paused":
        typer.echo(f"\n{not_taken(run, 'running')}")


@app.command()
def cancel(run_id: RunId, output: FormOption = Form.TABLE) -> None:
    """Stops a run, with the runs that it started.

    Example:  comitia run cancel run_01j…
    """
    with client() as mesh:
        run = mesh.runs.cancel(run_id)
    show_one(output, run, lines_of(run))
    if output is Form.TABLE and (waits := not_taken(run, "cancelling")):
        typer.echo(f"\n{waits}")


@app.command()
def signal(
    run_id: RunId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name that a step waits for.")],
    payload: Annotated[
        str, typer.Option("--payload", "-p", metavar="VALUE", help="What it carries, JSON or text.", show_default=False)
    ] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Sends a signal to a run. One that no step waits for yet is kept for a later one.

    Example:  comitia run signal run_01j… person.decided --payload '{"yes": true}'
    """
    with client() as mesh:
        run = mesh.runs.signal(run_id, name, value_of(payload) if payload else None)
    show_one(output, run, lines_of(run))


app.command("replay")(record.replay)
app.command("fork")(record.fork)
app.command("diff")(record.diff)
app.command("export")(record.export)
app.command("provenance")(record.provenance)


def not_taken(run: "Run", wanted: str) -> str:
    """Says that a run stands as it stood, if it is neither in the wanted state nor over."""
    state = run_state(run)
    if state in {wanted, "succeeded", "failed", "cancelled"}:
        return ""
    if wanted == "paused" and run.state_reason == "ENGINE_FAULT":
        return (
            "asked, and kept: the runs that it started are paused, and it is shown as parked for its fault all the "
            f"same; let them go on, and try it again, with `comitia run resume {run.run_id}`"
        )
    return (
        f"asked, and kept: the run is {state} until the orchestrator that drives it has taken it; "
        f"look again with `comitia run show {run.run_id}`"
    )


def lines_of(run: "Run", learnt: str = "") -> list[tuple[str, str]]:
    """Gives what a person wants to know of a run.

    Args:
        learnt: what would have been expected of it, where nothing was.
    """
    counts = run.steps
    parts = [
        (counts.succeeded, "succeeded"),
        (counts.running, "in progress"),
        (counts.failed, "failed"),
        (counts.skipped, "skipped"),
    ]
    reason = f"{run.state_message} [{run.state_reason}]" if run.state_message else run.state_reason
    values = as_json(run)
    return [
        ("run", run.run_id),
        ("workflow", run.workflow or run.program),
        ("started by", f"{run.parent_run_id} at {run.parent_path}" if run.parent_run_id else ""),
        ("forked from", run.forked_from_run_id),
        ("policy", f"{run.policy}, {run.policy_digest}" if run.policy else ""),
        ("state", run_state(run)),
        ("why", reason),
        ("input", _spoken(values["input"]) if run.input.fields else ""),
        ("output", _spoken(values["output"]) if run.HasField("output") else ""),
        ("steps", ", ".join(f"{count} {word}" for count, word in parts if count)),
        ("tokens", in_and_out(run.usage)),
        ("cost", f"{dollars(run.cost_nano_usd)} of at most {dollars(run.max_cost_nano_usd)}"),
        ("estimated", estimated(run) or learnt),
        ("labels", ", ".join(f"{name}={run.metadata[name]}" for name in sorted(run.metadata))),
        ("started", moment(run.start_time)),
        ("ended", moment(run.end_time)),
        ("deadline", "" if run.HasField("end_time") else moment(run.deadline_time)),
        ("fact", str(run.sequence)),
    ]


def _spoken(value: object) -> str:
    """Writes JSON as people do: numbers that are whole without a point."""

    def whole(part: Any) -> Any:  # JSON is open
        match part:
            case float() if part.is_integer():
                return int(part)
            case list():
                return [whole(one) for one in cast(list[Any], part)]
            case dict():
                return {name: whole(one) for name, one in cast(dict[str, Any], part).items()}
            case _:
                return part

    return json.dumps(whole(value), ensure_ascii=False)


def _follow(mesh: "Client", run_id: str, output: Form, *, after: int = 0) -> None:
    run = follow_run(mesh, run_id, output, after=after)
    if output is Form.TABLE:
        typer.echo("")
        show_one(output, run, lines_of(run))
    require_success(run)


def _span(text: str) -> timedelta | None:
    """Reads a time such as `90s`. Raises: CommandFailed."""
    if not text:
        return None
    match = _SPAN.fullmatch(text.strip())
    if match is None or len(match[1]) > 9:
        raise CommandFailed(f"{text!r} is no time; write such as 90s, 15m, 2h or 7d", code=EXIT_USAGE)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
