"""`comitia model`: the tenant's own models, names to ask for, and rollouts."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.chat import chat
from comitia_sdk.cli.connect import client
from comitia_sdk.cli.model_batch import app as batch_app
from comitia_sdk.cli.model_registry import (
    AT,
    check,
    delete_route,
    health,
    retire,
    rollouts,
    route_lines,
    routes,
    show,
    show_checked,
)
from comitia_sdk.cli.models import models
from comitia_sdk.cli.output import Form, FormOption, dollars, moment, show_one, show_rows

if TYPE_CHECKING:
    from comitia.inference.v1.generation_pb2 import CallPolicy
    from comitia.inference.v1.model_pb2 import ModelComparison, ModelRollout, RewardPolicy
    from comitia_sdk.sync import Client

app = typer.Typer(no_args_is_help=True, help="Models of your own, names to ask for, and rollouts.")
app.command("list")(models)
app.command()(show)
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
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name to ask for, such as `acme/writer`.")],
    model: Annotated[str, typer.Option(help="Model as the provider names it.")],
    adapter: Annotated[str, typer.Option(help="Who speaks to it.")] = "openai",
    base_url: Annotated[str, typer.Option(help="Where it is, unless where its provider usually is.")] = "",
    provider: Annotated[str, typer.Option(help="Who is paid, as `comitia prices` knows it.")] = "",
    key_from: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Variable of the environment that holds the provider's key.")
    ] = "",
    embeds: Annotated[bool, typer.Option("--embeds", help="A new model makes vectors instead of answers.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Registers a model, or a new version of one, and checks it with one small call.

    Example:  comitia model add acme/writer --model gpt-4o-mini --key-from OPENAI_API_KEY
    """
    key = os.environ.get(key_from, "") if key_from else ""
    if key_from and not key:
        raise typer.BadParameter(f"the variable {key_from} is not set", param_hint="--key-from")
    with client() as mesh:
        known = {one.name: one.deployment_id for one in mesh.models.list() if one.deployment_id}
        if name in known:
            made = mesh.models.add_version(
                known[name], adapter=adapter, model=model, base_url=base_url, api_key=key, provider=provider
            )
        else:
            made = mesh.models.register(
                name,
                adapter=adapter,
                model=model,
                base_url=base_url,
                api_key=key,
                provider=provider,
                embeds=embeds,
            )
        checked = mesh.models.check(made.deployment_id, made.versions[0].version)
    show_checked(output, name, checked, deployment_id=made.deployment_id)


