"""Claims calls by their ids, and keeps other replicas from making them, too, while this one does."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from services.inference.domain.call import Claimed, RecordedCall
from services.inference.usecases.asked import Asked
from services.inference.usecases.ports import CallStore
from services.meshkit.content import CallKey
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class Claims:
    """The calls that this replica makes, as others know of them. A replica that dies is waited for no longer.

    What cannot be written costs time only: a claim that is not extended runs out, and then two may make the same call.

    Args:
        every_seconds: pause between two extensions, well below what a claim lasts.
    """

    def __init__(self, calls: CallStore, *, every_seconds: float, clock: Clock) -> None:
        self._calls = calls
        self._every_seconds = every_seconds
        self._clock = clock
        self._held: set[CallKey] = set()
        #: Calls that ended without anybody knowing how, to be freed.
        self._left: set[CallKey] = set()
        metrics.show_size("inference.claims", self._held)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Frees what was cut short at the end: another replica need not wait for this one."""
        await self._free()

    async def __call__(self) -> None:
        """Extends and frees claims until cancelled."""
        while True:
            await self._clock.sleep(self._every_seconds)
            await self._free()
            await self._write(self._calls.extend_claims, tuple(self._held))

    @asynccontextmanager
    async def claim(self, asked: Asked) -> AsyncGenerator[RecordedCall | Claimed]:
        """Claims a call while the block makes it, or gives its outcome. One that nobody can repeat is not claimed.

        Raises: CallArgumentsDiffer, CallInProgress.
        """
        if not asked.repeatable:
            yield Claimed()
            return
        claimed = await self._calls.claim(asked.key, asked.arguments_hash)
        if isinstance(claimed, RecordedCall):
            yield claimed
            return
        self._held.add(asked.key)
        try:
            yield claimed
        except MeshError:
            raise
        except BaseException:
            self._left.add(asked.key)
            raise
        finally:
            self._held.discard(asked.key)

    @asynccontextmanager
    async def given_back_if_it_fails(self, asked: Asked) -> AsyncGenerator[None]:
        """Tells a call whose caller hears that it failed from one that was lost."""
        try:
            yield
        except MeshError:
            if asked.repeatable:
                try:
                    await self._calls.give_back(asked.key)
                except MeshError as error:
                    log.warning("a call that failed will count as lost", call_id=str(asked.key), error=error.message)
            raise

    async def _free(self) -> None:
        # One that was begun again meanwhile is not free.
        left, self._left = tuple(self._left - self._held), set()
        await self._write(self._calls.free_claims, left)

    async def _write(self, write: Callable[[Sequence[CallKey]], Awaitable[None]], keys: Sequence[CallKey]) -> None:
        if not keys:
            return
        try:
            await write(keys)
        except MeshError as error:
            log.warning("claims run out on their own", calls=len(keys), error=error.message)
        except Exception:
            # A fault of ours, and no reason to end the calls that are being made.
            log.exception("claims run out on their own", calls=len(keys))
