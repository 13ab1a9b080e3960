"""Keeps a key service that is slow, away or wrong from taking us with it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from services.meshkit.core.clock import Clock
from services.meshkit.crypto.errors import KeyServiceAway
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.telemetry.logs import logger

#: Longest wait for one answer, with the wait for a turn.
ANSWER_SECONDS: Final = 2.0
#: Calls on their way at once.
AT_ONCE: Final = 8
#: After a failure nobody asks for so long: callers are refused at once instead of waiting in a row.
PAUSE_SECONDS: Final = 1.0

log = logger(__name__)
Answer = TypeVar("Answer")


class BoundedWrapper:
    """A `KeyWrapper` around one that goes over the network: few calls at once, none longer than two seconds.

    Args:
        name: of the key service, for the sentence that callers read.
    """

    def __init__(self, inner: KeyWrapper, *, name: str, clock: Clock, seconds: float = ANSWER_SECONDS) -> None:
        self._inner = inner
        self._name = name
        self._clock = clock
        self._seconds = seconds
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._away_until = float("-inf")

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.wrap`."""
        return await self._ask(lambda: self._inner.wrap(key, context=context))

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.unwrap`."""
        return await self._ask(lambda: self._inner.unwrap(wrapped, context=context))

    async def mark(self) -> bytes:
        """See `KeyWrapper.mark`."""
        return await self._ask(self._inner.mark)

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        if self._clock.monotonic() < self._away_until:
            raise KeyServiceAway(self._name)
        try:
            async with asyncio.timeout(self._seconds), self._turns:
                return await call()
        except (KeyServiceAway, TimeoutError, OSError) as cause:
            self._away_until = self._clock.monotonic() + PAUSE_SECONDS
            log.warning("the key service does not answer", key_service=self._name, error=repr(cause))
            if isinstance(cause, KeyServiceAway):
                raise
            raise KeyServiceAway(self._name) from cause
