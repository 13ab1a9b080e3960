"""Recalls: the latest turns of a session, and what is most similar to a query."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from services.memory.domain.errors import VectorSpaceMissing
from services.memory.domain.memory import Memory, MemoryId
from services.memory.domain.recall import Recalled, RecallQuery, Scored, fit, rank
from services.memory.domain.vector import Space
from services.memory.usecases.ports import Match, MemoryReader, VectorStore
from services.memory.usecases.query_vectors import QueryVectors
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class _Skipped(Exception):  # never leaves this module
    """Similarity could not be asked."""


class PlacedReader(Protocol):
    """Tells whether the vector store should know a tenant."""

    async def has_placed(self, tenant: TenantId, space: Space) -> bool:
        """See `EmbedWork.has_placed`."""
        ...


class Recall:
    """Finds memories. Ring and similarity are asked at the same time; only the ring may fail the call.

    Args:
        look: told of a tenant that may have something left to embed, and whose token may be used for it.
        check: told that the vector store has lost a space.
        similarity_seconds: longest wait for embedder and vector store together; then the answer goes without.
    """

    def __init__(
        self,
        *,
        memories: MemoryReader,
        placements: PlacedReader,
        queries: QueryVectors,
        vectors: VectorStore,
        look: Callable[[Principal], None],
        check: Callable[[], None],
        clock: Clock,
        similarity_seconds: float,
    ) -> None:
        self._memories = memories
        self._placements = placements
        self._queries = queries
        self._vectors = vectors
        self._look = look
        self._check = check
        self._clock = clock
        self._similarity_seconds = similarity_seconds
        self._reasons = metrics.BoundedLabel(most=50)

    async def __call__(self, principal: Principal, query: RecallQuery) -> Recalled:
        """Gives what was found, within the token budget.

        Raises: Unavailable: Postgres is away.
        """
        self._look(principal)
        if not query.semantic_matches:
            turns = await self._ring(principal.tenant, query)
            return fit(turns, (), budget=query.token_budget, skipped=False)
        similar = asyncio.create_task(self._similar_or_none(principal, query), name="memory-similar")
        try:
            turns = await self._ring(principal.tenant, query)
            matches = await similar
        finally:
            similar.cancel()
            await asyncio.wait((similar,))
        best = await self._best(principal.tenant, matches or (), query, without=turns)
        return fit(turns, best, budget=query.token_budget, skipped=matches is None)

    async def _ring(self, tenant: TenantId, query: RecallQuery) -> Sequence[Memory]:
        if query.session is None or not query.recent_turns:
            return ()
        with metrics.MEMORY_RECALL_DURATION.labels("ring").time():
            return await self._memories.ring(
                tenant, query.session, project=query.project, now=self._clock.now(), most=query.recent_turns
            )

    async def _similar_or_none(self, principal: Principal, query: RecallQuery) -> Sequence[Match] | None:
        """Asks embedder and vector store; None when they did not answer (in time)."""
        try:
            async with asyncio.timeout(self._similarity_seconds):
                return await self._similar(principal, query)
        except TimeoutError:
            reason = "TIMEOUT"
        except _Skipped:
            reason = VectorSpaceMissing.reason
        except MeshError as error:
            reason = error.reason
        metrics.MEMORY_SEMANTIC_SKIPPED.labels(self._reasons(reason)).inc()
        log.debug("recall goes without similarity", reason=reason)
        return None

    async def _similar(self, principal: Principal, query: RecallQuery) -> Sequence[Match]:
        with metrics.MEMORY_RECALL_DURATION.labels("embed").time():
            asked = await self._queries.of(principal, query.context, query.query, seconds=self._similarity_seconds)
        try:
            with metrics.MEMORY_RECALL_DURATION.labels("search").time():
                return await self._vectors.search(
                    asked.space,
                    principal.tenant,
                    asked.vector,
                    project=query.project,
                    agent=query.agent,
                    # Turns of the ring are often the most similar ones, and are not shown twice.
                    most=query.semantic_matches + query.recent_turns,
                )
        except VectorSpaceMissing:
            if await self._placements.has_placed(principal.tenant, asked.space):
                self._check()
                raise _Skipped from None
            return ()

    async def _best(
        self, tenant: TenantId, matches: Sequence[Match], query: RecallQuery, *, without: Sequence[Memory]
    ) -> list[Scored]:
        """Reads the best matches from Postgres: tenant, project, agent and content are what the row says.

        As many as are wanted, and the others only when a row of these is gone: a row is opened at some cost.
        """
        scores: dict[MemoryId, float] = {match.memory: match.score for match in matches}
        ranked = rank(scores, without=without, least=query.least_score)
        found: list[Scored] = []
        for asked in (ranked[: query.semantic_matches], ranked[query.semantic_matches :]):
            if asked and len(found) < query.semantic_matches:
                rows = await self._memories.those_of(tenant, asked, project=query.project, agent=query.agent)
                there = {memory.id: memory for memory in rows}
                found += [Scored(there[memory], scores[memory]) for memory in asked if memory in there]
        return found[: query.semantic_matches]
