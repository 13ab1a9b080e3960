"""`comitia demo`: two agents debate on a real language model, through all seven services."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from comitia_sdk.cli.agents import agent_from, apply_shipped
from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_STUB, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.follow import follow_session, require_success
from comitia_sdk.cli.output import dollars, plain, show_lines
from comitia_sdk.cli.reading import check_names, read_mapping
from comitia_sdk.cli.tokens import tokens_in, tokens_out

if TYPE_CHECKING:
    from comitia.cost.v1.ledger_service_pb2 import GetCostSummaryResponse
    from comitia.orchestrator.v1.session_pb2 import Session, Turn
    from comitia_sdk.sync import Client

DEFAULT_TOPIC: Final = "Cities should ban cars from their centres."
_DEFAULT_ROUNDS: Final = 2
#: Cosine similarity from which turns count as saying the same.
_SAME_MEANING: Final = 0.95
_FIELDS: Final = frozenset({"topic", "mode", "strategy", "rounds", "model", "agents"})
_NO_MODEL: Final = (
    "no language model is configured; set OPENAI_API_KEY or ANTHROPIC_API_KEY before `comitia up`, "
    "or install the local model with `make setup`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the demo runs."""

    topic: str = DEFAULT_TOPIC
    mode: str = "debate"
    strategy: str = "round_robin"
    rounds: int = _DEFAULT_ROUNDS
    model: str = ""
    #: Names of agents that exist, or definitions; empty means the two that ship with Comitia.
    agents: tuple[str | dict[str, Any], ...] = ()


def demo(
    topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help=f"What they debate. Default: {DEFAULT_TOPIC}")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML with any of topic, mode, strategy, rounds, model and agents (names or definitions). "
            "Options on the command line win.",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=100, help=f"Most rounds. Default: {_DEFAULT_ROUNDS}")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model for every agent, such as local/smollm2-135m-instruct."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave a mesh that the demo started running.")] = False,
) -> None:
    """Runs a debate between two agents on a real language model and shows turns, money and law.

    Starts a mesh if none is running, and stops it again unless told to --keep it. Ctrl-C stops the debate.

    Example:  comitia demo --topic "Remote work is better than the office." --rounds 3
    """
    plan = _plan_from(file) if file else _Plan()
    asked: dict[str, Any] = {"topic": topic, "rounds": rounds, "model": model}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    with _running_mesh(keep=keep) as started, client() as mesh:
        session, turns = _debate(mesh, plan)
        _show_end(mesh, session, turns, mesh_stays=keep or not started)
    require_success(session)
    if any(turn.output.stub for turn in turns):
        raise CommandFailed("the stub answered; this was no debate of a real model", code=EXIT_STUB)


def _debate(mesh: "Client", plan: _Plan) -> tuple["Session", "list[Turn]"]:
    from comitia.orchestrator.v1.session_pb2 import ConvergencePolicy

    has_embedder = _show_model(mesh, plan.model)
    names = [_apply(mesh, one, number) for number, one in enumerate(plan.agents, start=1)] or apply_shipped(mesh)
    session = mesh.sessions.start(
        plan.topic,
        agents=names,
        mode=plan.mode,
        strategy=plan.strategy,
        max_rounds=plan.rounds,
        convergence=ConvergencePolicy(enabled=True, semantic_threshold=_SAME_MEANING if has_embedder else 0.0),
        model=plan.model,
    )
    who = " and ".join(name.partition("@")[0] for name in session.agents)
    typer.secho(f"\n{plan.mode.capitalize()} of {who}: {plain(plan.topic)}", bold=True)
    try:
        ended = follow_session(mesh, session.session_id)
    except KeyboardInterrupt:
        mesh.sessions.cancel(session.session_id)
        typer.echo(f"\nthe session was cancelled; what was said is in `comitia session turns {session.session_id}`")
        raise
    return ended, list(mesh.sessions.turns(session.session_id))


