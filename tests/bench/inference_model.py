"""A model that answers every chat at once, whole or as a stream: a process of its own, with time of its own.

    python -m tests.bench.inference_model

It prints its port, keeps connections open, and looks at a request no closer than it must: what it takes of the
processors, the doors lack.
"""

import asyncio
import json
import sys
from typing import Any, Final, cast

import uvloop

MODEL: Final = "gpt-4o-mini"
_TEXT: Final = "Hello there, how may I assist you today?"
_USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
_SHAPE: Final[dict[str, Any]] = {"id": "chatcmpl-1", "created": 1, "model": MODEL}
_STREAMED: Final = (b'"stream":true', b'"stream": true')
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


def _response(kind: str, body: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return f"{head}{body}".encode()


def _whole() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}
    answer = {**_SHAPE, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    return _response("application/json", json.dumps(answer))


def _stream() -> bytes:
    chunk = {**_SHAPE, "object": "chat.completion.chunk"}
    delta = {"role": "assistant", "content": _TEXT}
    events = (
        {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**chunk, "choices": [], "usage": _USAGE},
    )
    told = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return _response("text/event-stream", f"{told}data: [DONE]\n\n")


class _Answers(asyncio.Protocol):
    """One connection."""

    def __init__(self, whole: bytes, stream: bytes) -> None:
        self._whole = whole
        self._stream = stream
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is one in all but its class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(_HEAD_END)) >= 0:
            head = self._read[:end].lower()
            _, _, length = head.partition(_LENGTH)
            whole = end + len(_HEAD_END) + int(length.partition(b"\r\n")[0] or 0)
            if len(self._read) < whole:
                return
            body, self._read = self._read[end:whole], self._read[whole:]
            assert self._transport is not None
            self._transport.write(self._stream if any(said in body for said in _STREAMED) else self._whole)


async def _serve() -> None:
    whole, stream = _whole(), _stream()
    server = await asyncio.get_running_loop().create_server(lambda: _Answers(whole, stream), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
