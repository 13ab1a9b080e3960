"""The body of a request on its way to the mesh."""

import asyncio

from google.rpc import code_pb2

from comitia_sdk.asgi.interface import Receive, Scope, values_of
from comitia_sdk.asgi.refusal import Refusal, Refused


class ClientGone(Exception):
    """The caller hung up."""


class Upload:
    """A body, taken from the server as fast as the mesh takes it, and bounded.

    Args:
        most: bytes.
    Raises: Refused: it says itself that it is larger.
    """

    def __init__(self, scope: Scope, receive: Receive, *, most: int) -> None:
        self._receive = receive
        self._most = most
        self._size = 0
        self._first = b""
        self._ended = asyncio.Event()
        #: Why the mesh did not get all of it.
        self.failure: ClientGone | Refused | None = None
        for length in values_of(scope, b"content-length"):
            if not length.isdigit() or len(length) > 18 or int(length) > most:
                raise too_large(most)

    async def data(self) -> "bytes | Upload | None":
        """Gives the body: None for none, bytes where it came at once, else a stream.

        Raises: ClientGone, Refused: too large.
        """
        first = await self._next()
        if self._ended.is_set():
            return first or None
        self._first = first
        return self

    async def until_gone(self) -> None:
        """Waits, once the body has ended, until the caller hangs up."""
        await self._ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def __aiter__(self) -> "Upload":
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._ended.is_set():
            raise StopAsyncIteration
        return await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        try:
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = bytes(message.get("body", b""))
            self._size += len(chunk)
            if self._size > self._most:
                raise too_large(self._most)
        except (ClientGone, Refused) as failure:
            # The HTTP client wraps what a stream raises.
            self.failure = failure
            raise
        if not message.get("more_body", False):
            self._ended.set()
        return chunk


def too_large(most: int) -> Refused:
    """Refuses a body above `most` bytes."""
    return Refused(
        Refusal(
            status=413,
            code=code_pb2.INVALID_ARGUMENT,
            reason="REQUEST_TOO_LARGE",
            message="the body is larger than this takes; send less, or the content in parts",
            metadata={"limit_bytes": str(most)},
        )
    )
