"""Reads server-sent events. Pure: bytes in, events out.

Source: WHATWG HTML Living Standard, section 9.2 (fields other than `event` and `data` mean nothing here).
"""

from dataclasses import dataclass
from typing import Final

#: A single event larger than this is garbage.
MAX_EVENT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its type, empty when unnamed, and its data."""

    type: str
    data: bytes


class EventTooLarge(ValueError):
    """An event does not end within the bound."""


class SseParser:
    """Cuts a stream of bytes into events, however the bytes are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._type = ""
        self._data: list[bytes] = []
        self._size = 0

    @property
    def clean(self) -> bool:
        """True when nothing of an unfinished event is waiting."""
        return not self._rest.strip() and not self._data

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Takes the next bytes and gives the events that are complete.

        Raises: EventTooLarge.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge
        events: list[SseEvent] = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            if not self._data:
                self._type = ""
                return None
            event = SseEvent(self._type, b"\n".join(self._data))
            self._type, self._data, self._size = "", [], 0
            return event
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value)
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLarge
            self._data.append(value)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        return None
