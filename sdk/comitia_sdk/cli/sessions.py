"""`comitia session`: sessions of several agents."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.estimates import PREFLIGHT_HELP, estimated, estimated_after
from comitia_sdk.cli.follow import follow_session, require_success, score_words, show_turn, state_of
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
from comitia_sdk.cli.reading import read_dollars
from comitia_sdk.cli.tokens import in_and_out

if TYPE_CHECKING:
    from comitia.orchestrator.v1.session_pb2 import Session
    from comitia_sdk.sync import Client

app = typer.Typer(no_args_is_help=True, help="Sessions: several agents deliberate on a topic.")

SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="Id of the session, `run_…`.")]
MODES: Final = "debate, brainstorm, consensus, dialogue or answer."
STRATEGIES: Final = (
    "Who speaks when: round_robin (each hears those before), parallel (all at once), moderated (an agent picks), or "
    "step:NAME (a worker's step picks)."
)


@app.command()
def start(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="What to deliberate on.")],
    agent: Annotated[
        list[str] | None,
        typer.Option(
            "--agent",
            "-a",
            metavar="NAME",
            help="Who takes part, `name` or `name@version`; repeat for each. Default: Athena and Apollo, who ship with "
            "Comitia.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[str, typer.Option(metavar="MODE", help=MODES)] = "debate",
    strategy: Annotated[str, typer.Option(metavar="NAME", help=STRATEGIES)] = "round_robin",
    moderator: Annotated[
        str, typer.Option(metavar="NAME", help="Agent that picks who speaks, for moderated: `name` or `name@version`.")
    ] = "",
    pool: Annotated[
        str, typer.Option(metavar="NAME", help="Pool of the workers that have the step, for step:NAME.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Most rounds.")] = 3,
    convergence: Annotated[
        bool, typer.Option("--convergence/--all-rounds", help="End as soon as the agents agree, or play all rounds.")
    ] = True,
    meaning: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SIMILARITY",
            help="Agents also agree when their turns are this alike in meaning; 0: by words alone. Asks the embedder.",
        ),
    ] = 0.0,
    manual: Annotated[bool, typer.Option("--manual", help="Wait for `comitia session advance` after a round.")] = False,
    max_cost: Annotated[str, typer.Option(metavar="DOLLARS", help="Hard limit of the session.")] = "1.00",
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model for every agent in place of its own; see `comitia models`.")
    ] = "",
    project: Annotated[
        str, typer.Option(metavar="NAME", help="Project that its calls are charged to, and whose budget they need.")
    ] = "",
    preflight: Annotated[str, typer.Option(metavar="MODE", help=PREFLIGHT_HELP, show_default=False)] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it until it ends.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Starts a session and returns at once; with -f, shows it until it ends.

    Example:  comitia session start "Tabs or spaces?" -f
    """
    from comitia.orchestrator.v1.session_pb2 import ConvergencePolicy

    limit = read_dollars(max_cost)
    with client() as mesh:
        if not agent:
            from comitia_sdk.cli.agents import apply_shipped

            agent = apply_shipped(mesh)
        session = mesh.sessions.start(
            topic,
            agents=agent,
            mode=mode,
            strategy=strategy,
            moderator=moderator,
            pool=pool,
            max_rounds=rounds,
            convergence=ConvergencePolicy(enabled=convergence, semantic_threshold=meaning),
            manual_advance=manual,
            max_cost_nano_usd=limit,
            model=model,
            metadata={"project": project} if project else {},
            preflight=preflight,
        )
        if follow:
            _follow(mesh, session.session_id, output)
            return
    show_one(output, session, lines_of(session))
    if output is Form.TABLE:
        typer.echo(f"\nwatch it with `comitia session watch {session.session_id}`")


@app.command("list")
def list_(limit: LimitOption = DEFAULT_LIMIT, output: FormOption = Form.TABLE) -> None:
    """Lists sessions, newest first.

    Example:  comitia session list
    """
    with client() as mesh:
        sessions = newest(mesh.sessions.list(), limit)
    rows = [
        (
            one.session_id,
            state_of(one),
            moment(one.start_time),
            str(one.turn_count),
            dollars(one.cost_nano_usd),
            one.topic_start,
        )
        for one in sessions
    ]
    empty = "no sessions yet; start one with `comitia session start TOPIC`, or run `comitia demo`"
    show_rows(output, sessions, ("session", "state", "started", "turns", "cost", "topic"), rows, empty=empty)


@app.command()
def show(session_id: SessionId, output: FormOption = Form.TABLE) -> None:
    """Shows a session as it stands.

    Example:  comitia session show run_01j…
    """
    with client() as mesh:
        session = mesh.sessions.get(session_id)
        learnt = "" if output is Form.JSON else estimated_after(mesh, session, session_id)
    show_one(output, session, lines_of(session, learnt))


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
    if not recorded:
        typer.echo("no turns yet")
    for turn in recorded:
        show_turn(turn)


@app.command()
def watch(
    session_id: SessionId,
    after: Annotated[int, typer.Option(min=0, metavar="SEQUENCE", help="Only events after this sequence.")] = 0,
    output: FormOption = Form.TABLE,
) -> None:
    """Shows what happened and what happens, until the session ends. Ctrl-C stops watching, not the session.

    As JSON, each event is one line.

    Example:  comitia session watch run_01j…
    """
    with client() as mesh:
        _follow(mesh, session_id, output, after=after)


@app.command()
def advance(session_id: SessionId, output: FormOption = Form.TABLE) -> None:
    """Begins the next round of a session that was started with --manual.

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


def lines_of(session: "Session", learnt: str = "") -> list[tuple[str, str]]:
    """Gives what a person wants to know of a session.

    Args:
        learnt: what would have been expected of it, where nothing was.
    """
    from comitia.orchestrator.v1.session_pb2 import SessionMode, SessionStrategy
    from comitia_sdk.enums import short_name

    reason = f"{session.state_message} [{session.state_reason}]" if session.state_message else session.state_reason
    kind = f"{short_name(SessionMode, session.mode)}, {short_name(SessionStrategy, session.strategy)}"
    last = session.topic_final if session.topic_final != session.topic_start else ""
    return [
        ("session", session.session_id),
        ("topic", session.topic_start),
        ("outcome", last),
        ("state", state_of(session)),
        ("why", reason),
        ("mode", kind),
        ("agents", ", ".join(session.agents)),
        ("who picks", session.moderator or session.strategy_step.name),
        ("forked from", session.forked_from_run_id),
        ("policy", f"{session.policy}, {session.policy_digest}" if session.policy else ""),
        ("rounds", f"{session.rounds_executed} of at most {session.max_rounds}, {session.turn_count} turns"),
        ("last round", score_words(session.scores[-1]) if session.scores else ""),
        ("tokens", in_and_out(session.usage)),
        ("cost", f"{dollars(session.cost_nano_usd)} of at most {dollars(session.max_cost_nano_usd)}"),
        ("estimated", estimated(session) or learnt),
        ("started", moment(session.start_time)),
        ("ended", moment(session.end_time)),
    ]


def _follow(mesh: "Client", session_id: str, output: Form, *, after: int = 0) -> None:
    session = follow_session(mesh, session_id, output, after=after)
    if output is Form.TABLE:
        typer.echo("")
        show_one(output, session, lines_of(session))
    require_success(session)
