"""`comitia policy` and `comitia violations`: law, and what broke it."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, plain, show_json, show_one, show_rows
from comitia_sdk.cli.reading import FileArgument, read_text

if TYPE_CHECKING:
    from comitia.policy.v1.policy_pb2 import Bundle

app = typer.Typer(no_args_is_help=True, help="Law: bundles of rules for prompts, answers, tool calls and memories.")

BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help="`name` or `name@version`.")]


@app.command()
def apply(
    file: FileArgument,
    name: Annotated[str, typer.Option(help="Name, unless the file says it.")] = "",
    version: Annotated[str, typer.Option(help="Version, unless the file says it.")] = "",
    keep_inactive: Annotated[
        bool, typer.Option("--keep-inactive", help="Store the bundle without making it law.")
    ] = False,
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
def show(bundle: BundleName, output: FormOption = Form.TABLE) -> None:
    """Shows a bundle with its rules.

    Example:  comitia policy show ground
    """
    with client() as mesh:
        found = mesh.policies.get(bundle)
    show_one(output, found, _lines(found))
    if output is Form.TABLE:
        typer.echo(f"\n{plain(found.source)}")


@app.command()
def activate(bundle: BundleName, output: FormOption = Form.TABLE) -> None:
    """Makes a stored bundle law.

    Example:  comitia policy activate ground@1.0.0
    """
    with client() as mesh:
        found = mesh.policies.activate(bundle)
    show_one(output, found, _lines(found))


@app.command()
def check(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to judge.")],
    operation: Annotated[str, typer.Option(metavar="NAME", help="generate, invoke_tool or remember.")] = "generate",
    stage: Annotated[str, typer.Option(metavar="NAME", help="before, during or after the call.")] = "before",
    output: FormOption = Form.TABLE,
) -> None:
    """Judges a text under the law as it is now. Exits with 1 when the law stops it.

    Example:  comitia policy check "my password is hunter2"
    """
    from comitia.policy.v1.policy_pb2 import Action, Severity
    from comitia_sdk.enums import short_name

    with client() as mesh:
        verdict = mesh.policies.evaluate(text, operation=operation, stage=stage)
    if output is Form.JSON:
        show_json(as_json(verdict))
    else:
        matched = [
            (one.rule, short_name(Action, one.action), short_name(Severity, one.severity), one.rationale)
            for one in verdict.results
            if one.action
        ]
        said = "may go on" if verdict.allowed else "is stopped"
        typer.echo(f"{said} under {verdict.bundle}: {len(matched)} of {len(verdict.results)} rules matched")
        if matched:
            show_rows(output, [], ("rule", "action", "severity", "why"), matched, empty="")
        if verdict.parts:
            typer.echo(f"passes as: {plain(verdict.parts[0].text.text)}")
    if not verdict.allowed:
        raise typer.Exit(EXIT_REFUSED)


def violations(
    session: Annotated[str, typer.Option(metavar="SESSION", help="Only those of this session.")] = "",
    rule: Annotated[str, typer.Option(metavar="RULE", help="Only those of this rule.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Lists what broke the law, newest first.

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
