"""Pages of long lists: a bounded size and an opaque token that says where to go on, never who may look."""

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar, overload
from uuid import UUID

from services.meshkit.core.errors import Invalid
from services.meshkit.core.ids import to_uuid

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 500
_MAX_TOKEN_LENGTH: Final = 2048
#: Numbers of databases have 64 bits.
_BIGGEST: Final = 1 << 63
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Row = TypeVar("Row")
First = TypeVar("First", str, int)
Second = TypeVar("Second", str, int)
Third = TypeVar("Third", str, int)


def clamp_page_size(asked: int) -> int:
    """Gives the page size to use: 0 means 50, above 500 is taken as 500.

    Raises: Invalid: `asked` is negative.
    """
    if asked < 0:
        raise Invalid("page_size", "must be 0 (default 50) to 500")
    return min(asked, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def one_page(
    found: Sequence[Row], size: int, place: Callable[[Row], tuple[str | int, ...]]
) -> tuple[Sequence[Row], str]:
    """Cuts what a list was asked for down to a page.

    Args:
        found: up to `size + 1` rows: whether there is one more tells whether there is another page.
        place: where a row stands in the order of the list, as `decode_page_token` gives it back.
    Returns: the rows to show, and the token of the next page, empty after the last one.
    """
    shown = found[:size]
    return shown, encode_page_token(*place(shown[-1])) if len(found) > size else ""


def encode_page_token(*position: str | int) -> str:
    """Writes the place after the last row of a page as an opaque token."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


@overload
def decode_page_token(token: str, first: type[First], /) -> tuple[First] | None: ...


@overload
def decode_page_token(token: str, first: type[First], second: type[Second], /) -> tuple[First, Second] | None: ...


@overload
def decode_page_token(
    token: str, first: type[First], second: type[Second], third: type[Third], /
) -> tuple[First, Second, Third] | None: ...


@overload
def decode_page_token(token: str, /, *types: type[str] | type[int]) -> tuple[str | int, ...] | None: ...


def decode_page_token(token: str, *types: type[str] | type[int]) -> tuple[str | int, ...] | None:
    """Reads the place from a token, or None for the first page.

    Args:
        types: the types that the position's values must have, in order.
    Raises: Invalid: the token was not made by `encode_page_token` for such a list.
    """
    if not token:
        return None
    wrong = _wrong()
    if len(token) > _MAX_TOKEN_LENGTH:
        raise wrong
    try:
        position: object = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError) as cause:
        raise wrong from cause
    if not isinstance(position, list):
        raise wrong
    values: list[object] = position  # pyright: ignore[reportUnknownVariableType]
    if len(values) != len(types):
        raise wrong
    checked: list[str | int] = []
    for value, expected in zip(values, types, strict=True):
        if isinstance(value, bool) or not isinstance(value, str | int) or not isinstance(value, expected):
            raise wrong
        if not _is_storable(value):
            raise wrong
        checked.append(value)
    return tuple(checked)


def decode_id_place(token: str, prefix: str) -> UUID | None:
    """Reads the place in a list ordered by id from a token, or None for the first page.

    Args:
        prefix: that of the ids which the token holds, such as `key`.
    Raises: Invalid: the token was not made for such a list.
    """
    place = decode_page_token(token, str)
    return None if place is None else to_uuid(place[0], prefix, field="page_token")


def time_place(moment: datetime, row: UUID) -> tuple[int, str]:
    """Gives the place of a row in a list ordered by time, then id."""
    return (moment - _EPOCH) // timedelta(microseconds=1), str(row)


def decode_time_place(token: str) -> tuple[datetime, UUID] | None:
    """Reads what `time_place` gave from a token, or None for the first page.

    Raises: Invalid: the token was not made for such a list.
    """
    place = decode_page_token(token, int, str)
    if place is None:
        return None
    micros, row = place
    try:
        return _EPOCH + timedelta(microseconds=micros), UUID(row)
    except (OverflowError, ValueError) as cause:
        raise _wrong() from cause


def _wrong() -> Invalid:
    return Invalid("page_token", "is not a token of this list; send next_page_token of the previous answer unchanged")


def _is_storable(value: str | int) -> bool:
    """Tells whether a database could hold a value, so that a forged token asks it nothing that it cannot read."""
    if isinstance(value, int):
        return -_BIGGEST <= value < _BIGGEST
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
