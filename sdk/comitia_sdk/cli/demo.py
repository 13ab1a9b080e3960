"""`comitia demo`: two agents debate on a real language model, through all seven services."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from comitia_sdk.cli.failure import EXIT_STUB, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import dollars

if TYPE_CHECKING:
    from comitia.orchestrator.v1.session_pb2 import Session, Turn
    from comitia_sdk.sync import Client

DEFAULT_TOPIC: Final = "Cities should ban cars from their centres."
_SHIPPED: Final = ("athena", "apollo")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the demo runs."""

    topic: str
    mode: str = "debate"
    strategy: str = "round_robin"
    rounds: int = 2
    model: str = ""
    #: Definitions of the agents; empty means the two that ship with Comitia.
    agents: tuple[dict[str, Any], ...] = field(default=())


def demo(
    topic: Annotated[str, typer.Option(help="What the agents debate.")] = DEFAULT_TOPIC,
    file: Annotated[
        Path | None,
        typer.Option(help="YAML with topic, mode, strategy, rounds, model and agents.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Most rounds.")] = 2,
    model: Annotated[str, typer.Option(help="Model for every agent, such as local/smollm2-135m-instruct.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave a mesh that the demo started running.")] = False,
) -> None:
    """Runs a debate between two agents on a real model and shows turns, money and law.

    Starts a mesh if none is running, and stops it again unless told to keep it.

    Example:  comitia demo --topic "Remote work is better than the office." --rounds 3
    """
    plan = _plan_from(file) if file else _Plan(topic=topic, rounds=rounds, model=model)
    with _running_mesh(keep=keep) as started, _client() as mesh:
        _show_model(mesh, plan.model)
        names = [_apply(mesh, definition) for definition in plan.agents] or _apply_shipped(mesh)
        session = mesh.sessions.start(
            plan.topic,
            agents=names,
            mode=plan.mode,
            strategy=plan.strategy,
            max_rounds=plan.rounds,
            convergence=True,
            model=plan.model,
        )
        typer.secho(f"\n{plan.mode} of {' and '.join(session.agents)}: {plan.topic}", bold=True)
        from comitia_sdk.cli.follow import follow_session

        ended = follow_session(mesh, session.session_id)
        turns = list(mesh.sessions.turns(session.session_id))
        _show_end(mesh, ended, turns, mesh_stays=keep or not started)
    _exit_code(ended, turns)


@contextmanager
def _running_mesh(*, keep: bool) -> Iterator[bool]:
    """Makes sure a mesh answers; says whether the demo started it, and stops what it started."""
    from comitia_sdk.cli import mesh as mesh_commands
    from comitia_sdk.errors import ComitiaError

    try:
        with _client() as mesh:
            mesh.status()
    except ComitiaError:
        pass
    else:
        yield False
        return
    typer.echo("no mesh is running; starting one")
    launcher = mesh_commands.import_launcher()
    mesh_commands.start_mesh(launcher.UpOptions(detach=True), lambda _: None)
    try:
        yield True
    finally:
        if keep:
            typer.echo("\nthe mesh keeps running; stop it with `comitia down`")
        else:
            typer.echo("\nstopping the mesh that the demo started (use --keep, or `comitia up --detach`, to keep one)")
            launcher.down(None)


def _client() -> "Client":
    from comitia_sdk.sync import Client

    return Client()


