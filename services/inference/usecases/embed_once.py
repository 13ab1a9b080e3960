"""Makes the vectors of a request with an id once, so that its repeat costs nothing."""

from typing import Protocol
from uuid import UUID

from services.inference.usecases.embed import AskedVectors, Embed, Vectors
from services.meshkit.core.identity import TenantId
from services.meshkit.core.once import RequestInProgress, current_once


class KeptVectors(Protocol):
    """Keeps the answers to requests for vectors."""

    async def look(self, tenant: TenantId) -> None:
        """Looks whether the running request was answered before. Raises: AnsweredBefore, RequestIdReused."""
        ...

    async def keep(self, tenant: TenantId, made: Vectors) -> None:
        """Keeps the answer. Raises: AnsweredBefore: a repeat elsewhere was faster."""
        ...


class EmbedOnce:
    """Embeds. It changes nothing but what is spent, so its answer is kept in a transaction of its own."""

    def __init__(self, *, embed: Embed, answers: KeptVectors) -> None:
        self._embed = embed
        self._answers = answers
        self._at_work: set[tuple[TenantId, UUID]] = set()

    async def __call__(self, asked: AskedVectors) -> Vectors:
        """Gives the vectors. Raises: what `Embed` raises, and for a request with an id what `once` raises."""
        once = current_once()
        if once is None:
            return await self._embed(asked)
        place = (once.tenant, once.request_id)
        if place in self._at_work:
            raise RequestInProgress(once.request_id)
        self._at_work.add(place)
        try:
            await self._answers.look(once.tenant)
            made = await self._embed(asked)
            await self._answers.keep(once.tenant, made)
        finally:
            self._at_work.discard(place)
        return made
