"""Reads requests: JSON whose every field is known. What is not known is refused by name, never passed over."""

import base64
import re
from typing import Final, Literal, TypeVar

import msgspec

from services.meshkit.content import DocumentPart, ImageDetail, ImagePart
from services.meshkit.core.errors import Invalid

#: Longest request, bytes: pictures and documents travel in it.
MAX_REQUEST_BYTES: Final = 20 * 1024 * 1024

_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?(.*)`)?")
_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`(?: - at `\$\.?(.*)`)?")
_PLACE: Final = re.compile(r"(.*) - at `\$\.?(.*)`")
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL | re.ASCII)
_PICTURE: Final = "image/"
#: What of a value that is not taken is said back, characters.
_MOST_SAID: Final = 64

Request = TypeVar("Request")


class UnknownField(Invalid):
    """The request has a field, or a value of one, that this door does not take. Leave it out."""

    reason = "UNKNOWN_FIELD"

    def __init__(self, field: str, value: str | None = None) -> None:
        said = "is" if value is None else f"of {value[:_MOST_SAID]!r} is"
        super().__init__(field, f"{said} not supported here; leave it out")


def read(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[Request], *, place: str = "") -> Request:
    """Reads a request, or a piece of it.

    Args:
        place: where the piece stands, such as `input[0]`.
    Raises: UnknownField, Invalid, naming the field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), place) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid("body", f"is no JSON: {error}") from error
    except RecursionError as error:
        raise Invalid("body", "is nested too deeply") from error


def _refusal(said: str, piece: str) -> Invalid:
    unknown = _UNKNOWN.fullmatch(said)
    if unknown is not None:
        return UnknownField(_joined(piece, unknown[2], unknown[1]))
    missing = _MISSING.fullmatch(said)
    if missing is not None:
        return Invalid(_joined(piece, missing[2], missing[1]), "is missing")
    placed = _PLACE.fullmatch(said)
    if placed is None:
        return Invalid(piece or "body", said)
    return Invalid(_joined(piece, placed[2]) or "body", placed[1])


def _joined(*names: str | None) -> str:
    return ".".join(name for name in names if name)


def media_of(
    url: str, *, field: str, title: str = "", detail: Literal["auto", "low", "high"] | None = None
) -> ImagePart | DocumentPart:
    """Reads a picture or a document that stands in the request itself.

    Args:
        title: what a document is called.
        detail: how closely a picture is to be looked at.
    Raises: Invalid: it stands elsewhere, or is no base64.
    """
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise Invalid(field, "must be a data URL, `data:<type>;base64,…`; nothing is fetched from elsewhere")
    try:
        data = base64.b64decode(found[2], validate=True)
    except ValueError as error:
        raise Invalid(field, f"is no base64: {error}") from error
    if found[1].startswith(_PICTURE):
        return ImagePart(media_type=found[1], data=data, detail=ImageDetail(detail or "auto"))
    return DocumentPart(media_type=found[1], data=data, title=title)
