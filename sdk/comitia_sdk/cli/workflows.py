"""`comitia workflow`: immutable versions of workflows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED, EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, plain, show_json, show_one, show_rows
from comitia_sdk.cli.reading import FileArgument, read_text

if TYPE_CHECKING:
    from comitia.orchestrator.v1.workflow_pb2 import Node, Workflow
    from comitia.orchestrator.v1.workflow_service_pb2 import ValidateWorkflowResponse

app = typer.Typer(no_args_is_help=True, help="Workflows: immutable versions of what runs do.")

FORMATS: Final = "What the file is written in: comitia, agentnet or agentflow. Default: told by its fields."
FormatOption = Annotated[str, typer.Option("--format", metavar="NAME", help=FORMATS, show_default=False)]
NameOption = Annotated[
    str, typer.Option("--name", metavar="NAME", help="For a file that has none.", show_default=False)
]
VersionOption = Annotated[
    str, typer.Option("--version", metavar="VERSION", help="For a file that has none.", show_default=False)
]


@app.command()
def create(
    file: FileArgument,
    written_in: FormatOption = "",
    name: NameOption = "",
    version: VersionOption = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a version of a workflow from a file. A version never changes; for a change, make a new one.

    Example:  comitia workflow create review.yaml
    """
    from comitia_sdk.errors import InvalidRequest

    text = read_text(file)
    with client() as mesh:
        try:
            workflow = mesh.workflows.create(text, format=written_in, name=name, version=version)
        except InvalidRequest as refused:
            if refused.reason == "WORKFLOW_INVALID":
                told = mesh.workflows.validate(text, format=written_in, name=name, version=version)
                _show_faults(told, file, err=True)
                raise CommandFailed(
                    f"{file} was not taken; mend its faults [WORKFLOW_INVALID]", code=EXIT_USAGE
                ) from None
            raise
    show_one(output, workflow, _lines(workflow))
    if output is Form.TABLE:
        typer.echo(f"\nstart it with `comitia run start {workflow.name} -f`")


@app.command()
def validate(
    file: FileArgument,
    written_in: FormatOption = "",
    name: NameOption = "",
    version: VersionOption = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Says everything that is wrong with a file, each fault with its place. Exits with 1 when anything is.

    Example:  comitia workflow validate review.yaml
    """
    text = read_text(file)
    with client() as mesh:
        answer = mesh.workflows.validate(text, format=written_in, name=name, version=version)
    if output is Form.JSON:
        show_json(as_json(answer))
    else:
        _show_faults(answer, file)
    if answer.faults:
        raise typer.Exit(EXIT_REFUSED)


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only versions of this workflow.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Lists workflows by name, then version.

    Example:  comitia workflow list
    """
    with client() as mesh:
        workflows = list(mesh.workflows.list(name))
    rows = [(one.name, one.version, str(one.node_count), moment(one.create_time), one.description) for one in workflows]
    empty = "no workflows yet; make one with `comitia workflow create FILE`"
    show_rows(output, workflows, ("workflow", "version", "nodes", "made", "description"), rows, empty=empty)


@app.command()
def show(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="`name`, or `name@version`.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Shows a workflow with its nodes, each after what it depends on.

    Example:  comitia workflow show review@1.0.0
    """
    with client() as mesh:
        found = mesh.workflows.get(workflow)
    show_one(output, found, _lines(found))
    if output is Form.TABLE:
        typer.echo("")
        rows = [(one.id, _kind_of(one), _before(one), one.description) for one in found.nodes]
        show_rows(output, found.nodes, ("node", "does", "after", "for"), rows, empty="no nodes")


def _lines(workflow: "Workflow") -> list[tuple[str, str]]:
    from comitia.orchestrator.v1.estimate_pb2 import PreflightMode
    from comitia_sdk.enums import short_name

    return [
        ("workflow", f"{workflow.name}@{workflow.version}"),
        ("description", workflow.description),
        ("nodes", str(workflow.node_count)),
        ("deadline", f"{workflow.deadline.seconds} s" if workflow.HasField("deadline") else ""),
        ("preflight", short_name(PreflightMode, workflow.policy.preflight) if workflow.policy.preflight else ""),
        ("takes", ", ".join(sorted(_properties(workflow)))),
        ("gives", ", ".join(sorted(workflow.output))),
        ("digest", workflow.digest),
        ("made", moment(workflow.create_time)),
    ]


def _kind_of(node: "Node") -> str:
    """Says what a node does, and with what."""
    match node.WhichOneof("kind"):
        case "agent":
            return f"agent {node.agent.agent}"
        case "step":
            return f"step {node.step.name}"
        case "tool":
            return f"tool {node.tool.tool}"
        case "map":
            return f"map of {_kind_of(node.map.body)}"
        case "run":
            return f"run {node.run.workflow}"
        case "wait" if node.wait.WhichOneof("until") == "timer":
            return f"wait {node.wait.timer.ToTimedelta().total_seconds():g} s"
        case "wait":
            return f"wait for {node.wait.signal}"
        case kind:
            return kind or ""


def _before(node: "Node") -> str:
    return ", ".join(f"{one.node}{' if' if one.HasField('when') else ''}" for one in node.depends_on)


def _show_faults(answer: "ValidateWorkflowResponse", file: Path, *, err: bool = False) -> None:
    """Shows each fault as compilers do, so that editors find the place."""
    for fault in answer.faults:
        place = f"{file}:{fault.line}:{fault.column}"
        typer.echo(f"{place}: {plain(fault.field) or 'the whole'} {plain(fault.message)}", err=err)
        typer.secho(f"  {fault.reason}", dim=True, err=err)
    if answer.more_faults:
        typer.echo("and more", err=err)
    if not answer.faults:
        workflow = answer.workflow
        typer.echo(f"{workflow.name}@{workflow.version} is sound: {workflow.node_count} nodes")


def _properties(workflow: "Workflow") -> list[str]:
    """Gives the names that the input may have, as far as its schema names them."""
    # Asked with `get`: asking a map of messages for what it has not makes it.
    properties = workflow.input_schema.fields.get("properties")
    return [] if properties is None else list(properties.struct_value.fields)
