"""`comitia tool`: tools, under law and money."""

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, plain, show_json, show_one, show_rows

if TYPE_CHECKING:
    from comitia.tools.v1.tool_service_pb2 import Tool

app = typer.Typer(no_args_is_help=True, help="Tools that agents call, under law and on a budget.")

ToolName = Annotated[str, typer.Argument(metavar="NAME", help="`name` (its highest version) or `name@version`.")]


@app.command("list")
def list_(
    forbidden: Annotated[
        bool, typer.Option("--forbidden", help="Also those that your tenant's security policy forbids.")
    ] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Lists the tools that agents may call.

    Example:  comitia tool list --forbidden
    """
    with client() as mesh:
        tools = list(mesh.tools.list(show_forbidden=forbidden))
    rows = [(f"{tool.name}@{tool.version}", _forbidden(tool) + tool.description) for tool in tools]
    show_rows(
        output,
        tools,
        ("tool", "what it does"),
        rows,
        empty="no tool may be called; see `comitia tool list --forbidden`",
    )


@app.command()
def show(name: ToolName, output: FormOption = Form.TABLE) -> None:
    """Shows a tool with its schema.

    Example:  comitia tool show calculator
    """
    with client() as mesh:
        tool = mesh.tools.get(name)
    show_one(output, tool, _lines(tool))


@app.command()
def invoke(
    name: ToolName,
    arguments: Annotated[str, typer.Argument(metavar="[JSON]", help="Arguments as a JSON object.")] = "{}",
    output: FormOption = Form.TABLE,
) -> None:
    """Calls a tool and shows its result.

    Example:  comitia tool invoke calculator '{"expression": "6*7"}'
    """
    try:
        values: object = json.loads(arguments)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CommandFailed(f"the arguments are no JSON: {error}", code=EXIT_USAGE) from error
    if not isinstance(values, dict):
        raise CommandFailed('the arguments must be a JSON object, such as {"expression": "6*7"}', code=EXIT_USAGE)
    with client() as mesh:
        invocation = mesh.tools.invoke(name, cast(dict[str, Any], values))
    if output is Form.JSON:
        show_json(as_json(invocation))
    else:
        typer.echo(plain("\n".join(part.text.text or part.tool_result.text for part in invocation.parts)))
    if invocation.failed:
        raise typer.Exit(EXIT_REFUSED)


def _lines(tool: "Tool") -> list[tuple[str, str]]:
    return [
        ("tool", f"{tool.name}@{tool.version}"),
        ("description", _forbidden(tool) + tool.description),
        ("arguments", json.dumps(as_json(tool).get("input_schema", {}))),
        ("calls a minute", str(tool.rate_limit_per_minute or 60)),
        ("allowed agents", ", ".join(tool.allowed_agents) or "*"),
    ]


def _forbidden(tool: "Tool") -> str:
    return "(forbidden by your tenant's security policy) " if tool.forbidden else ""
