"""Milvus behind the port of vector stores: a server by address, or Milvus Lite in this process and a folder of its own.

One collection per space. Tenants share it by a partition key, and every search filters by tenant, project (and agent)
as UUIDs that we make ourselves, so nothing a caller wrote is ever part of a filter. What is found is only a hint: rows
are read from Postgres under row-level security.

Either library is heavy, so it is imported, in a thread, when the first vector is stored. Where there are vectors from
before, that is done before the service serves: recalls would wait for it, or go without similarity.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeAlias, TypeVar

import grpc

from services.memory.domain.errors import VectorSpaceMissing, VectorsUnavailable
from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space, Vector
from services.memory.usecases.ports import Match, PlacedVector
from services.memory.vectors.lite_client import LiteClient, lite_file
from services.memory.vectors.milvus_client import MilvusClient
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.grpc.incidents import incident
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Pause after Milvus could not be opened; callers meanwhile are told at once.
_REOPEN_SECONDS: Final = 5.0
#: Longest that a start waits for Milvus; it is opened all the same.
_WARM_SECONDS: Final = 10.0
#: So long after the last vector the store is taken to be idle.
_IDLE_SECONDS: Final = 1.0
#: Searches at the same time, in threads and waiting for one; one more goes without similarity.
_SEARCH_THREADS: Final = 4
_MAX_SEARCHES: Final = 32
_QUEUE: Final = "memory.search"

Client: TypeAlias = MilvusClient | LiteClient
Result = TypeVar("Result")

log = logger(__name__)


class MilvusVectors:
    """Vectors in Milvus. A `VectorStore`.

    Args:
        url: of a server; None for Milvus Lite.
        data_dir: where Milvus Lite keeps its files; one process at a time.
    """

    def __init__(self, *, url: str | None, data_dir: Path, clock: Clock) -> None:
        self._url = url
        self._data_dir = data_dir
        self._clock = clock
        self._opening: asyncio.Future[Client] | None = None
        self._reopen_at = 0.0
        self._had_vectors = lite_file(data_dir).exists()
        self._packing: asyncio.Task[None] | None = None
        self._written = 0
        self._searches = 0
        self._readers = ThreadPoolExecutor(_SEARCH_THREADS, thread_name_prefix="milvus-search")
        # One thread: Milvus Lite takes one writer at a time, and a caller that stops waiting changes nothing of that.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="milvus-write")
        self._depth = metrics.QUEUE_ITEMS.labels(_QUEUE)

    async def __aenter__(self) -> Self:
        """Opens what holds vectors already."""
        if not self._is_empty():
            with contextlib.suppress(VectorsUnavailable, TimeoutError):
                async with asyncio.timeout(_WARM_SECONDS):
                    await self._opened()
        return self

    async def __aexit__(self, *_unused: object) -> None:
        """Lets running calls end and closes what was opened."""
        if self._packing is not None:
            self._packing.cancel()
            await asyncio.wait((self._packing,))
        await asyncio.to_thread(self._readers.shutdown)
        if self._opening is not None:
            await asyncio.wait((self._opening,))
            if self._opening.exception() is None:
                await asyncio.get_running_loop().run_in_executor(self._writer, self._opening.result().close)
        await asyncio.to_thread(self._writer.shutdown)

    async def upsert(self, space: Space, vectors: Sequence[PlacedVector]) -> None:
        """See `VectorStore.upsert`."""
        await self._call(lambda client: client.upsert(space, vectors))
        self._written += 1
        if self._url is None and (self._packing is None or self._packing.done()):
            self._packing = asyncio.create_task(self._pack_when_idle(), name="milvus-pack")

    async def search(
        self, space: Space, tenant: TenantId, vector: Vector, *, project: str, agent: str, most: int
    ) -> Sequence[Match]:
        """See `VectorStore.search`."""
        if self._is_empty():
            raise VectorSpaceMissing(space.model)
        if self._searches >= _MAX_SEARCHES:
            metrics.QUEUE_REFUSED.labels(_QUEUE).inc()
            raise VectorsUnavailable("milvus", searches=self._searches)
        self._count_searches(1)
        try:
            client = await self._opened()
            job = self._readers.submit(client.search, space, tenant, vector, project=project, agent=agent, most=most)
        except BaseException:
            self._count_searches(-1)
            raise
        # With its asker gone, one that waits for a thread is cancelled, and one that has a thread keeps it.
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count_searches, -1))
        return await self._outcome(client, job)

    async def delete(self, memories: Collection[MemoryId]) -> None:
        """See `VectorStore.delete`."""
        await self._call(lambda client: client.delete(memories))

    async def count_of(self, tenant: TenantId) -> int:
        """See `VectorStore.count_of`."""
        return 0 if self._is_empty() else await self._call(lambda client: client.count_of(tenant))

    async def delete_all(self, tenant: TenantId) -> int:
        """See `VectorStore.delete_all`."""
        return 0 if self._is_empty() else await self._call(lambda client: client.delete_all(tenant))

    async def count(self, space: Space) -> int:
        """See `VectorStore.count`."""
        return await self._call(lambda client: client.count(space))

    async def drop(self, space: Space) -> None:
        """See `VectorStore.drop`."""
        await self._call(lambda client: client.drop(space))

    def _count_searches(self, more: int) -> None:
        self._searches += more
        self._depth.set(self._searches)

    def _is_empty(self) -> bool:
        """Tells that nothing was ever stored, so that nobody need wait for Milvus to hear it."""
        return self._url is None and not self._written and not self._had_vectors

    async def _pack_when_idle(self) -> None:
        seen = -1
        while seen != self._written:
            seen = self._written
            await self._clock.sleep(_IDLE_SECONDS)
        try:
            await self._call(_pack)
        except MeshError:
            log.info("vectors are packed later")

    async def _call(self, work: Callable[[Client], Result]) -> Result:
        """Runs a call in the thread of writes."""
        client = await self._opened()
        return await self._outcome(client, self._writer.submit(work, client))

    async def _outcome(self, client: Client, job: Future[Result]) -> Result:
        """Waits for a call; failures of Milvus come as one error of ours, our own faults as an incident."""
        try:
            return await asyncio.wrap_future(job)
        except MeshError:
            raise
        except (*client.failures, grpc.RpcError, OSError) as cause:
            log.info("milvus failed", error=repr(cause))
            raise VectorsUnavailable("milvus") from cause
        except Exception as fault:
            raise incident(fault, method="memory.vectors") from fault

    async def _opened(self) -> Client:
        """Gives the client. Who stops waiting for it leaves the opening to the next one."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            now = self._clock.monotonic()
            if now < self._reopen_at:
                raise VectorsUnavailable("milvus")
            self._reopen_at = now + _REOPEN_SECONDS
            self._opening = asyncio.get_running_loop().run_in_executor(self._writer, self._open)
        if not self._opening.done():
            await asyncio.wait((self._opening,))
        failure = self._opening.exception()
        if failure is not None:
            # Of a server that is away, what it is says enough; in this process it may be a fault of ours.
            trace = failure if self._url is None else None
            log.warning("milvus cannot be opened; recall goes without similarity", error=repr(failure), exc_info=trace)
            raise VectorsUnavailable("milvus") from failure
        return self._opening.result()

    def _open(self) -> Client:
        return LiteClient(self._data_dir) if self._url is None else MilvusClient(self._url)


def _pack(client: Client) -> None:
    if isinstance(client, LiteClient):
        client.pack()
