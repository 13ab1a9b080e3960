"""The receiving end of live subjects: a bounded queue that forgets its oldest."""

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """A message that was delivered at most once."""

    subject: str
    body: bytes


class LiveSubscription:
    """Iterates over live messages. A reader that falls behind loses the oldest, and `dropped` says how many.

    Concurrency: one reader.
    """

    def __init__(self, subject: str, *, group: str, most: int) -> None:
        self.subject = subject
        self.group = group
        self.dropped = 0
        self._waiting: deque[LiveMessage] = deque(maxlen=most)
        self._arrived = asyncio.Event()
        self._closed = False

    def put(self, message: LiveMessage) -> None:
        """Takes a message from the wire."""
        if len(self._waiting) == self._waiting.maxlen:
            self.dropped += 1
        self._waiting.append(message)
        self._arrived.set()

    def close(self) -> None:
        """Ends the iteration after what has arrived."""
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> "LiveSubscription":
        return self

    async def __anext__(self) -> LiveMessage:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()
