"""Embeds what was remembered, in the background, with the token of a caller of the same tenant.

An embedding costs the money of the run, the project, the agent and the step that remembered, which the call names. It
needs a principal, too: Remember leaves its caller's token here right after its commit. A token that is bound to a
project would have that project pay, so it serves no other.
Rows that a crash left behind wait for the next caller of their tenant, whose Remember or Recall leaves a token too.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from services.memory.domain.memory import Memory, MemoryId, Placement
from services.memory.domain.vector import Embedding, Space
from services.memory.usecases.ports import Embedder, EmbedWork, PlacedVector, VectorStore
from services.meshkit.content import CallContext
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.grpc.incidents import incident
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Texts of one call to inference, and their size together.
_BATCH_ITEMS: Final = 64
_BATCH_BYTES: Final = 1_000_000
#: What a call to inference may take, seconds.
_EMBED_SECONDS: Final = 30.0
#: Pause after inference or Postgres did not answer, doubled while they do not.
_FIRST_PAUSE_SECONDS: Final = 1.0
_MOST_PAUSE_SECONDS: Final = 60.0
#: Pairs of tenant and space whose older vectors were looked for in this process.
_MOST_SEEN: Final = 10_000
_QUEUE: Final = "memory.embed"

#: Calls to inference at a time for one tenant.
_CALLS_TOGETHER: Final = 16

#: Whose memories a token may pay for: those of its tenant, or of the project that it is bound to.
Reach = tuple[TenantId, str | None]

register("memory.after_upsert")
log = logger(__name__)


class EmbedMemories:
    """A bounded queue of tenants that have something to embed, each with the token of its last caller.

    It holds no texts: what is to be embedded is read from Postgres when its turn comes, many memories at a time.

    Args:
        max_tenants: in the queue; one more is left to its next caller.
        look_seconds: a tenant that only recalls is looked after at most this often.
        gather_seconds: a tenant waits so long for more: answers go first, and memories of one moment share a call.
        workers: tenants served at the same time.
        place: told when vectors are recorded and could not be put into the store.
    """

    def __init__(
        self,
        *,
        work: EmbedWork,
        embedder: Embedder,
        vectors: VectorStore,
        place: Callable[[], None],
        clock: Clock,
        max_tenants: int,
        look_seconds: float,
        gather_seconds: float = 0.0,
        workers: int = 2,
    ) -> None:
        self._work = work
        self._embedder = embedder
        self._vectors = vectors
        self._place = place
        self._clock = clock
        self._max_tenants = max_tenants
        self._look_seconds = look_seconds
        self._gather_seconds = gather_seconds
        self._workers = workers
        #: Whose token to use, and from when on.
        self._waiting: OrderedDict[Reach, tuple[Principal, float]] = OrderedDict()
        #: When each tenant may be looked after again, and when one that was refused may be served again.
        self._looked: OrderedDict[Reach, float] = OrderedDict()
        self._resting: OrderedDict[Reach, float] = OrderedDict()
        self._seen: OrderedDict[tuple[TenantId, Space], None] = OrderedDict()
        self._wake = asyncio.Event()
        self._paused_until = 0.0
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._depth = metrics.QUEUE_ITEMS.labels(_QUEUE)
        self._sizes = metrics.BATCH_ITEMS.labels(_QUEUE)

    def wake(self, principal: Principal) -> None:
        """Queues a tenant that has something to embed; its latest token is the one to use."""
        reach, now = _reach_of(principal), self._clock.monotonic()
        if now < self._resting.get(reach, 0.0):
            return
        queued = self._waiting.get(reach)
        if queued is None and len(self._waiting) >= self._max_tenants:
            metrics.QUEUE_REFUSED.labels(_QUEUE).inc()
            return
        self._waiting[reach] = (principal, now + self._gather_seconds if queued is None else queued[1])
        self._depth.set(len(self._waiting))
        self._wake.set()

    def look(self, principal: Principal) -> None:
        """Queues a tenant that may have something left from before, now and then."""
        reach, now = _reach_of(principal), self._clock.monotonic()
        if now < self._looked.get(reach, now):
            return
        self._remember_until(self._looked, reach, now + self._look_seconds)
        self.wake(principal)

    async def __call__(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._workers):
                tasks.create_task(self._serve(), name=f"{_QUEUE}-{number}")

    async def embed_tenant(self, principal: Principal) -> int:
        """Embeds all that waits of the principal's tenant, or of the project that its token is bound to.

        Returns: how many memories.

        Raises: MeshError: inference or Postgres do not answer; what is left waits for the next caller.
        """
        count = 0
        while True:
            batch = await self._work.claim(principal.tenant, project=principal.project, most=_BATCH_ITEMS)
            if batch:
                self._sizes.observe(len(batch))
                count += await self._embed(principal, batch)
            # What came meanwhile has woken us again.
            if len(batch) < _BATCH_ITEMS:
                return count

    async def _serve(self) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            reach, (principal, ready_at) = next(iter(self._waiting.items()))
            pause = max(self._paused_until, ready_at) - self._clock.monotonic()
            if pause > 0:
                await self._clock.sleep(pause)
                continue
            del self._waiting[reach]
            self._depth.set(len(self._waiting))
            try:
                await self.embed_tenant(principal)
                self._pause_seconds = _FIRST_PAUSE_SECONDS
            except MeshError as error:
                self._failed(principal, error)
            except Exception as error:  # noqa: BLE001  # a consumer loop: the rows stay pending, the loop goes on
                self._failed(principal, incident(error, method=_QUEUE))

    def _failed(self, principal: Principal, error: MeshError) -> None:
        """An outage pauses everybody and is tried again; a refusal is the tenant's own and waits for a later caller."""
        metrics.MEMORIES_EMBEDDED.labels("failed").inc()
        # The message may quote what the tenant asked for.
        log.info("memories wait to be embedded", reason=error.reason)
        now = self._clock.monotonic()
        if error.kind in (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE):
            self._waiting.setdefault(_reach_of(principal), (principal, now))
            self._paused_until = now + self._pause_seconds
            self._pause_seconds = min(self._pause_seconds * 2, _MOST_PAUSE_SECONDS)
        elif error.kind not in (ErrorKind.UNAUTHENTICATED, ErrorKind.DENIED):
            # No embedder, no money: the next caller of this moment would be refused as well.
            self._remember_until(self._resting, _reach_of(principal), now + self._look_seconds)

    def _remember_until(self, times: OrderedDict[Reach, float], reach: Reach, until: float) -> None:
        times[reach] = until
        times.move_to_end(reach)
        if len(times) > self._max_tenants:
            times.popitem(last=False)

    async def _embed(self, principal: Principal, batch: Sequence[Memory]) -> int:
        left = {memory.id for memory in batch}
        try:
            made, failure = await self._made(principal, batch)
            for space, some in made.items():
                await self._record(principal.tenant, some)
                left.difference_update(memory.id for memory, _ in some)
                await self._outdate(principal, space)
            if failure is not None:
                raise failure
        finally:
            # Also when the server stops: the next process need not wait out the lease.
            if left:
                with _passed_over("claimed memories wait out their lease"):
                    await self._work.give_back(principal.tenant, left)
        return len(batch)

    async def _made(
        self, principal: Principal, batch: Sequence[Memory]
    ) -> tuple[dict[Space, list[tuple[Memory, Embedding]]], BaseException | None]:
        """Asks for the vectors of a batch, several calls at a time. Gives what was made, and what failed first."""
        room = asyncio.Semaphore(_CALLS_TOGETHER)

        async def ask(context: CallContext, group: Sequence[Memory]) -> list[tuple[Memory, Embedding]]:
            async with room:
                texts = [memory.embeddable_text for memory in group]
                made = await self._embedder.embed(principal, context, texts, seconds=_EMBED_SECONDS)
            return list(zip(group, made, strict=True))

        asked = (ask(context, group) for context, group in _groups(batch))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        by_space: defaultdict[Space, list[tuple[Memory, Embedding]]] = defaultdict(list)
        for outcome in outcomes:
            for memory, embedding in () if isinstance(outcome, BaseException) else outcome:
                by_space[embedding.space].append((memory, embedding))
        return by_space, next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)

    async def _record(self, tenant: TenantId, made: Sequence[tuple[Memory, Embedding]]) -> None:
        """Puts vectors into the store and records them. The record is what counts: without the store it waits."""
        space = made[0][1].space
        placement = Placement.PLACED
        try:
            await self._vectors.upsert(
                space,
                [
                    PlacedVector(
                        tenant=tenant,
                        memory=memory.id,
                        project=memory.project,
                        agent=memory.agent,
                        vector=embedding.vector,
                    )
                    for memory, embedding in made
                ],
            )
        except MeshError as error:
            log.info("vectors wait for the vector store", reason=error.reason)
            placement = Placement.RECORDED
        await failpoint("memory.after_upsert")
        ids = [(memory.id, embedding) for memory, embedding in made]
        there = await self._work.record(tenant, ids, placement)
        metrics.MEMORIES_EMBEDDED.labels(placement.name.lower()).inc(len(there))
        await self._delete_forgotten({memory.id for memory, _ in made} - set(there))
        if placement is Placement.RECORDED:
            self._place()

    async def _delete_forgotten(self, gone: set[MemoryId]) -> None:
        """Deletes vectors of memories that were forgotten meanwhile; the sweep does it if the store is away."""
        if gone:
            with _passed_over("vectors of forgotten memories wait to be deleted"):
                await self._vectors.delete(gone)

    async def _outdate(self, principal: Principal, space: Space) -> None:
        """Has older vectors of other models made anew, once per tenant and space in the life of the process."""
        key = (principal.tenant, space)
        if key in self._seen:
            return
        self._seen[key] = None
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        count = await self._work.outdate(principal.tenant, space)
        if count:
            log.info("the embedding model changed; memories are embedded again", model=space.model, memories=count)
            self.wake(principal)


def _reach_of(principal: Principal) -> Reach:
    return principal.tenant, principal.project


@contextmanager
def _passed_over(sentence: str) -> Iterator[None]:
    """Logs what fails in the block and is made up for elsewhere."""
    try:
        yield
    except MeshError as error:
        log.info(sentence, reason=error.reason)


def _groups(batch: Sequence[Memory]) -> Iterator[tuple[CallContext, list[Memory]]]:
    """Puts together what one step of a run remembers for one agent, within the size of a call.

    So each memory is paid for by the budgets that its own call spends from, and stands in the ledger under its agent.
    """
    alike: defaultdict[tuple[object, ...], list[Memory]] = defaultdict(list)
    for memory in batch:
        context, call = memory.context, memory.context.call_id
        whose = (context.budget_ids, context.project, context.agent_name, context.agent_version)
        alike[(call.run_id, call.path, context.residency_region, *whose)].append(memory)
    for memories in alike.values():
        group: list[Memory] = []
        size = 0
        for memory in memories:
            bytes_more = len(memory.embeddable_text.encode())
            if group and size + bytes_more > _BATCH_BYTES:
                yield group[0].context, group
                group, size = [], 0
            group.append(memory)
            size += bytes_more
        yield group[0].context, group
