"""Sends chats to one address and says how long each took: a process of its own, so that what is measured is elsewhere.

    python -m tests.bench.inference_load <wishes as JSON>

With a rate requests begin on time, whatever became of those before; without one each of `at_once` begins with the end
of the one before. It reads no more of an answer than where it ends, and where its text begins: a client library would
take more time of the processor than all that is measured.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

import uvloop

#: Connections that are opened; when all are busy, a request waits, and its time runs.
_MOST_CONNECTIONS: Final = 1024
#: How long answers may take that are still missing when the last request has begun, seconds.
_PATIENCE_SECONDS: Final = 30.0
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_CLOSED: Final = b"connection: close"
_CHUNKS_END: Final = b"0\r\n\r\n"
_TEXT: Final = re.compile(rb'"content": ?"[^"]')


@dataclass(slots=True)
class _Said:
    """What came of one request."""

    status: int
    body: bytes
    #: When its text began.
    first: float


class _Connection(asyncio.Protocol):
    """A connection on which one request follows the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._first = 0.0
        self._answered: Callable[[_Said], None] | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is one in all but its class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._end(_Said(0, b"", time.perf_counter()))

    def ask(self, request: bytes, answered: Callable[[_Said], None]) -> None:
        assert self._transport is not None
        self._read, self._first, self._answered = b"", 0.0, answered
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(_HEAD_END)
        if end < 0:
            return
        if not self._first and _TEXT.search(self._read, end):
            self._first = time.perf_counter()
        head, body = self._read[:end].lower(), self._read[end + len(_HEAD_END) :]
        at = head.find(_LENGTH)
        whole = body.endswith(_CHUNKS_END) if at < 0 else len(body) >= int(head[at + len(_LENGTH) :].split(None, 1)[0])
        if not whole:
            return
        if _CLOSED in head and self._transport is not None:
            self.open = False
            self._transport.close()
        self._end(_Said(int(head[9:12]), body, self._first or time.perf_counter()))

    def _end(self, said: _Said) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(said)


@dataclass(slots=True)
class _Found:
    taken: list[float] = field(default_factory=list[float])
    first: list[float] = field(default_factory=list[float])
    refused: list[float] = field(default_factory=list[float])
    statuses: dict[int, int] = field(default_factory=dict[int, int])
    refusal: str = ""

    def add(self, begin: float, said: _Said) -> None:
        now = time.perf_counter()
        self.statuses[said.status] = self.statuses.get(said.status, 0) + 1
        if said.status == 200:
            self.taken.append(now - begin)
            self.first.append(said.first - begin)
        else:
            self.refused.append(now - begin)
            self.refusal = self.refusal or said.body.decode(errors="replace")


class _Load:
    """Sends the same request again and again."""

    def __init__(self, wishes: dict[str, Any]) -> None:
        url = urlsplit(wishes["url"])
        body = json.dumps(wishes["body"])
        self._place = url.hostname or "", url.port or 80
        self._request = (
            f"POST {url.path} HTTP/1.1\r\nhost: {url.netloc}\r\nauthorization: Bearer {wishes['key']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self._free: list[_Connection] = []
        self._room = asyncio.Semaphore(_MOST_CONNECTIONS)
        self.found = _Found()

    async def ask(self, begin: float) -> None:
        """Sends a request that is due at a time, and takes its answer down."""
        async with self._room:
            connection = self._free.pop() if self._free else None
            if connection is None or not connection.open:
                _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._place)
            future: asyncio.Future[_Said] = asyncio.get_running_loop().create_future()
            connection.ask(self._request, future.set_result)
            said = await future
            if connection.open:
                self._free.append(connection)
        self.found.add(begin, said)

    async def again_and_again(self, end: float) -> None:
        """Sends one request after the other until a time."""
        while (now := time.perf_counter()) < end:
            await self.ask(now)


async def _measured(wishes: dict[str, Any]) -> dict[str, Any]:
    load = _Load(wishes)
    started = time.perf_counter()
    end = started + wishes["seconds"]
    async with asyncio.timeout(wishes["seconds"] + _PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        if wishes["rate"]:
            for number in range(int(wishes["rate"] * wishes["seconds"])):
                due = started + number / wishes["rate"]
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                tasks.create_task(load.ask(due))
        else:
            for _ in range(wishes["at_once"]):
                tasks.create_task(load.again_and_again(end))
    found, seconds = load.found, time.perf_counter() - started
    if not found.taken:
        raise SystemExit(f"nothing was answered: {found.statuses} {found.refusal}")
    return {
        "taken": found.taken,
        "first": found.first,
        "refused": found.refused,
        "statuses": found.statuses,
        "seconds": seconds,
        "processor_seconds": time.process_time(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(_measured(json.loads(sys.argv[1])))))
