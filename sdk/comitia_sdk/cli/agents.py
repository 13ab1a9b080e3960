"""`comitia agent`: immutable versions of agents."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, moment, show_one, show_rows
from comitia_sdk.cli.reading import read_mapping

if TYPE_CHECKING:
    from comitia.orchestrator.v1.agent_pb2 import Agent

app = typer.Typer(no_args_is_help=True, help="Immutable versions of agents.")


def agent_from_file(path: Path) -> "Agent":
    """Reads an agent's definition from YAML or JSON. Raises: CommandFailed."""
    from google.protobuf.json_format import ParseDict, ParseError

    from comitia.orchestrator.v1.agent_pb2 import Agent

    try:
        return ParseDict(read_mapping(path), Agent())
    except ParseError as error:
        raise CommandFailed(f"{path} is no agent: {error}", code=EXIT_USAGE) from error


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="YAML or JSON definition; `-` reads standard input.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a version of an agent from a file.

    Example:  comitia agent create athena.yaml
    """
    definition = agent_from_file(file)
    with client() as mesh:
        agent = mesh.agents.apply(definition)
    show_one(output, agent, _lines(agent))


@app.command("list")
def list_(output: FormOption = Form.TABLE) -> None:
    """Lists all versions.

    Example:  comitia agent list -o json
    """
    with client() as mesh:
        agents = list(mesh.agents.list())
    rows = [(f"{agent.name}@{agent.version}", agent.model or "default", agent.description) for agent in agents]
    show_rows(
        output,
        agents,
        ("agent", "model", "what it is"),
        rows,
        empty="no agents yet; make one with `comitia agent create FILE`",
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="`name`, its highest version, or `name@version`.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Shows one version.

    Example:  comitia agent show Athena@1.0.0
    """
    with client() as mesh:
        agent = mesh.agents.get(name)
    show_one(output, agent, _lines(agent))


def _lines(agent: "Agent") -> list[tuple[str, str]]:
    return [
        ("agent", f"{agent.name}@{agent.version}"),
        ("description", agent.description),
        ("instructions", agent.instructions),
        ("model", agent.model or "default"),
        ("tools", ", ".join(agent.tools)),
        ("digest", agent.digest),
        ("made", moment(agent.create_time)),
    ]
