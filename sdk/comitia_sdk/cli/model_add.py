"""`comitia model add`: a model of the tenant's own, or a new version of one."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.model_registry import show_checked
from comitia_sdk.cli.output import Form, FormOption

if TYPE_CHECKING:
    from comitia.inference.v1.model_pb2 import ModelVersion

Adapter = Annotated[
    str,
    typer.Option(
        help="Who speaks to it: `openai`, `openai_responses`, `azure`, `anthropic`, `vllm`, `tgi`, `ollama`, "
        "`llama_cpp` or `openai_compatible`, or one that the installation adds."
    ),
]
BaseUrl = Annotated[str, typer.Option(help="Where it is, unless where its provider usually is.")]
Provider = Annotated[str, typer.Option(help="Who is paid, as `comitia prices` knows it.")]
KeyFrom = Annotated[
    str, typer.Option(metavar="VARIABLE", help="Variable of the environment that holds the provider's key.")
]
Embeds = Annotated[bool, typer.Option("--embeds", help="A new model makes vectors instead of answers.")]
AskedBy = Annotated[
    str, typer.Option(help="How it is asked: `wire`, by the mesh itself, or `sdk`, by its provider's own client.")
]
Tier = Annotated[str, typer.Option(help="How good it is: `bronze`, `silver` or `gold`; what `--min-tier` goes by.")]
Region = Annotated[str, typer.Option(help="Where it runs, such as `eu-west-1`; content that must stay there may go.")]
Can = Annotated[
    list[str] | None,
    typer.Option(
        "--can", help="What it can do: `tools`, `json_schema`, `images`, `documents`. Repeatable; else as its adapter."
    ),
]
Window = Annotated[
    int, typer.Option("--context-tokens", min=0, help="Tokens of prompt and answer that it holds; 0: not known.")
]
Longest = Annotated[int, typer.Option("--max-output-tokens", min=0, help="Longest answer, tokens; 0: not known.")]
AtOnce = Annotated[int, typer.Option("--calls-at-once", min=0, help="Calls that it takes of each replica; 0: any.")]
Requests = Annotated[int, typer.Option("--requests-per-minute", min=0, help="Of the whole mesh; 0: any.")]
Tokens = Annotated[int, typer.Option("--tokens-per-minute", min=0, help="Of the whole mesh; 0: any.")]


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name to ask for, such as `acme/writer`.")],
    model: Annotated[str, typer.Option(help="Model as the provider names it.")],
    adapter: Adapter = "openai",
    base_url: BaseUrl = "",
    provider: Provider = "",
    key_from: KeyFrom = "",
    embeds: Embeds = False,
    form: AskedBy = "",
    tier: Tier = "",
    region: Region = "",
    can: Can = None,
    context_tokens: Window = 0,
    max_output_tokens: Longest = 0,
    calls_at_once: AtOnce = 0,
    requests_per_minute: Requests = 0,
    tokens_per_minute: Tokens = 0,
    output: FormOption = Form.TABLE,
) -> None:
    """Registers a model, or a new version of one, and checks it with one small call.

    Example:  comitia model add acme/writer --model gpt-4o-mini --key-from OPENAI_API_KEY

    Example:  comitia model add acme/writer --model claude-haiku-4-5 --adapter anthropic --form sdk

    Example:  comitia model add acme/llama --model llama3.2 --adapter ollama --base-url http://gpu:11434 --tier silver
    """
    key = os.environ.get(key_from, "") if key_from else ""
    if key_from and not key:
        raise typer.BadParameter(f"the variable {key_from} is not set", param_hint="--key-from")
    says = _says(tier, can or ())
    says.region = region
    says.context_tokens, says.max_output_tokens = context_tokens, max_output_tokens
    says.max_concurrency, says.requests_per_minute = calls_at_once, requests_per_minute
    says.tokens_per_minute = tokens_per_minute
    asked = _Asked(
        adapter=adapter, model=model, base_url=base_url, api_key=key, provider=provider, form=form, says=says
    )
    with client() as mesh:
        known = {one.name: one.deployment_id for one in mesh.models.list() if one.deployment_id}
        if name in known:
            made = mesh.models.add_version(known[name], **asked)
        else:
            made = mesh.models.register(name, embeds=embeds, **asked)
        checked = mesh.models.check(made.deployment_id, made.versions[0].version)
    show_checked(output, name, checked, deployment_id=made.deployment_id)


class _Asked(TypedDict):
    adapter: str
    model: str
    base_url: str
    api_key: str
    provider: str
    form: str
    says: "ModelVersion"


def _says(tier: str, can: Sequence[str]) -> "ModelVersion":
    """Reads how good a model is and what it can do."""
    from comitia.inference.v1.model_pb2 import ModelCapability, ModelTier, ModelVersion
    from comitia_sdk.enums import number_of, short_names

    for given, kind, option in ((tier, ModelTier, "--tier"), *((one, ModelCapability, "--can") for one in can)):
        if given and given.lower() not in short_names(kind):
            raise typer.BadParameter(f"{given!r} is none of {', '.join(short_names(kind))}", param_hint=option)
    return ModelVersion(
        tier=ModelTier.ValueType(number_of(ModelTier, tier, field="tier") if tier else 0),
        capabilities=[ModelCapability.ValueType(number_of(ModelCapability, one, field="can")) for one in can],
    )
