"""Writes elements of messages around bytes that are encoded already, which is what saves encoding them twice."""

from typing import Final


def _head(length: int) -> bytes:
    head = bytearray(b"\x0a")
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


_HEADS: Final = tuple(map(_head, range(1_024)))


def head_of(length: int) -> bytes:
    """Gives what stands before an element of a message's field 1: its tag, and its length as varint."""
    return _HEADS[length] if length < len(_HEADS) else _head(length)
