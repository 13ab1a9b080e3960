"""Answers as a table for people or as JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp


class Form(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


FormOption = Annotated[Form, typer.Option("--output", "-o", help="How to write the answer.")]


def as_json(message: "Message") -> dict[str, Any]:
    """Gives a message as the REST face writes it."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True)


def show_json(value: object) -> None:
    """Writes JSON to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_rows(
    form: Form, messages: Iterable["Message"], columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str
) -> None:
    """Writes a list: JSON of the messages, or a table with these columns.

    Args:
        empty: the sentence for a list without rows.
    """
    if form is Form.JSON:
        show_json([as_json(message) for message in messages])
        return
    listed = list(rows)
    if not listed:
        typer.echo(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in listed:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def show_one(form: Form, message: "Message", lines: Iterable[tuple[str, str]]) -> None:
    """Writes one thing: its JSON, or a line for each of its values."""
    if form is Form.JSON:
        show_json(as_json(message))
        return
    listed = [(name, value) for name, value in lines if value]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        typer.echo(f"{name:<{width}}  {value}")


def moment(time: "Timestamp") -> str:
    """Writes a time as people read it, in UTC; empty when it is not set."""
    if not time.seconds:
        return ""
    return time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def dollars(nano_usd: int) -> str:
    """Writes money without losing digits: `$0.000123`."""
    from comitia_sdk.money import usd

    text = f"{usd(nano_usd):.9f}".rstrip("0")
    whole, _, rest = text.partition(".")
    return f"${whole}.{rest:0<2}"
