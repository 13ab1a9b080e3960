"""Files that people write: YAML or JSON, bounded and safe."""

import json
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import typer

from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed

if TYPE_CHECKING:
    from decimal import Decimal

    from google.protobuf.message import Message

OneMessage = TypeVar("OneMessage", bound="Message")

_MAX_BYTES: Final = 1024 * 1024

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON; `-` reads standard input.")]


def read_text(path: Path) -> str:
    """Reads a text file, `-` for standard input. Raises: CommandFailed."""
    name = _name(path)
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"{name} cannot be read: {error.strerror or error}", code=EXIT_USAGE) from error
    if len(content) > _MAX_BYTES:
        raise CommandFailed(f"{name} is larger than 1 MB; nothing was sent", code=EXIT_USAGE)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CommandFailed(
            f"{name}:{line}: this is no UTF-8 text (byte {error.start}); save the file as UTF-8", code=EXIT_USAGE
        ) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file that holds a mapping. Raises: CommandFailed, with line and column."""
    import yaml

    name, text = _name(path), read_text(path)
    try:
        value: object = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise CommandFailed(f"{name}:{error.lineno}:{error.colno}: {error.msg}", code=EXIT_USAGE) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        said = getattr(error, "problem", None) or str(error).replace("\n", " ")
        raise CommandFailed(f"{place}: {said}", code=EXIT_USAGE) from error
    except RecursionError as error:
        raise CommandFailed(f"{name} is nested too deeply", code=EXIT_USAGE) from error
    if not isinstance(value, dict):
        raise CommandFailed(f"{name} must hold names and values, such as `name: Athena`", code=EXIT_USAGE)
    return cast(dict[str, Any], value)


def parse_into(message: OneMessage, values: Mapping[str, Any], *, where: str) -> OneMessage:
    """Fills a message of the contract from what people wrote. Raises: CommandFailed, naming the field."""
    from google.protobuf.json_format import ParseDict, ParseError

    known = {field.name for field in message.DESCRIPTOR.fields} | {
        field.json_name for field in message.DESCRIPTOR.fields
    }
    check_names(values, {field.name for field in message.DESCRIPTOR.fields}, where=where, also=known)
    try:
        return ParseDict(dict(values), message)
    except ParseError as error:
        said = str(error).splitlines()[0].rstrip(".")
        quotes = "; put the value in quotes" if "expected string" in said else ""
        raise CommandFailed(f"{where}: {said}{quotes}", code=EXIT_USAGE) from error


def check_names(
    values: Mapping[str, Any], known: set[str], *, where: str, also: set[str] | frozenset[str] = frozenset()
) -> None:
    """Refuses names that nobody reads. Raises: CommandFailed, naming what was probably meant."""
    for name in values:
        if name in known or name in also:
            continue
        close = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
        raise CommandFailed(f"{where}: there is no field {str(name)!r}; {hint}", code=EXIT_USAGE)


def read_dollars(text: "str | Decimal") -> int:
    """Reads an amount in dollars as nano-USD. Raises: CommandFailed."""
    from comitia_sdk.money import nano_usd

    if str(text).startswith("-"):
        raise CommandFailed(f"{str(text)!r}: an amount must be positive, such as 25.00", code=EXIT_USAGE)
    try:
        return nano_usd(text)
    except ValueError as error:
        raise CommandFailed(str(error), code=EXIT_USAGE) from error


def _name(path: Path) -> str:
    return "standard input" if str(path) == "-" else str(path)