def _plan_from(path: Path) -> _Plan:
    """Reads a plan from YAML. Raises: CommandFailed, naming what is wrong."""
    from comitia_sdk.cli.reading import read_mapping

    values = read_mapping(path)
    known = {"topic", "mode", "strategy", "rounds", "model", "agents"}
    unknown = sorted(values.keys() - known)
    if unknown:
        wanted = ", ".join(sorted(known))
        raise CommandFailed(f"{path}: {unknown[0]!r} is none of {wanted}", code=EXIT_USAGE)
    if not isinstance(values.get("topic"), str):
        raise CommandFailed(f"{path}: topic must be a text", code=EXIT_USAGE)
    agents: Any = values.get("agents") or []
    if not isinstance(agents, list) or not all(isinstance(one, dict) for one in agents):  # pyright: ignore[reportUnknownVariableType]
        raise CommandFailed(f"{path}: agents must be a list of definitions", code=EXIT_USAGE)
    try:
        rounds = int(values.get("rounds", 2))
    except (TypeError, ValueError) as error:
        raise CommandFailed(f"{path}: rounds must be a whole number", code=EXIT_USAGE) from error
    return _Plan(
        topic=values["topic"],
        mode=str(values.get("mode", "debate")),
        strategy=str(values.get("strategy", "round_robin")),
        rounds=rounds,
        model=str(values.get("model", "")),
        agents=tuple(agents),  # pyright: ignore[reportUnknownArgumentType]
    )


def _apply(mesh: "Client", definition: dict[str, Any]) -> str:
    from google.protobuf.json_format import ParseDict, ParseError

    from comitia.orchestrator.v1.agent_pb2 import Agent

    try:
        agent = ParseDict({"version": "1.0.0", **definition}, Agent())
    except ParseError as error:
        raise CommandFailed(f"an agent of the file is none: {error}", code=EXIT_USAGE) from error
    stored = mesh.agents.apply(agent)
    return f"{stored.name}@{stored.version}"


def _apply_shipped(mesh: "Client") -> list[str]:
    from comitia_sdk.cli.agents import agent_from_file

    names: list[str] = []
    for name in _SHIPPED:
        with as_file(files("comitia_sdk").joinpath("templates", "agents", f"{name}.yaml")) as path:
            stored = mesh.agents.apply(agent_from_file(path))
        names.append(f"{stored.name}@{stored.version}")
    return names


def _show_model(mesh: "Client", asked: str) -> None:
    chain = [one.name for one in mesh.models.list() if one.in_default_chain and one.task == 1]
    if asked:
        typer.echo(f"model: {asked}")
    elif chain:
        typer.echo(f"models, in the order they are asked: {', '.join(chain)}")
    else:
        raise CommandFailed(
            "no language model is configured; set OPENAI_API_KEY or ANTHROPIC_API_KEY before `comitia up`, "
            "or install the local model with `make setup`"
        )


def _show_end(mesh: "Client", session: "Session", turns: "list[Turn]", *, mesh_stays: bool) -> None:
    from comitia_sdk.cli.sessions import lines_of

    typer.secho("\nThe session", bold=True)
    for name, value in lines_of(session):
        if value:
            typer.echo(f"  {name:<10} {value}")
    passed = sum(1 for turn in turns for monitor in turn.monitors if monitor.status == "pass")
    matched = sum(1 for turn in turns for monitor in turn.monitors if monitor.status != "pass")
    verdicts = sum(len(turn.verdict_ids) for turn in turns)
    typer.secho("Law", bold=True)
    typer.echo(f"  {verdicts} verdicts: {passed} rules passed, {matched} matched")
    summary = mesh.costs.summary(by="model", run_id=session.session_id)
    typer.secho("Money", bold=True)
    for line in summary.lines:
        tokens = f"{line.usage.input_tokens} tokens in, {line.usage.output_tokens} out"
        typer.echo(f"  {line.key:<28} {line.event_count} calls, {tokens}, {dollars(line.cost_nano_usd)}")
    if mesh_stays:
        typer.secho("Where to look next", bold=True)
        for command in (
            f"comitia session turns {session.session_id} -o json",
            f"comitia violations --session {session.session_id}",
            f"comitia costs --by agent --session {session.session_id}",
            "comitia status",
        ):
            typer.echo(f"  {command}")


def _exit_code(session: "Session", turns: "list[Turn]") -> None:
    from comitia.orchestrator.v1 import session_pb2

    if session.state != session_pb2.SESSION_STATE_SUCCEEDED:
        raise CommandFailed(f"the session did not succeed: {session.state_reason} {session.state_message}".strip())
    if any(turn.output.stub for turn in turns):
        raise CommandFailed("the stub answered; this was no debate of a real model", code=EXIT_STUB)
