"""A provider on a bare socket that goes wrong in every way that the wire allows, and meters what it served.

In a test: `async with faulty_provider() as provider: provider.fault = "stall_in_stream"`. Below `/well` it answers
well, whatever the fault: there the next of a chain lives. What it writes are the synthetic answers of `fake`.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from services.inference.providers.http import HOLD_HEADER
from tests.support.providers.fake import (
    Behaviour,
    Dialect,
    Meter,
    Served,
    anthropic_events,
    anthropic_message,
    openai_chunks,
    openai_completion,
    responses_events,
    responses_response,
)

#: What a good answer says; characters of two, three and four bytes among them.
ANSWER: Final = "Für Zürich sprechen Trams — leise, 電車, 🚋. Das ist alles."
_TLS_HANDSHAKE: Final = 0x16


_WHOLE: Final[dict[Dialect, Callable[[Served, Behaviour], dict[str, Any]]]] = {
    "openai": openai_completion,
    "responses": responses_response,
    "anthropic": anthropic_message,
}
_DIALECTS: Final[dict[str, Dialect]] = {"messages": "anthropic", "responses": "responses"}


class Exchange:
    """One request, and what can be done with its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, served: Served) -> None:
        self._reader = reader
        self._writer = writer
        self.served = served
        self.streamed = bool(served.body.get("stream"))

    def answer(self, *, usage: bool = True) -> list[bytes]:
        """Gives a good answer, event by event; as one when no stream was asked for."""
        behaviour = Behaviour(text=ANSWER, usage=usage)
        self.served.prompt_tokens, self.served.completion_tokens = 21, 17
        if not self.streamed:
            body = _WHOLE[self.served.dialect](self.served, behaviour)
            if not usage:
                body.pop("usage", None)
            return [_json(body)]
        if self.served.dialect == "openai":
            chunks = openai_chunks(self.served, behaviour, usage=True)
            return [*(b"data: " + _json(chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]
        events = (responses_events if self.served.dialect == "responses" else anthropic_events)(self.served, behaviour)
        for event in events:
            if not usage:
                event.pop("usage", None)
                event.get("message", {}).pop("usage", None)
        return [b"event: " + event["type"].encode() + b"\ndata: " + _json(event) + b"\n\n" for event in events]

    async def head(self, status: int = 200, content_type: str = "", **headers: str) -> None:
        usual = "text/event-stream" if self.streamed else "application/json"
        lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type or usual}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def hang(self) -> None:
        """Says nothing more until the other side goes away."""
        await self._reader.read()
        self.served.abandoned = True

    def reset(self) -> None:
        """Breaks the connection off without a goodbye."""
        held = cast("socket.socket", self._writer.get_extra_info("socket"))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Act = Callable[[Exchange], Awaitable[None]]


async def well(exchange: Exchange) -> None:
    answer = exchange.answer()
    await exchange.head()
    # Whoever has the last event may hang up, and owes the whole answer.
    exchange.served.confirmed = True
    await exchange.send(*answer)


async def ten_times_slower(exchange: Exchange) -> None:
    await asyncio.sleep(0.1)
    await well(exchange)


async def stall_before_the_head(exchange: Exchange) -> None:
    await exchange.hang()


async def stall_after_the_head(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.hang()


async def stall_in_stream(exchange: Exchange) -> None:
    answer = exchange.answer()
    await exchange.head()
    await exchange.send(*answer[: len(answer) // 2])
    await exchange.hang()


async def too_many_with_retry_after(exchange: Exchange) -> None:
    await exchange.head(429, "application/json", retry_after="0.01")
    await exchange.send(b'{"error": {"type": "rate_limit_error", "message": "no"}}')


async def too_many(exchange: Exchange) -> None:
    await exchange.head(429, "application/json")
    await exchange.send(b'{"error": {"type": "rate_limit_error", "message": "no"}}')


async def internal_error(exchange: Exchange) -> None:
    await exchange.head(500, "application/json")
    await exchange.send(b'{"error": {"type": "server_error", "message": "no"}}')


async def html_instead(exchange: Exchange) -> None:
    await exchange.head(200, "text/html")
    await exchange.send(b"<html><body>Sign in to the wireless network</body></html>")


async def html_of_a_proxy(exchange: Exchange) -> None:
    await exchange.head(502, "text/html")
    await exchange.send(b"<html><h1>Bad gateway</h1></html>")


async def reset_in_stream(exchange: Exchange) -> None:
    answer = exchange.answer()
    await exchange.head()
    await exchange.send(*answer[: len(answer) // 2])
    exchange.reset()


async def garbage_json(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(b'data: {"choices": [{"delta": {"content": \n\n' if exchange.streamed else b'{"choices": [')
    await exchange.send(*exchange.answer())


async def truncated(exchange: Exchange) -> None:
    whole = b"".join(exchange.answer())
    await exchange.head()
    await exchange.send(whole[: len(whole) * 2 // 3])


async def no_end_mark(exchange: Exchange) -> None:
    answer = exchange.answer()
    exchange.served.confirmed = True
    await exchange.head()
    await exchange.send(*(answer[:-1] if exchange.streamed else answer))


async def end_mark_twice(exchange: Exchange) -> None:
    answer = exchange.answer()
    exchange.served.confirmed = True
    await exchange.head()
    await exchange.send(*answer)
    with suppress(ConnectionError):
        await exchange.send(*(answer[-1:] if exchange.streamed else ()))


async def byte_by_byte(exchange: Exchange) -> None:
    answer = b"".join(exchange.answer())
    await exchange.head()
    exchange.served.confirmed = True
    for number in range(len(answer)):
        await exchange.send(answer[number : number + 1])
        await asyncio.sleep(0)


async def line_of_a_megabyte(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(b"data: " + b"x" * (1024 * 1024 + 1))
    await exchange.send(b"\n\n")


async def no_usage(exchange: Exchange) -> None:
    answer = exchange.answer(usage=False)
    if exchange.streamed and exchange.served.dialect == "openai":
        answer = [event for event in answer if b'"choices": []' not in event]
    exchange.served.confirmed = True
    await exchange.head()
    await exchange.send(*answer)


async def negative_usage(exchange: Exchange) -> None:
    answer = [event.replace(b'tokens": ', b'tokens": -') for event in exchange.answer()]
    exchange.served.confirmed = True
    await exchange.head()
    await exchange.send(*answer)


async def endless(exchange: Exchange) -> None:
    answer = exchange.answer()
    again = next((event for event in answer if "Für".encode() in event or b"F\\u00fcr" in event), b" " * 1024)
    await exchange.head()
    await exchange.send(*answer[: answer.index(again)] if again in answer else ())
    while True:
        await exchange.send(again * 20)
        await asyncio.sleep(0)


#: What happens once a request has come. Beside these: `tls_reset` and `no_such_host`, where none ever does.
FAULTS: Final[dict[str, Act]] = {
    act.__name__: act
    for act in (
        well,
        ten_times_slower,
        stall_before_the_head,
        stall_after_the_head,
        stall_in_stream,
        too_many_with_retry_after,
        too_many,
        internal_error,
        html_instead,
        html_of_a_proxy,
        reset_in_stream,
        garbage_json,
        truncated,
        no_end_mark,
        end_mark_twice,
        byte_by_byte,
        line_of_a_megabyte,
        no_usage,
        negative_usage,
        endless,
    )
}


@dataclass
class FaultyProvider:
    """Serves all dialects, one request a connection."""

    port: int = 0
    fault: str = "well"

    def __post_init__(self) -> None:
        self.meter = Meter()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        self.meter, self.fault = Meter(), "well"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await self._serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if not first or first[0] == _TLS_HANDSHAKE:
            Exchange(reader, writer, Served("openai", "", {}, {})).reset()
            return
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        target, *lines = head.split("\r\n")
        if target.startswith("GET "):
            # Who only looks whether it is there asks for nothing, and is no call.
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines if line)}
        body: dict[str, Any] = json.loads(await reader.readexactly(int(headers["content-length"])))
        path = target.split(" ")[1]
        dialect = _DIALECTS.get(path.rpartition("/")[2], "openai")
        served = Served(dialect, body["model"], body, headers, hold_id=headers.get(HOLD_HEADER, ""))
        self.meter.calls.append(served)
        served.behaviour = "well" if path.startswith("/well/") else self.fault
        await FAULTS[served.behaviour](Exchange(reader, writer, served))


@asynccontextmanager
async def faulty_provider() -> AsyncGenerator[FaultyProvider]:
    """Runs one while the block does."""
    provider = FaultyProvider()
    # Whoever talks to nobody any longer is ended with the block, so that no connection outlives its test.
    talking = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        talking.add(task)
        try:
            await provider.serve(reader, writer)
        finally:
            talking.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
