"""Reads server-sent events. Pure: bytes in, events out.

Source: WHATWG HTML Living Standard, section 9.2 (fields other than `event` and `data` mean nothing here). Unlike a
browser, we refuse what has no name there: it is the page of a proxy or an error, and waiting for its end helps nobody.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

#: A single event larger than this is garbage.
MAX_EVENT_BYTES: Final = 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
#: The fields of the standard; a line that begins with a colon is a comment.
_FIELDS: Final = (b"data", b"event", b"id", b"retry", b"")


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its type, empty when unnamed, and its data."""

    type: str
    data: bytes


class EventTooLarge(ValueError):
    """An event does not end within the bound."""


class NotAnEvent(ValueError):
    """What came is no event stream."""


class SseParser:
    """Cuts a stream of bytes into events, however the bytes are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._first = True
        self._type = ""
        self._data: list[bytes] = []
        self._size = 0

    @property
    def clean(self) -> bool:
        """True when nothing of an unfinished event is waiting."""
        return not self._rest.strip() and not self._data

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """Takes the next bytes and gives the events that are complete.

        Raises: EventTooLarge; NotAnEvent, as soon as it can be told.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._line(self._unmarked(line).removesuffix(b"\r"))
            self._first = False
            if event is not None:
                yield event
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge
        if not _may_become_field(self._unmarked(self._rest)):
            raise NotAnEvent

    def _unmarked(self, line: bytes) -> bytes:
        """Drops the byte order mark that may stand before the first line."""
        return line.removeprefix(_BYTE_ORDER_MARK) if self._first else line

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            if not self._data:
                self._type = ""
                return None
            event = SseEvent(self._type, b"\n".join(self._data))
            self._type, self._data, self._size = "", [], 0
            return event
        name, _, value = line.partition(b":")
        if name not in _FIELDS and line.strip():
            raise NotAnEvent
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value)
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLarge
            self._data.append(value)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        return None


def _may_become_field(start: bytes) -> bool:
    """Says whether the start of a line can go on as one of the standard's."""
    name, colon, _ = start.partition(b":")
    if colon:
        return name in _FIELDS
    begun = start.strip()
    return any(field.startswith(begun) for field in (*_FIELDS, _BYTE_ORDER_MARK))
