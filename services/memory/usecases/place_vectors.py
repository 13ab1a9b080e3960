"""Keeps the vector store true to Postgres: fills what it lacks, deletes what it should not have.

Needs no caller: vectors are recorded with their rows and never made twice (INV-5).
"""

import asyncio
from collections import defaultdict
from typing import Final

from services.memory.domain.vector import Space
from services.memory.usecases.ports import PlacementWork, RecordedVector, VectorStore
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.incidents import incident
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

_BATCH: Final = 256
#: Pause after the vector store or Postgres did not answer, doubled while they do not.
_FIRST_PAUSE_SECONDS: Final = 1.0
_MOST_PAUSE_SECONDS: Final = 60.0
_FIRST_CHECK_SECONDS: Final = 5.0
#: A difference in numbers counts when it is still there after this long: forgetting takes two steps.
_LOOK_AGAIN_SECONDS: Final = 1.0

log = logger(__name__)


class PlaceVectors:
    """Sweeps now and then, at once when told, and compares the numbers of rows and vectors, first soon after the start.

    Args:
        sweep_seconds: longest pause between two sweeps.
        check_seconds: pause between two comparisons.
    """

    def __init__(
        self,
        *,
        work: PlacementWork,
        vectors: VectorStore,
        clock: Clock,
        sweep_seconds: float,
        check_seconds: float,
    ) -> None:
        self._work = work
        self._vectors = vectors
        self._clock = clock
        self._sweep_seconds = sweep_seconds
        self._check_seconds = check_seconds
        # Not in the first moments: a mesh that starts has other things to do than to load a vector store.
        self._check_at = clock.monotonic() + min(_FIRST_CHECK_SECONDS, check_seconds)
        self._told = asyncio.Event()

    def sweep_soon(self) -> None:
        """Asks for a sweep without waiting for the next one."""
        self._told.set()

    def check_soon(self) -> None:
        """Asks for a comparison: a space that should be there was missed."""
        self._check_at = self._clock.monotonic()
        self._told.set()

    async def __call__(self) -> None:
        """Sweeps until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._told.clear()
            try:
                await self.check_and_sweep()
                pause = _FIRST_PAUSE_SECONDS
            except Exception as error:  # noqa: BLE001  # a consumer loop: what waits is tried again, the loop goes on
                failure = error if isinstance(error, MeshError) else incident(error, method="memory.place")
                log.info("placing of vectors waits", reason=failure.reason, cause=failure.message)
                await self._clock.sleep(pause)
                pause = min(pause * 2, _MOST_PAUSE_SECONDS)
                continue
            try:
                async with asyncio.timeout(self._sweep_seconds):
                    await self._told.wait()
            except TimeoutError:
                continue

    async def check_and_sweep(self) -> None:
        """Compares when it is time, then places and deletes all that waits.

        Raises: VectorsUnavailable; Unavailable: Postgres is away.
        """
        now = self._clock.monotonic()
        if now >= self._check_at:
            await self._check()
            self._check_at = now + self._check_seconds
        while await self._place_batch() == _BATCH:
            pass
        while await self._erase_batch() == _BATCH:
            pass

    async def _check(self) -> None:
        short = [space for space, rows in await self._work.spaces() if await self._vectors.count(space) < rows]
        if not short:
            return
        await self._clock.sleep(_LOOK_AGAIN_SECONDS)
        for space, rows in await self._work.spaces():
            if space in short and await self._vectors.count(space) < rows:
                displaced = await self._work.displace(space)
                log.warning("the vector store lost vectors; they are placed again", model=space.model, rows=displaced)

    async def _place_batch(self) -> int:
        batch = await self._work.recorded(most=_BATCH)
        by_space: defaultdict[Space, list[RecordedVector]] = defaultdict(list)
        for vector in batch:
            by_space[vector.space].append(vector)
        for space, vectors in by_space.items():
            await self._vectors.upsert(space, [vector.placed for vector in vectors])
            there = set(await self._work.placed(vectors))
            metrics.MEMORIES_EMBEDDED.labels("placed_again").inc(len(there))
            gone = {vector.placed.memory for vector in vectors} - there
            if gone:
                await self._vectors.delete(gone)
        return len(batch)

    async def _erase_batch(self) -> int:
        batch = await self._work.erasing(most=_BATCH)
        if batch:
            await self._vectors.delete(batch)
            await self._work.erased(batch)
        return len(batch)
