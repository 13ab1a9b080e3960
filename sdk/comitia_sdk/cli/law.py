"""`comitia policy` and `comitia violations`: law, and what broke it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, moment, show_one, show_rows
from comitia_sdk.cli.reading import read_text

if TYPE_CHECKING:
    from comitia.policy.v1.policy_pb2 import Bundle

app = typer.Typer(no_args_is_help=True, help="Law: bundles of rules.")


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="Rules as YAML or JSON; `-` reads standard input.")],
    name: Annotated[str, typer.Option(help="Name, unless the file says it.")] = "",
    version: Annotated[str, typer.Option(help="Version, unless the file says it.")] = "",
    keep_inactive: Annotated[bool, typer.Option(help="Store the bundle without making it law.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Stores a bundle of rules and makes it law.

    Example:  comitia policy apply rules.yaml
    """
    source = read_text(file)
    with client() as mesh:
        bundle = mesh.policies.apply(source, name=name, version=version, keep_inactive=keep_inactive)
    show_one(output, bundle, _lines(bundle))


@app.command("list")
def list_(output: FormOption = Form.TABLE) -> None:
    """Lists bundles; one of them is law.

    Example:  comitia policy list
    """
    with client() as mesh:
        bundles = list(mesh.policies.list())
    rows = [
        (f"{one.name}@{one.version}", "law" if one.active else "", str(one.rule_count), moment(one.create_time))
        for one in bundles
    ]
    show_rows(output, bundles, ("bundle", "state", "rules", "made"), rows, empty="no bundles")


@app.command()
def show(bundle: str, output: FormOption = Form.TABLE) -> None:
    """Shows a bundle with its rules.

    Example:  comitia policy show ground
    """
    with client() as mesh:
        found = mesh.policies.get(bundle)
    show_one(output, found, _lines(found))
    if output is Form.TABLE:
        typer.echo(f"\n{found.source}")


@app.command()
def activate(bundle: str, output: FormOption = Form.TABLE) -> None:
    """Makes a stored bundle law.

    Example:  comitia policy activate ground@1.0.0
    """
    with client() as mesh:
        found = mesh.policies.activate(bundle)
    show_one(output, found, _lines(found))


def violations(
    session: Annotated[str, typer.Option(help="Only those of this session.")] = "",
    rule: Annotated[str, typer.Option(help="Only those of this rule.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Shows what broke the law, newest first.

    Example:  comitia violations --session run_01j…
    """
    from comitia.policy.v1.policy_pb2 import Action, Severity, Stage
    from comitia_sdk.enums import short_name

    with client() as mesh:
        found = list(mesh.policies.violations(run_id=session, rule=rule))
    rows = [
        (
            moment(one.create_time),
            one.rule,
            short_name(Severity, one.severity),
            short_name(Action, one.action),
            short_name(Stage, one.stage),
            one.run_id,
            one.rationale,
        )
        for one in found
    ]
    columns = ("when", "rule", "severity", "action", "stage", "session", "why")
    show_rows(output, found, columns, rows, empty="no violations")


def _lines(bundle: "Bundle") -> list[tuple[str, str]]:
    return [
        ("bundle", f"{bundle.name}@{bundle.version}"),
        ("state", "law" if bundle.active else "stored"),
        ("rules", str(bundle.rule_count)),
        ("digest", bundle.digest),
        ("made", moment(bundle.create_time)),
    ]
