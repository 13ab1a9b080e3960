"""`comitia model`: the tenant's own models, names to ask for, and rollouts."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.chat import chat
from comitia_sdk.cli.connect import client
from comitia_sdk.cli.model_add import add
from comitia_sdk.cli.model_batch import app as batch_app
from comitia_sdk.cli.model_registry import (
    AT,
    check,
    delete_route,
    health,
    retire,
    rollouts,
    routes,
    show,
    version_of,
)
from comitia_sdk.cli.model_route import route
from comitia_sdk.cli.models import models
from comitia_sdk.cli.output import Form, FormOption, dollars, moment, show_one, show_rows

if TYPE_CHECKING:
    from comitia.inference.v1.model_pb2 import ModelComparison, ModelRollout

app = typer.Typer(no_args_is_help=True, help="Models of your own, names to ask for, and rollouts.")
app.command("list")(models)
app.command()(add)
app.command()(show)
app.command()(route)
app.command()(chat)
app.command()(check)
app.command()(health)
app.command()(retire)
app.command()(routes)
app.command("delete-route")(delete_route)
app.command()(rollouts)
app.add_typer(batch_app, name="batch")

RolloutId = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Id, `rollout_…`.")]
_COMPARED = ("shadow", "calls", "same form", "words alike", "failed", "time", "cost", "characters", "not made")


@app.command()
def compare(
    name: Annotated[str, typer.Argument(metavar="ROUTE", help="Name that callers ask for.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Compares the answers of a route with those of its shadows, the newest first. Of two values, the route's is first.

    Example:  comitia model compare writer
    """
    with client() as mesh:
        found = mesh.models.comparison(name)
    show_rows(output, found, _COMPARED, map(_compared, found), empty="nothing was compared yet")


@app.command()
def quality(
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="Hold that paid for the answer, `hold_…`.")],
    score: Annotated[float, typer.Argument(metavar="SCORE", help="How good it was, 0 to 1.")],
) -> None:
    """Says how good an answer of a route with a bandit or a rollout was, once, up to a day after it.

    Example:  comitia model quality hold_01jx0000000000000000000000 0.9
    """
    with client() as mesh:
        mesh.models.report_quality(hold_id, score)


@app.command()
def canary(
    route_name: Annotated[str, typer.Argument(metavar="ROUTE", help="Name that callers ask for.")],
    to: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="What is tried; else its newest version.")],
    stable: Annotated[
        str, typer.Option("--from", metavar="MODEL[@VERSION]", help="What answers so far; else the route's first.")
    ] = "",
    steps: Annotated[str, typer.Option(help="Shares step by step, thousandths, such as `100,500`.")] = "",
    kind: Annotated[str, typer.Option(help="`canary`, `weighted` or `blue_green`.")] = "canary",
    quality_margin: Annotated[
        float,
        typer.Option(
            metavar="MARGIN",
            help="How much lower its scores (`comitia model quality`) may be, 0 to 1; above 0 steps wait for scores.",
        ),
    ] = 0.0,
    output: FormOption = Form.TABLE,
) -> None:
    """Tries a model on a share of a route; a judge takes it back when it does harm.

    Example:  comitia model canary writer acme/writer-new

    Example:  comitia model canary writer acme/writer-new --quality-margin 0.05
    """
    try:
        shares = [int(one) for one in steps.split(",") if one]
    except ValueError as cause:
        raise typer.BadParameter("are numbers with commas between them", param_hint="--steps") from cause
    with client() as mesh:
        answers = stable or mesh.models.route(route_name).members[0].deployment
        stable_name, stable_version = version_of(mesh, answers)
        canary_name, canary_version = version_of(mesh, to)
        rollout = mesh.models.start_rollout(
            route_name,
            stable=stable_name,
            stable_version=stable_version,
            canary=canary_name,
            canary_version=canary_version,
            kind=kind,
            steps_permille=shares,
            quality_margin=quality_margin,
        )
    show_one(output, rollout, _lines(rollout))


@app.command()
def rollout(rollout_id: RolloutId, output: FormOption = Form.TABLE) -> None:
    """Shows a rollout and what its judge has seen.

    Example:  comitia model rollout rollout_01jx0000000000000000000000
    """
    with client() as mesh:
        found = mesh.models.rollout(rollout_id)
    show_one(output, found, _lines(found))


@app.command()
def promote(rollout_id: RolloutId, output: FormOption = Form.TABLE) -> None:
    """Takes the next step of a rollout; after the last one the canary answers all.

    Example:  comitia model promote rollout_01jx0000000000000000000000
    """
    with client() as mesh:
        found = mesh.models.promote(rollout_id)
    show_one(output, found, _lines(found))


@app.command()
def rollback(rollout_id: RolloutId, output: FormOption = Form.TABLE) -> None:
    """Takes a rollout back: the stable version answers all again.

    Example:  comitia model rollback rollout_01jx0000000000000000000000
    """
    with client() as mesh:
        found = mesh.models.roll_back(rollout_id)
    show_one(output, found, _lines(found))


def _compared(one: "ModelComparison") -> tuple[str, ...]:
    """Says of each thing what the route did, then what the shadow did."""
    route, beside = one.route_side, one.shadow_side
    return (
        one.shadow,
        str(one.pairs),
        f"{one.same_form_permille / 10:g} %",
        f"{one.similarity * 100:.0f} %",
        f"{route.failed}, {beside.failed}",
        f"{route.latency_us / 1_000_000:.2f} s, {beside.latency_us / 1_000_000:.2f} s",
        f"{dollars(route.cost_nano_usd)}, {dollars(beside.cost_nano_usd)}",
        f"{route.characters}, {beside.characters}",
        str(one.skipped),
    )


def _lines(rollout: "ModelRollout") -> list[tuple[str, str]]:
    from comitia.inference.v1.model_pb2 import RolloutState
    from comitia_sdk.enums import short_name

    lines = [
        ("rollout", rollout.rollout_id),
        ("route", rollout.route),
        ("stable", f"{rollout.stable.deployment}{AT}{rollout.stable.version}"),
        ("canary", f"{rollout.canary.deployment}{AT}{rollout.canary.version}"),
        ("state", short_name(RolloutState, rollout.state)),
        ("share", f"{rollout.share_permille / 10:g} %"),
        *([("scores", f"at most {rollout.quality_margin:g} lower")] if rollout.quality_margin else []),
        ("began", moment(rollout.start_time)),
    ]
    if rollout.reason:
        lines += [("decided by", rollout.decided_by), ("because", rollout.reason)]
    seen = [one for one in rollout.evidence if one.canary_events or one.stable_events]
    lines += [
        (
            one.metric,
            f"{one.canary_events} of the canary, {one.stable_events} of the stable; evidence {one.e_value:.3g}",
        )
        for one in seen
    ]
    return lines
