"""`comitia model chat`: a talk with a model, whose answers are shown as they come."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, plain, show_json

if TYPE_CHECKING:
    from comitia.common.v1.content_pb2 import Message
    from comitia.inference.v1.generation_pb2 import Generation
    from comitia.inference.v1.inference_service_pb2 import StreamGenerateResponse


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name to ask for: a model, a route or `default`.")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to ask; without it each line of the input is asked.")
    ] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Asks a model and shows its answer as it comes; without TEXT, goes on until the input ends.

    Example:  comitia model chat writer "Why do rivers meet?"
    """
    from comitia.common.v1.content_pb2 import MESSAGE_ROLE_ASSISTANT
    from comitia_sdk.nouns.models import message

    said: list[Message] = []
    with client() as mesh:
        for line in [text] if text else _lines():
            said.append(message(line))
            answer = _shown(mesh.models.stream(said, model=model), output)
            said.append(message("".join(part.text.text for part in answer.parts), role=MESSAGE_ROLE_ASSISTANT))


def _lines() -> Iterator[str]:
    """Reads what is typed, or what comes through a pipe, line by line."""
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _shown(events: "Iterable[StreamGenerateResponse]", form: Form) -> "Generation":
    """Shows an answer as it comes, who gave it and what it cost on standard error; as JSON, once it is whole."""
    from comitia.inference.v1.generation_pb2 import Generation

    answer = Generation()
    for event in events:
        if form is Form.JSON and event.WhichOneof("event") != "generation":
            continue
        match event.WhichOneof("event"):
            case "text_delta":
                typer.echo(plain(event.text_delta), nl=False)
            case "restarted_by":
                typer.echo(f"\n[{plain(event.restarted_by)} begins anew]")
            case "generation":
                answer = event.generation
            case _:
                pass
    if form is Form.JSON:
        show_json(as_json(answer))
        return answer
    typer.echo()
    typer.secho(f"{plain(answer.deployment)}, {dollars(answer.cost_nano_usd)}", err=True, dim=True)
    return answer
