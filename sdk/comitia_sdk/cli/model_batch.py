"""`comitia model batch`: prompts that may wait, answered within a day."""

import json
from codecs import BOM_UTF8
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED, CommandFailed
from comitia_sdk.cli.output import (
    DEFAULT_LIMIT,
    Form,
    FormOption,
    LimitOption,
    as_json,
    moment,
    newest,
    one_line,
    show_one,
    show_rows,
)

if TYPE_CHECKING:
    from comitia.inference.v1.inference_service_pb2 import GenerateRequest
    from comitia.inference.v1.model_batch_pb2 import ModelBatch, ModelBatchResult
    from comitia_sdk.sync import Client

app = typer.Typer(no_args_is_help=True, help="Prompts that may wait, answered within a day.")

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Id, `batch_…`.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Shows how far it is until it has ended.")]
#: What a line that is no whole request may hold.
_SHORT: Final = frozenset({"item_id", "prompt", "max_output_tokens"})
#: Prompts that one message takes, and how many bytes JSON may take for one of theirs.
_MOST_BYTES: Final = 4 * 1024 * 1024
_LONGEST_ESCAPE: Final = 6


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", exists=True, dir_okay=False, help="One prompt a line.")],
    model: Annotated[str, typer.Option(help="Who is asked; by default the first of the chain that does batches.")] = "",
    wait: WaitOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Hands prompts over: a line is `{"item_id": "a", "prompt": "…"}`, or has `generate` with a whole request.

    Example:  comitia model batch submit prompts.jsonl --model openai/gpt-4o-mini --wait
    """
    prompts = _prompts(file)
    with client() as mesh:
        batch = mesh.batches.create(prompts, model=model)
        if wait:
            batch = _waited(mesh, batch.batch_id)
    show_one(output, batch, _lines(batch))
    if wait:
        _require_answers(batch)


@app.command("list")
def list_(limit: LimitOption = DEFAULT_LIMIT, output: FormOption = Form.TABLE) -> None:
    """Lists batches, newest first.

    Example:  comitia model batch list
    """
    with client() as mesh:
        found = newest(mesh.batches.list(), limit)
    rows = [(one.batch_id, _state(one), _done(one), one.deployment, moment(one.create_time)) for one in found]
    columns = ("batch", "state", "done", "model", "made")
    show_rows(output, found, columns, rows, empty="no batch; hand one over with `comitia model batch submit`")


@app.command()
def show(batch_id: BatchId, wait: WaitOption = False, output: FormOption = Form.TABLE) -> None:
    """Shows how far a batch is.

    Example:  comitia model batch show batch_01jx0000000000000000000000 --wait
    """
    with client() as mesh:
        batch = _waited(mesh, batch_id) if wait else mesh.batches.get(batch_id)
    show_one(output, batch, _lines(batch))


@app.command()
def results(batch_id: BatchId, output: FormOption = Form.TABLE) -> None:
    """Shows what became of each prompt; as JSON, one line each, which programs read.

    Example:  comitia model batch results batch_01jx0000000000000000000000 -o json > answers.jsonl
    """
    with client() as mesh:
        found = mesh.batches.results(batch_id)
        if output is Form.JSON:
            for one in found:
                typer.echo(json.dumps(as_json(one), ensure_ascii=False))
            return
        rows = [(one.item_id, _item_state(one), one_line(_said(one))) for one in found]
    show_rows(output, (), ("item", "state", "answer"), rows, empty="no item")


@app.command()
def cancel(batch_id: BatchId, output: FormOption = Form.TABLE) -> None:
    """Asks for a batch to stop; what is answered already is paid for and shown.

    Example:  comitia model batch cancel batch_01jx0000000000000000000000
    """
    with client() as mesh:
        batch = mesh.batches.cancel(batch_id)
    show_one(output, batch, _lines(batch))


def _prompts(file: Path) -> "dict[str, GenerateRequest]":
    """Reads prompts by their ids. Raises: CommandFailed, naming the line."""
    found: dict[str, GenerateRequest] = {}
    # What is longer is too much however it is written, and is not read.
    left = _MOST_BYTES if file.stat().st_size <= _LONGEST_ESCAPE * _MOST_BYTES else 0
    for number, line in enumerate(file.read_bytes().removeprefix(BOM_UTF8).split(b"\n") if left else (), start=1):
        if not line.strip():
            continue
        try:
            item_id, prompt = _prompt(_read(line))
        except ValueError as cause:
            raise CommandFailed(f"{file}:{number}: {cause}") from cause
        if item_id in found:
            raise CommandFailed(f"{file}:{number}: the id {item_id!r} stands twice in the file")
        found[item_id] = prompt
        left -= len(item_id) + prompt.ByteSize()
    if left <= 0:
        raise CommandFailed(f"{file} holds more than 4 MB of prompts; hand them over in several batches")
    if not found:
        raise CommandFailed(f"{file} holds no prompt")
    return found


def _read(line: bytes) -> object:
    """Reads a line. Raises: ValueError: it is no JSON."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as cause:
        raise ValueError(f"is no UTF-8, from byte {cause.start + 1} on") from cause
    except json.JSONDecodeError as cause:
        raise ValueError(f"is no JSON, from character {cause.pos + 1} on: {cause.msg}") from cause
    except RecursionError as cause:
        raise ValueError("is nested too deeply") from cause