@app.command()
def route(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name to ask for, such as `writer`.")],
    members: Annotated[
        list[str], typer.Argument(metavar="MODEL[=WEIGHT]…", help="Models in order, or each with its weight of 1000.")
    ],
    mode: Annotated[
        str,
        typer.Option(
            help="`chain`, `weighted`, `tiered`, `bandit_thompson` or `bandit_linucb`; else as the models say."
        ),
    ] = "",
    sla: Annotated[float, typer.Option(metavar="SECONDS", help="Time in which an answer is to be whole.")] = 0.0,
    min_tier: Annotated[str, typer.Option(help="Lowest tier that may answer: `bronze`, `silver` or `gold`.")] = "",
    reward: Annotated[
        str,
        typer.Option(metavar="QUALITY,COST,LATENCY", help="What a bandit goes by: weights that add up to 1000."),
    ] = "",
    dear: Annotated[
        str, typer.Option(metavar="USD", help="Cost of an answer for which a bandit gives nothing; else 0.01.")
    ] = "",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What calls do that do not say it: `mid_stream`, `on_disconnect`, `work_class`, `cache`. Repeatable.",
        ),
    ] = None,
    shadow: Annotated[
        str, typer.Option(metavar="MODEL=SHARE", help="Model that is asked beside, to compare; its share of 1000.")
    ] = "",
    cache_seconds: Annotated[
        float, typer.Option("--cache-seconds", help="How long an answer is given to equal calls; 0: never.")
    ] = 0.0,
    semantic_threshold: Annotated[
        float,
        typer.Option(
            "--semantic-threshold",
            help="How near questions must be to share an answer, 0.5 to 1; needs the local model. 0: never.",
        ),
    ] = 0.0,
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a name to ask for, or replaces it.

    Example:  comitia model route writer acme/writer openai/gpt-4o-mini

    Example:  comitia model route writer acme/writer=900 acme/next=100

    Example:  comitia model route writer acme/small acme/large --mode tiered --min-tier silver --sla 2

    Example:  comitia model route nightly acme/small --policy work_class=batch --policy cache=no

    Example:  comitia model route writer acme/writer --shadow acme/next=100

    Example:  comitia model route writer acme/a acme/b --mode bandit_thompson --sla 5 --reward 600,300,100

    Example:  comitia model route writer acme/writer openai/gpt-4o-mini --cache-seconds 600
    """
    pairs = [member.rpartition("=") if "=" in member else (member, "", "") for member in members]
    weighted = [one for one in pairs if one[1]]
    if weighted and len(weighted) < len(pairs):
        raise typer.BadParameter("give all of them a weight, or none", param_hint="MODEL")
    try:
        weights = {one: int(weight) for one, _, weight in weighted}
    except ValueError as cause:
        raise typer.BadParameter("a weight is a number from 0 to 1000", param_hint="MODEL") from cause
    beside, _, share = shadow.rpartition("=")
    if shadow and not (beside and share.isdecimal()):
        raise typer.BadParameter("is a model and its share, such as acme/next=100", param_hint="--shadow")
    with client() as mesh:
        made = mesh.models.set_route(
            name,
            weights or [one for one, _, _ in pairs],
            mode=mode,
            sla_seconds=sla,
            min_tier=min_tier,
            reward=_reward(reward, dear) if reward or dear else None,
            policy=_policy(policy) if policy else None,
            shadow=beside,
            shadow_permille=int(share) if shadow else 0,
            cache_seconds=cache_seconds,
            semantic_threshold=semantic_threshold,
        )
    show_one(output, made, route_lines(made))


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
        stable_name, stable_version = _version(mesh, answers)
        canary_name, canary_version = _version(mesh, to)
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


def _reward(weights: str, dear: str) -> "RewardPolicy":
    from comitia.inference.v1.model_pb2 import RewardPolicy
    from comitia_sdk.money import nano_usd

    try:
        quality, cost, latency = [int(one) for one in weights.split(",")] if weights else (0, 0, 0)
    except ValueError as cause:
        raise typer.BadParameter("are three numbers with commas between them", param_hint="--reward") from cause
    try:
        dear_nano_usd = nano_usd(dear) if dear else 0
    except ValueError as cause:
        raise typer.BadParameter(str(cause), param_hint="--dear") from cause
    return RewardPolicy(
        quality_permille=quality,
        cost_permille=cost,
        latency_permille=latency,
        dear_nano_usd=dear_nano_usd,
    )


def _policy(said: list[str]) -> "CallPolicy":
    from comitia.inference.v1 import generation_pb2
    from comitia_sdk.enums import number_of, short_names

    kinds = {
        "mid_stream": generation_pb2.MidStream,
        "on_disconnect": generation_pb2.OnDisconnect,
        "work_class": generation_pb2.WorkClass,
        "cache": generation_pb2.CacheUse,
    }
    policy = generation_pb2.CallPolicy()
    for one in said:
        name, _, value = one.partition("=")
        kind = kinds.get(name.replace("-", "_"))
        if kind is None:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(kinds)}", param_hint="--policy")
        if value.lower() not in short_names(kind):
            raise typer.BadParameter(f"{name} is one of {', '.join(short_names(kind))}", param_hint="--policy")
        setattr(policy, name.replace("-", "_"), number_of(kind, value, field=name))
    return policy


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


def _version(mesh: "Client", named: str) -> tuple[str, int]:
    """Reads `name@version`; without a version, the newest of a registered model, or 0 for one of the settings."""
    name, at, number = named.rpartition(AT)
    if at and number.isdecimal():
        return name, int(number)
    for one in mesh.models.list():
        if one.name == named and one.versions:
            return named, one.versions[0].version
    return named, 0


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
