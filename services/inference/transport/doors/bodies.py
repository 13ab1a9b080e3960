"""Reads requests: JSON whose every field is known. What is not known is refused by name, never passed over."""

import base64
import binascii
import re
from typing import Final, TypeVar

import msgspec

from services.meshkit.content import DocumentPart, ImagePart
from services.meshkit.core.errors import Invalid

#: Longest request, bytes: pictures and documents travel in it.
MAX_REQUEST_BYTES: Final = 20 * 1024 * 1024

_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?(.*)`)?")
_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`(?: - at `\$\.?(.*)`)?")
_PLACE: Final = re.compile(r"(.*) - at `\$\.?(.*)`")
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL | re.ASCII)
_PICTURE: Final = "image/"

Request = TypeVar("Request")


class UnknownField(Invalid):
    """The request has a field that this door does not take. Leave it out."""

    reason = "UNKNOWN_FIELD"

    def __init__(self, field: str) -> None:
        super().__init__(field, "is not supported here; leave it out")


def read(body: bytes, decoder: msgspec.json.Decoder[Request]) -> Request:
    """Reads a request.

    Raises: UnknownField, Invalid, naming the field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid("body", f"is no JSON: {error}") from error
    except RecursionError as error:
        raise Invalid("body", "is nested too deeply") from error


def _refusal(said: str) -> Invalid:
    unknown = _UNKNOWN.fullmatch(said)
    if unknown is not None:
        return UnknownField(_joined(unknown[2], unknown[1]))
    missing = _MISSING.fullmatch(said)
    if missing is not None:
        return Invalid(_joined(missing[2], missing[1]), "is missing")
    placed = _PLACE.fullmatch(said)
    return Invalid("body", said) if placed is None else Invalid(placed[2] or "body", placed[1])


def _joined(place: str | None, field: str) -> str:
    return f"{place}.{field}" if place else field


def media_of(url: str, *, field: str, title: str = "") -> ImagePart | DocumentPart:
    """Reads a picture or a document that stands in the request itself.

    Raises: Invalid: it stands elsewhere, or is no base64.
    """
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise Invalid(field, "must be a data URL, `data:<type>;base64,…`; nothing is fetched from elsewhere")
    try:
        data = base64.b64decode(found[2], validate=True)
    except binascii.Error as error:
        raise Invalid(field, f"is no base64: {error}") from error
    if found[1].startswith(_PICTURE):
        return ImagePart(media_type=found[1], data=data)
    return DocumentPart(media_type=found[1], data=data, title=title)