def _prompt(line: object) -> "tuple[str, GenerateRequest]":
    from google.protobuf.json_format import ParseDict, ParseError

    from comitia.inference.v1.inference_service_pb2 import GenerateRequest

    if not isinstance(line, dict):
        raise ValueError("is no JSON object")
    values = cast(dict[str, Any], line)
    item_id, whole = values.get("item_id"), values.get("generate")
    if not isinstance(item_id, str):
        raise ValueError("needs an `item_id`")
    if whole is not None:
        if not isinstance(whole, dict):
            raise ValueError("`generate` must be an object")
        try:
            return item_id, ParseDict(cast(dict[str, Any], whole), GenerateRequest())
        except ParseError as cause:
            raise ValueError(f"generate: {str(cause).splitlines()[0]}") from cause
    unknown = sorted(values.keys() - _SHORT)
    if unknown or not isinstance(values.get("prompt"), str):
        raise ValueError(f"does not take {unknown[0]!r}" if unknown else "needs a `prompt`, or `generate`")
    from comitia_sdk.nouns.models import message

    most = values.get("max_output_tokens", 0)
    if not isinstance(most, int) or isinstance(most, bool):
        raise ValueError("`max_output_tokens` must be a number")
    return item_id, GenerateRequest(messages=[message(values["prompt"])], max_output_tokens=most)


def _waited(mesh: "Client", batch_id: str) -> "ModelBatch":
    """Says on standard error how far a batch is, until it has ended."""
    last = None
    for batch in mesh.batches.watch(batch_id):
        typer.secho(f"{_state(batch)}  {_done(batch)}  {batch.reason}".rstrip(), err=True, dim=True)
        last = batch
    return last if last is not None else mesh.batches.get(batch_id)


def _require_answers(batch: "ModelBatch") -> None:
    if batch.answered_count < batch.item_count:
        raise typer.Exit(EXIT_REFUSED)


def _state(batch: "ModelBatch") -> str:
    from comitia.inference.v1.model_batch_pb2 import ModelBatchState
    from comitia_sdk.enums import short_name

    return short_name(ModelBatchState, batch.state)


def _item_state(result: "ModelBatchResult") -> str:
    from comitia.inference.v1.model_batch_pb2 import ModelBatchItemState
    from comitia_sdk.enums import short_name

    return short_name(ModelBatchItemState, result.state)


def _said(result: "ModelBatchResult") -> str:
    return "\n".join(part.text.text for part in result.generation.parts if part.text.text) or result.reason


def _done(batch: "ModelBatch") -> str:
    done = batch.answered_count + batch.failed_count + batch.cancelled_count + batch.unknown_count
    return f"{done} of {batch.item_count}"


def _lines(batch: "ModelBatch") -> list[tuple[str, str]]:
    lines = [
        ("batch", batch.batch_id),
        ("model", batch.deployment),
        ("state", _state(batch)),
        ("done", _done(batch)),
        ("answered", str(batch.answered_count)),
    ]
    others = (
        ("failed", batch.failed_count),
        ("cancelled", batch.cancelled_count),
        ("unknown", batch.unknown_count),
    )
    lines += [(name, str(count)) for name, count in others if count]
    if batch.reason:
        lines.append(("because", batch.reason))
    if batch.provider_batch_id:
        lines.append(("there known as", batch.provider_batch_id))
    return lines
