"""Pages of long lists: a bounded size and an opaque token that says where to go on, never who may look."""

import base64
import binascii
import json
from typing import Final

from services.meshkit.core.errors import Invalid

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 500
_MAX_TOKEN_LENGTH: Final = 2048
#: Numbers of databases have 64 bits.
_BIGGEST: Final = 1 << 63


def clamp_page_size(asked: int) -> int:
    """Gives the page size to use: 0 means 50, above 500 is taken as 500.

    Raises: Invalid: `asked` is negative.
    """
    if asked < 0:
        raise Invalid("page_size", "must be 0 (default 50) to 500")
    return min(asked, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def encode_page_token(*position: str | int) -> str:
    """Writes the place after the last row of a page as an opaque token."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_page_token(token: str, *types: type[str] | type[int]) -> tuple[str | int, ...] | None:
    """Reads the place from a token, or None for the first page.

    Args:
        types: the types that the position's values must have, in order.
    Raises: Invalid: the token was not made by `encode_page_token` for such a list.
    """
    if not token:
        return None
    wrong = Invalid(
        "page_token",
        "is not a token of this list; send next_page_token of the previous answer unchanged",
    )
    if len(token) > _MAX_TOKEN_LENGTH:
        raise wrong
    try:
        position: object = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as cause:
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


def _is_storable(value: str | int) -> bool:
    """Tells whether a database could hold a value, so that a forged token asks it nothing that it cannot read."""
    if isinstance(value, int):
        return -_BIGGEST <= value < _BIGGEST
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