@contextmanager
def _running_mesh(*, keep: bool) -> Iterator[bool]:
    """Makes sure a mesh answers; says whether the demo started it, and stops what it started.

    Raises: ComitiaError: COMITIA_URL names a mesh that does not answer; another one would be of no use.
    """
    from comitia_sdk.errors import ComitiaError

    try:
        with client() as mesh:
            mesh.status()
        found = True
    except ComitiaError:
        if os.environ.get("COMITIA_URL"):
            raise
        found = False
    if found:
        yield False
        return
    from comitia_sdk.cli import mesh as mesh_commands

    launcher = mesh_commands.import_launcher()
    typer.echo("no mesh is running; starting one")
    mesh_commands.start_mesh(launcher.UpOptions(detach=True), lambda _: None)
    try:
        yield True
    finally:
        if keep:
            typer.echo("\nthe mesh keeps running; stop it with `comitia down`")
        else:
            typer.echo("\nstopping the mesh that the demo started; `comitia demo --keep` leaves it running")
            launcher.down(None)


def _plan_from(path: Path) -> _Plan:
    """Reads a plan from YAML. Raises: CommandFailed, naming what is wrong."""
    values = read_mapping(path)
    check_names(values, set(_FIELDS), where=str(path))
    for name in ("topic", "mode", "strategy", "model"):
        if not isinstance(values.get(name, ""), str):
            raise CommandFailed(f"{path}: {name} must be a text; put it in quotes", code=EXIT_USAGE)
    if not _is_rounds(values.get("rounds", _DEFAULT_ROUNDS)):
        raise CommandFailed(f"{path}: rounds must be a whole number from 1 to 100", code=EXIT_USAGE)
    agents: Any = values.pop("agents", None) or []
    if not isinstance(agents, list) or not all(isinstance(one, dict | str) for one in cast(list[object], agents)):
        raise CommandFailed(f"{path}: agents must be a list of names or definitions", code=EXIT_USAGE)
    return _Plan(**values, agents=tuple(cast(list[str | dict[str, Any]], agents)))


def _is_rounds(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100


def _apply(mesh: "Client", agent: str | dict[str, Any], number: int) -> str:
    if isinstance(agent, str):
        return agent
    stored = mesh.agents.apply(agent_from(agent, where=f"agent {number} of the file"))
    return f"{stored.name}@{stored.version}"


def _show_model(mesh: "Client", asked: str) -> bool:
    """Says who will be asked; tells whether the mesh has an embedder to compare turns by meaning."""
    from comitia.inference.v1.model_pb2 import MODEL_TASK_EMBED, MODEL_TASK_GENERATE

    models = mesh.models.list()
    known = [one.name for one in models if one.task == MODEL_TASK_GENERATE]
    chain = [one.name for one in models if one.in_default_chain and one.task == MODEL_TASK_GENERATE]
    if not asked and not chain:
        raise CommandFailed(_NO_MODEL)
    if asked not in ("", "default", *known):
        sentence = f"there is no model {asked!r}; there are: {', '.join(known) or 'none'}"
        raise CommandFailed(sentence, code=EXIT_USAGE)
    typer.echo(f"model: {asked}" if asked else f"models, the first that answers: {', '.join(chain)}")
    return any(one.in_default_chain and one.task == MODEL_TASK_EMBED for one in models)


def _show_end(mesh: "Client", session: "Session", turns: "list[Turn]", *, mesh_stays: bool) -> None:
    from comitia_sdk.cli.sessions import lines_of

    typer.secho("\nThe session", bold=True)
    show_lines(lines_of(session), indent="  ")
    passed = sum(1 for turn in turns for monitor in turn.monitors if monitor.status == "pass")
    matched = sum(1 for turn in turns for monitor in turn.monitors if monitor.status != "pass")
    verdicts = sum(len(turn.verdict_ids) for turn in turns)
    typer.secho("Law", bold=True)
    typer.echo(f"  {verdicts} verdicts: {passed} rules passed, {matched} matched")
    summary = mesh.costs.summary(by="model", run_id=session.session_id)
    typer.secho("Money", bold=True)
    show_lines([(line.key, _spent(line)) for line in summary.lines], indent="  ")
    if mesh_stays:
        typer.secho("Where to look next", bold=True)
        for command in (
            f"comitia session turns {session.session_id} -o json",
            f"comitia violations --session {session.session_id}",
            f"comitia costs --by agent --session {session.session_id}",
            "comitia status",
        ):
            typer.echo(f"  {command}")


def _spent(line: "GetCostSummaryResponse.Line") -> str:
    tokens = f"{tokens_in(line.usage)} tokens in, {tokens_out(line.usage)} out"
    return f"{line.event_count} calls, {tokens}, {dollars(line.cost_nano_usd)}"
