"""`comitia model route`: names to ask for, and how they choose among models."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.model_registry import route_lines
from comitia_sdk.cli.output import Form, FormOption, show_one

if TYPE_CHECKING:
    from comitia.inference.v1.generation_pb2 import CallPolicy
    from comitia.inference.v1.model_pb2 import RewardPolicy

Members = Annotated[
    list[str], typer.Argument(metavar="MODEL[=WEIGHT]…", help="Models in order, or each with its weight of 1000.")
]
Mode = Annotated[
    str,
    typer.Option(help="`chain`, `weighted`, `tiered`, `bandit_thompson` or `bandit_linucb`; else as the models say."),
]
Sla = Annotated[float, typer.Option(metavar="SECONDS", help="Time in which an answer is to be whole.")]
MinTier = Annotated[str, typer.Option(help="Lowest tier that may answer: `bronze`, `silver` or `gold`.")]
Reward = Annotated[
    str, typer.Option(metavar="QUALITY,COST,LATENCY", help="What a bandit goes by: weights that add up to 1000.")
]
Dear = Annotated[
    str, typer.Option(metavar="USD", help="Cost of an answer for which a bandit gives nothing; else 0.01.")
]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="What calls do that do not say it: `mid_stream`, `on_disconnect`, `work_class`, `cache`, or "
        "`hedge_after` so many seconds. Repeatable.",
    ),
]
Shadow = Annotated[
    str, typer.Option(metavar="MODEL=SHARE", help="Model that is asked beside, to compare; its share of 1000.")
]
CacheSeconds = Annotated[
    float, typer.Option("--cache-seconds", help="How long an answer is given to equal calls; 0: never.")
]
SemanticThreshold = Annotated[
    float,
    typer.Option(
        "--semantic-threshold",
        help="How near questions must be to share an answer, 0.5 to 1; needs the local model. 0: never.",
    ),
]
#: The one thing of a policy that is a time.
_HEDGE: Final = "hedge_after"


def route(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name to ask for, such as `writer`.")],
    members: Members,
    mode: Mode = "",
    sla: Sla = 0.0,
    min_tier: MinTier = "",
    reward: Reward = "",
    dear: Dear = "",
    policy: Policy = None,
    shadow: Shadow = "",
    cache_seconds: CacheSeconds = 0.0,
    semantic_threshold: SemanticThreshold = 0.0,
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a name to ask for, or replaces it.

    Example:  comitia model route writer acme/writer openai/gpt-4o-mini

    Example:  comitia model route writer acme/writer=900 acme/next=100

    Example:  comitia model route writer acme/small acme/large --mode tiered --min-tier silver --sla 2

    Example:  comitia model route nightly acme/small --policy work_class=batch --policy cache=no

    Example:  comitia model route writer acme/a acme/b --policy hedge_after=2

    Example:  comitia model route writer acme/writer --shadow acme/next=100

    Example:  comitia model route writer acme/a acme/b --mode bandit_thompson --sla 5 --reward 600,300,100

    Example:  comitia model route writer acme/writer openai/gpt-4o-mini --cache-seconds 600
    """
    asked, (beside, share) = _members(members), _shadow(shadow)
    with client() as mesh:
        made = mesh.models.set_route(
            name,
            asked,
            mode=mode,
            sla_seconds=sla,
            min_tier=min_tier,
            reward=_reward(reward, dear) if reward or dear else None,
            policy=_policy(policy) if policy else None,
            shadow=beside,
            shadow_permille=share,
            cache_seconds=cache_seconds,
            semantic_threshold=semantic_threshold,
        )
    show_one(output, made, route_lines(made))


def _members(said: Sequence[str]) -> dict[str, int] | list[str]:
    """Reads models in order, or their weights by name."""
    pairs = [member.rpartition("=") if "=" in member else (member, "", "") for member in said]
    twice = next((one for one, times in Counter(pair[0] for pair in pairs).items() if times > 1), None)
    if twice is not None:
        raise typer.BadParameter(f"{twice!r} stands there twice", param_hint="MODEL")
    weighted = [one for one in pairs if one[1]]
    if weighted and len(weighted) < len(pairs):
        raise typer.BadParameter("give all of them a weight, or none", param_hint="MODEL")
    try:
        weights = {one: int(weight) for one, _, weight in weighted}
    except ValueError as cause:
        raise typer.BadParameter("a weight is a number from 0 to 1000", param_hint="MODEL") from cause
    return weights or [one for one, _, _ in pairs]


def _shadow(said: str) -> tuple[str, int]:
    """Reads a model and its share; nobody and 0 when nothing was said."""
    if not said:
        return "", 0
    beside, _, share = said.rpartition("=")
    if not (beside and share.isdecimal()):
        raise typer.BadParameter("is a model and its share, such as acme/next=100", param_hint="--shadow")
    return beside, int(share)


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
        name = name.replace("-", "_")
        if name == _HEDGE:
            policy.hedge_after.FromMicroseconds(round(_seconds(value) * 1_000_000))
            continue
        kind = kinds.get(name)
        if kind is None:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(kinds)}, {_HEDGE}", param_hint="--policy")
        if value.lower() not in short_names(kind):
            raise typer.BadParameter(f"{name} is one of {', '.join(short_names(kind))}", param_hint="--policy")
        setattr(policy, name, number_of(kind, value, field=name))
    return policy


def _seconds(said: str) -> float:
    try:
        return float(said)
    except ValueError as cause:
        raise typer.BadParameter(f"{_HEDGE} is a number of seconds, such as 2", param_hint="--policy") from cause
