"""The texts of a part: what rules read, and how redacted texts are put back."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, cast

import rfc8785

from services.meshkit.content import DocumentPart, Part, TextPart, ToolCallPart, ToolResultPart
from services.policy.rules.redaction import Redaction

#: Media types whose bytes are text that rules read, besides `text/…`.
_TEXT_TYPES: Final = frozenset({"application/json", "application/xml", "application/yaml", "application/x-ndjson"})
#: Key under which arguments that no longer can be told apart are replaced.
REDACTED_KEY: Final = "redacted"


def texts_of(part: Part) -> tuple[bytes, ...]:
    """Gives the texts of a part, UTF-8. Pictures, blobs and documents in other forms have none but a title."""
    match part.content:
        case TextPart(text):
            return (text.encode(),)
        case ToolResultPart(text=text):
            return (text.encode(),)
        case ToolCallPart(arguments=arguments):
            return _argument_texts(arguments)
        case DocumentPart() as document:
            body = _document_text(document)
            texts = (document.title.encode(),) if document.title else ()
            return texts if body is None else (*texts, body)
        case _:
            return ()


def size_of(part: Part) -> int:
    """Estimates how many bytes of text a part has, without making them."""
    match part.content:
        case TextPart(text) | ToolResultPart(text=text):
            return len(text)
        case ToolCallPart(arguments=arguments):
            return _value_size(arguments)
        case DocumentPart(title=title, data=data):
            return len(title) + len(data)
        case _:
            return 0


def redacted_part(part: Part, redaction: Redaction) -> Part:
    """Gives the part with its texts redacted and its label kept; the part itself when nothing changed."""
    match part.content:
        case TextPart(text) | ToolResultPart(text=text):
            done = redaction(text.encode())
            return part if done == text.encode() else replace(part, content=replace(part.content, text=done.decode()))
        case ToolCallPart() as call:
            arguments = _redacted_arguments(call.arguments, redaction)
            return part if arguments is None else replace(part, content=replace(call, arguments=arguments))
        case DocumentPart() as document:
            changed = replace(document, title=redaction(document.title.encode()).decode())
            body = _document_text(document)
            if body is not None and (redacted := redaction(body)) != body:
                changed = replace(changed, data=redacted)
            return part if changed == document else replace(part, content=changed)
        case _:
            return part


def _argument_texts(arguments: Mapping[str, object]) -> tuple[bytes, ...]:
    """Gives the canonical JSON and, as JSON hides them behind escapes, the strings that are written differently."""
    canonical = _canonical(arguments)
    hidden = {text for text in _strings(arguments) if _canonical(text)[1:-1] != text.encode()}
    return (canonical, *(text.encode() for text in sorted(hidden)))


def _redacted_arguments(arguments: Mapping[str, object], redaction: Redaction) -> Mapping[str, object] | None:
    """Redacts string by string; where a match is no string's alone, the arguments are replaced as a whole."""
    changed = cast(Mapping[str, object], _redacted_value(arguments, redaction))
    for text in _argument_texts(changed):
        mark = redaction.first_mark(text)
        if mark is not None:
            return {REDACTED_KEY: mark.decode()}
    return None if changed == arguments else changed


def _redacted_value(value: object, redaction: Redaction) -> object:
    if isinstance(value, str):
        return redaction(value.encode()).decode()
    if isinstance(value, Mapping):
        mapping = cast(Mapping[str, object], value)
        return {key: _redacted_value(item, redaction) for key, item in mapping.items()}
    if isinstance(value, list):
        return [_redacted_value(item, redaction) for item in cast(list[object], value)]
    return value


def _value_size(value: object) -> int:
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, Mapping):
        mapping = cast(Mapping[str, object], value)
        return sum(len(key) + 4 + _value_size(item) for key, item in mapping.items())
    if isinstance(value, list):
        return sum(1 + _value_size(item) for item in cast(list[object], value))
    return 8


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in cast(Mapping[str, object], value).items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in cast(list[object], value):
            yield from _strings(item)


def _canonical(value: object) -> bytes:
    # Open JSON by nature; what is no JSON never gets here.
    return rfc8785.dumps(value)  # pyright: ignore[reportArgumentType]


def _document_text(document: DocumentPart) -> bytes | None:
    media_type = document.media_type.partition(";")[0].strip().lower()
    if not (media_type.startswith("text/") or media_type in _TEXT_TYPES):
        return None
    # As models are shown it: one byte that is no UTF-8 must not hide the rest.
    return document.data.decode("utf-8", "replace").encode()
