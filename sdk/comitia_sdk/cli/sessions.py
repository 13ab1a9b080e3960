"""`comitia session`: sessions of several agents."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, moment, show_json, show_one, show_rows

if TYPE_CHECKING:
    from comitia.orchestrator.v1.session_pb2 import Session

app = typer.Typer(no_args_is_help=True, help="Sessions of several agents.")

SessionId = Annotated[str, typer.Argument(help="Id of the session, `run_…`.")]


@app.command()
def start(
    topic: Annotated[str, typer.Argument(help="What to deliberate on.")],
    agent: Annotated[list[str], typer.Option("--agent", "-a", help="Who takes part; repeat for each.")],
    mode: Annotated[str, typer.Option(help="debate, brainstorm, consensus or dialogue.")] = "debate",
    strategy: Annotated[str, typer.Option(help="round_robin or parallel.")] = "round_robin",
    rounds: Annotated[int, typer.Option(help="Most rounds, 1 to 100.")] = 3,
    convergence: Annotated[bool, typer.Option(help="End the session once the agents agree.")] = True,
    manual: Annotated[bool, typer.Option(help="Wait for `comitia session advance` after each round.")] = False,
    max_cost: Annotated[str, typer.Option(help="Hard limit in dollars.")] = "1.00",
    model: Annotated[str, typer.Option(help="Model for every agent in place of its own.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it until it ends.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Starts a session.

    Example:  comitia session start "Tabs or spaces?" -a Athena -a Apollo --rounds 2 -f
    """
    from comitia_sdk.money import nano_usd

    with client() as mesh:
        session = mesh.sessions.start(
            topic,
            agents=agent,
            mode=mode,
            strategy=strategy,
            max_rounds=rounds,
            convergence=convergence,
            manual_advance=manual,
            max_cost_nano_usd=nano_usd(max_cost),
            model=model,
        )
        if follow:
            from comitia_sdk.cli.follow import follow_session

            session = follow_session(mesh, session.session_id, output)
    show_one(output, session, lines_of(session))


@app.command("list")
def list_(output: FormOption = Form.TABLE) -> None:
    """Lists sessions, newest first.

    Example:  comitia session list
    """
    with client() as mesh:
        sessions = list(mesh.sessions.list())
    rows = [
        (one.session_id, state_of(one), str(one.turn_count), dollars(one.cost_nano_usd), one.topic_start[:60])
        for one in sessions
    ]
    empty = "no sessions yet; start one with `comitia session start`, or run `comitia demo`"
    show_rows(output, sessions, ("session", "state", "turns", "cost", "topic"), rows, empty=empty)


@app.command()
def show(session_id: SessionId, output: FormOption = Form.TABLE) -> None:
    """Shows a session as it stands.

    Example:  comitia session show run_01j…
    """
    with client() as mesh:
        session = mesh.sessions.get(session_id)
    show_one(output, session, lines_of(session))


@app.command()
def turns(session_id: SessionId, output: FormOption = Form.TABLE) -> None:
    """Shows the recorded turns in order.

    Example:  comitia session turns run_01j… -o json
    """
    with client() as mesh:
        recorded = list(mesh.sessions.turns(session_id))
    if output is Form.JSON:
        show_json([as_json(turn) for turn in recorded])
        return
    for turn in recorded:
        typer.secho(f"{turn.index}. {turn.agent_name} (round {turn.round}, {turn.cost.model})", bold=True)
        typer.echo(f"{turn.output.content}\n")


@app.command()
def watch(
    session_id: SessionId,
    after: Annotated[int, typer.Option(help="Only events after this sequence.")] = 0,
    output: FormOption = Form.TABLE,
) -> None:
    """Follows a session until it ends.

    Example:  comitia session watch run_01j…
    """
    from comitia_sdk.cli.follow import follow_session

    with client() as mesh:
        follow_session(mesh, session_id, output, after=after)


@app.command()
def advance(session_id: SessionId, output: FormOption = Form.TABLE) -> None:
    """Begins the next round of a session that waits.

    Example:  comitia session advance run_01j…
    """
    with client() as mesh:
        session = mesh.sessions.advance(session_id)
    show_one(output, session, lines_of(session))


@app.command()
def cancel(session_id: SessionId, output: FormOption = Form.TABLE) -> None:
    """Stops a session.

    Example:  comitia session cancel run_01j…
    """
    with client() as mesh:
        session = mesh.sessions.cancel(session_id)
    show_one(output, session, lines_of(session))


def state_of(session: "Session") -> str:
    """Gives the state's short name."""
    from comitia.orchestrator.v1.session_pb2 import SessionState
    from comitia_sdk.enums import short_name

    return short_name(SessionState, session.state)


def lines_of(session: "Session") -> list[tuple[str, str]]:
    """Gives what a person wants to know of a session."""
    reason = f"{session.state_reason}: {session.state_message}" if session.state_message else session.state_reason
    return [
        ("session", session.session_id),
        ("topic", session.topic_start),
        ("state", state_of(session)),
        ("why", reason),
        ("agents", ", ".join(session.agents)),
        ("rounds", f"{session.rounds_executed} of at most {session.max_rounds}"),
        ("turns", str(session.turn_count)),
        ("converged", "yes" if session.converged else ""),
        ("tokens", f"{session.usage.input_tokens} in, {session.usage.output_tokens} out"),
        ("cost", f"{dollars(session.cost_nano_usd)} of {dollars(session.max_cost_nano_usd)}"),
        ("started", moment(session.start_time)),
        ("ended", moment(session.end_time)),
    ]
