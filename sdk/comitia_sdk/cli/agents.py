"""`comitia agent`: immutable versions of agents."""

from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.follow import require_success
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, plain, show_json, show_one, show_rows
from comitia_sdk.cli.reading import FileArgument, parse_into, read_dollars, read_mapping

if TYPE_CHECKING:
    from comitia.orchestrator.v1.agent_pb2 import Agent
    from comitia_sdk.sync import Client

app = typer.Typer(no_args_is_help=True, help="Agents: immutable versions of a persona, its model and its limits.")

#: The agents that ship with Comitia, in order of speech.
SHIPPED: Final = ("Athena", "Apollo")


def agent_from(values: dict[str, Any], *, where: str) -> "Agent":
    """Reads an agent's definition; its version is 1.0.0 unless it says otherwise. Raises: CommandFailed."""
    from comitia.orchestrator.v1.agent_pb2 import Agent

    return parse_into(Agent(), {"version": "1.0.0", **values}, where=where)


def apply_shipped(mesh: "Client") -> list[str]:
    """Makes the shipped agents, where they are not there yet. Returns their names with versions."""
    import yaml

    names: list[str] = []
    for name in SHIPPED:
        stored = mesh.agents.apply(agent_from(yaml.safe_load(_shipped_text(name)), where=name))
        names.append(f"{stored.name}@{stored.version}")
    return names


@app.command()
def create(file: FileArgument, output: FormOption = Form.TABLE) -> None:
    """Makes a version of an agent from a file. A version never changes; for a change, make a new one.

    Example:  comitia agent create athena.yaml
    """
    definition = agent_from(read_mapping(file), where=str(file))
    with client() as mesh:
        agent = mesh.agents.apply(definition)
    show_one(output, agent, _lines(agent))


@app.command()
def example(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Athena or Apollo.")] = SHIPPED[0],
) -> None:
    """Prints the definition of an agent that ships with Comitia, to begin your own with.

    Example:  comitia agent example > mine.yaml
    """
    known = {shipped.lower(): shipped for shipped in SHIPPED}
    if name.lower() not in known:
        raise CommandFailed(f"{name!r} does not ship with Comitia; there are: {', '.join(SHIPPED)}", code=EXIT_USAGE)
    typer.echo(_shipped_text(known[name.lower()]), nl=False)


@app.command("list")
def list_(output: FormOption = Form.TABLE) -> None:
    """Lists all versions.

    Example:  comitia agent list -o json
    """
    with client() as mesh:
        agents = list(mesh.agents.list())
    rows = [(f"{agent.name}@{agent.version}", agent.model or "default", agent.description) for agent in agents]
    empty = "no agents yet; make one with `comitia agent create FILE`"
    show_rows(output, agents, ("agent", "model", "what it is"), rows, empty=empty)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="`name` (its highest version) or `name@version`.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Shows one version.

    Example:  comitia agent show Athena@1.0.0
    """
    with client() as mesh:
        agent = mesh.agents.get(name)
    show_one(output, agent, _lines(agent))


@app.command()
def ask(
    name: Annotated[str, typer.Argument(metavar="NAME", help="`name` (its highest version) or `name@version`.")],
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="What to ask.")],
    max_cost: Annotated[str, typer.Option(metavar="DOLLARS", help="Hard limit of the turn.")] = "1.00",
    model: Annotated[str, typer.Option(metavar="NAME", help="Model to ask in place of the agent's own.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Asks one agent, and prints what it answers.

    Example:  comitia agent ask Athena "What speaks against it?"
    """
    limit = read_dollars(max_cost)
    with client() as mesh:
        answer = mesh.agents.ask(name, prompt, max_cost_nano_usd=limit, model=model)
    if output is Form.JSON:
        show_json(as_json(answer))
    elif answer.HasField("turn"):
        typer.echo(plain(answer.turn.output.content).strip())
    require_success(answer.session)


def _shipped_text(name: str) -> str:
    place = files("comitia_sdk").joinpath("templates", "agents", f"{name.lower()}.yaml")
    return place.read_text(encoding="utf-8")


def _lines(agent: "Agent") -> list[tuple[str, str]]:
    from comitia.orchestrator.v1.agent_pb2 import AGENT_PLANNING_PLANNED

    return [
        ("agent", f"{agent.name}@{agent.version}"),
        ("description", agent.description),
        ("instructions", agent.instructions),
        ("model", agent.model or "default"),
        ("longest answer", f"{agent.max_output_tokens or 512} tokens"),
        ("tools", ", ".join(agent.tools)),
        ("plans first", "yes" if agent.planning == AGENT_PLANNING_PLANNED else "no"),
        ("digest", agent.digest),
        ("made", moment(agent.create_time)),
    ]
