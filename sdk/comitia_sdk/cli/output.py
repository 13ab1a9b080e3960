"""Answers as a table for people or as JSON for programs."""

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

_Item = TypeVar("_Item")

_GAP: Final = "  "
_LEAST_LAST_COLUMN: Final = 20
#: Control characters, which could move the cursor or colour the screen; marks that turn the direction of text, or end a
#: line, without being seen; and halves of characters, which nothing can print.
_UNSEEN: Final = (
    *(number for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"),
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    *range(0xD800, 0xE000),
)
#: They are left out of what others wrote, and written as escapes in JSON, where they stand in strings alone.
_SILENT: Final = dict.fromkeys(_UNSEEN)
_ESCAPED: Final = {number: f"\\u{number:04x}" for number in _UNSEEN}


class Form(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


LimitOption = Annotated[int, typer.Option("--limit", "-n", min=0, metavar="N", help="The newest so many; 0 lists all.")]
#: Rows of a list that nobody limited.
DEFAULT_LIMIT: Final = 50
FormOption = Annotated[
    Form, typer.Option("--output", "-o", help="For people (table) or as the REST face writes it (json).")
]


def as_json(message: "Message") -> dict[str, Any]:
    """Gives a message as the REST face writes it: every field, under its name in the contract."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def show_json(value: object) -> None:
    """Writes JSON to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False).translate(_ESCAPED))


def plain(text: str) -> str:
    """Gives a text that others wrote as it may stand on a terminal."""
    return text.translate(_SILENT)


def one_line(text: str) -> str:
    """Gives what others wrote within a line: it begins no other, which could say what we do not."""
    return plain(text).replace("\n", "\\n")


def newest(items: Iterable[_Item], limit: int) -> list[_Item]:
    """Takes the first so many, all for 0; says on standard error when there are more."""
    if not limit:
        return list(items)
    taken = list(islice(items, limit + 1))
    if len(taken) > limit:
        typer.secho(f"the newest {limit}; --limit 0 lists all", err=True, dim=True)
    return taken[:limit]


def show_rows(
    form: Form, messages: Iterable["Message"], columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str
) -> None:
    """Writes a list: JSON of the messages, or a table with these columns.

    On a terminal the last column is cut to fit; elsewhere every row is one whole line.

    Args:
        empty: the sentence for a list without rows.
    """
    if form is Form.JSON:
        show_json([as_json(message) for message in messages])
        return
    listed = [[" ".join(plain(cell).split()) for cell in row] for row in rows]
    if not listed:
        typer.echo(empty)
        return
    from rich.cells import cell_len, set_cell_size

    kept = [number for number in range(len(columns)) if any(row[number] for row in listed)]
    widths = {number: max(cell_len(row[number]) for row in (columns, *listed)) for number in kept}
    if sys.stdout.isatty():
        taken = sum(widths[number] + len(_GAP) for number in kept[:-1])
        left = max(_LEAST_LAST_COLUMN, shutil.get_terminal_size().columns - taken)
        widths[kept[-1]] = min(widths[kept[-1]], left)
    for row in (columns, *listed):
        cells = [
            row[number]
            if cell_len(row[number]) <= widths[number] and number == kept[-1]
            else _fit(row[number], widths[number], cell_len(row[number]), set_cell_size)
            for number in kept
        ]
        typer.secho(_GAP.join(cells).rstrip(), dim=row is columns)


def _fit(text: str, width: int, length: int, resize: Any) -> str:
    return resize(text, width) if length <= width else f"{resize(text, width - 1)}…"


def show_one(form: Form, message: "Message", lines: Iterable[tuple[str, str]]) -> None:
    """Writes one thing: its JSON, or a line for each of its values."""
    if form is Form.JSON:
        show_json(as_json(message))
    else:
        show_lines(lines)


def show_lines(lines: Iterable[tuple[str, str]], *, indent: str = "") -> None:
    """Writes names and values below each other; without those that are empty.

    What others wrote begins no line: the lines of a text stand under its first one.
    """
    listed = [(name, plain(value)) for name, value in lines if value]
    width = max((len(name) for name, _ in listed), default=0)
    under = f"\n{indent}{'':<{width}}{_GAP}"
    for name, value in listed:
        typer.echo(f"{indent}{name:<{width}}{_GAP}{value}".replace("\n", under))


def moment(time: "Timestamp") -> str:
    """Writes a time as people read it, in UTC; empty when it is not set."""
    if not time.seconds:
        return ""
    return time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def dollars(nano_usd: int) -> str:
    """Writes money without losing digits: `$0.000123`."""
    from comitia_sdk.money import usd

    text = f"{abs(usd(nano_usd)):.9f}".rstrip("0")
    whole, _, rest = text.partition(".")
    return f"{'-' if nano_usd < 0 else ''}${whole}.{rest:0<2}"
