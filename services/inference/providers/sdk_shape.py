"""What of an answer a client may be given to read.

It makes objects of all that comes, on the event loop: milliseconds for each odd one, of which an endpoint could send
millions. The wire form has no such bound to keep, since it decodes what it reads and skips the rest.
"""

import re
from collections.abc import Callable, Sized
from typing import Final

import msgspec

from services.inference.providers.http import MAX_BODY_BYTES
from services.inference.usecases.ports import ProviderCall

#: Looks at an answer or an event as the wire form does, and gives what a client is handed of it, and how many of its
#: objects are a tool's arguments, of which clients make nothing. Raises: msgspec.MsgspecError, RecursionError.
Shape = Callable[[bytes], tuple[bytes, int]]

#: Most choices: one is asked for.
MAX_CHOICES: Final = 1
#: Most content blocks, output items or tool calls.
MAX_ITEMS: Final = 64
#: Most objects and lists of an answer or an event, and of a stream beside those of its tokens.
MAX_OBJECTS: Final = 128
_OBJECTS_OF_STREAM: Final = 4_096
_OBJECTS_OF_TOKEN: Final = 16
#: Most bytes beside texts: numbers and marks.
_MAX_BARE_BYTES: Final = 64 * 1024
_TOKEN_BYTES: Final = 256
_AROUND_BYTES: Final = 64 * 1024
_MAX_WHOLE_BYTES: Final = 8 * 1024 * 1024
#: A stream says the same more than once, and writes a frame around each token.
_OF_STREAM: Final = 4
_TEXTS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def most_bytes(call: ProviderCall, asked: bytes, *, streamed: bool) -> int:
    """Gives the longest answer that a call may get; of what was asked some say parts again."""
    whole = min(_MAX_WHOLE_BYTES, _TOKEN_BYTES * call.prompt.max_output_tokens + _AROUND_BYTES + len(asked))
    return min(MAX_BODY_BYTES, _OF_STREAM * whole) if streamed else whole


def most_objects_of_stream(call: ProviderCall) -> int:
    """Gives how many objects all events of a stream may have."""
    return _OBJECTS_OF_STREAM + _OBJECTS_OF_TOKEN * call.prompt.max_output_tokens


def objects_in(data: bytes) -> int:
    """Counts the objects and lists of JSON. Raises: msgspec.ValidationError: it is long without saying anything."""
    bare = _TEXTS.sub(b"", data)
    if len(bare) > _MAX_BARE_BYTES:
        raise msgspec.ValidationError("more numbers and marks than an answer has")
    return bare.count(b"{") + bare.count(b"[")


def raise_if_longer(*lists: Sized) -> None:
    """Raises msgspec.ValidationError when one of these holds more than an answer has."""
    if any(len(one) > MAX_ITEMS for one in lists):
        raise msgspec.ValidationError("more items than an answer has")
