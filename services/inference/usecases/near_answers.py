"""Gives a call the answer to a question that is nearly its own, where its route says how near is near enough."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from services.inference.domain.answer import Answer
from services.inference.domain.answer_cache import CacheKey, may_be_kept
from services.inference.domain.call_policy import CacheUse
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.similar_answers import Near, Question, SimilarAnswers, similarity
from services.inference.domain.vector_cache import Vector
from services.inference.usecases.asked import Asked
from services.inference.usecases.being_made import BeingMade
from services.inference.usecases.embed import AskedVectors, Vectors
from services.meshkit.content import join
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Makes the vectors of texts, under law and money.
Embeds = Callable[[AskedVectors], Awaitable[Vectors]]

#: A call waits this share of its time for the answer that one like it is about to get.
_SHARE_OF_TIME: Final = 0.5
#: Longest time that a call waits to know its vector; then it is made as if nobody had asked the like.
_VECTOR_SECONDS: Final = 3.0


class Turn:
    """What is found for one call, and what it is answered with in the end."""

    def __init__(self) -> None:
        self.near: Near | None = None
        #: None when the call was not made, or failed.
        self.made: Answer | None = None


@dataclass(slots=True, eq=False)
class _Making:
    """A call that is being made, and its question."""

    vector: Vector
    being_made: BeingMade


class NearAnswers:
    """Looks for answers, and has calls that ask nearly the same wait for the first of them.

    Args:
        embedder: the installation's own inside the mesh; questions go nowhere else for this.
    """

    def __init__(self, kept: SimilarAnswers, *, embed: Embeds, embedder: DeploymentVersion, clock: Clock) -> None:
        self._kept = kept
        self._embed = embed
        self._embedder = embedder
        self._clock = clock
        self._making: dict[tuple[TenantId, CacheKey], list[_Making]] = {}

    @asynccontextmanager
    async def turn(
        self, asked: Asked, question: Question, group: CacheKey, *, least: float, seconds: float
    ) -> AsyncGenerator[Turn]:
        """Gives a kept answer, or has the call made in the block, which notes its answer on the turn.

        Args:
            group: of the calls that are equal but for the question, of one tenant.
            least: how near a question has to be.
            seconds: how long what is made in the block is kept.
        """
        turn = Turn()
        # Vectors of two models say nothing of each other.
        group = CacheKey(b"%b %b" % (group, self._embedder.model.encode()))
        vector = await self._vector(asked, question)
        if vector is None:
            yield turn
            return
        making: _Making | None = None
        if asked.policy.cache is not CacheUse.REFRESH:
            turn.near = await self._found(asked, group, vector, least)
            metrics.ANSWERS_LOOKED_UP.labels("far" if turn.near is None else "near").inc()
            if turn.near is not None:
                yield turn
                return
            making = _Making(vector, BeingMade())
            self._making.setdefault((asked.principal.tenant, group), []).append(making)
        try:
            yield turn
        finally:
            if turn.made is not None and may_be_kept(turn.made):
                until = self._clock.monotonic() + seconds
                self._kept.keep(asked.principal.tenant, group, vector, turn.made, until=until)
            elif making is not None and turn.made is not None:
                making.being_made.of_no_use = True
            if making is not None:
                self._ended((asked.principal.tenant, group), making)

    async def _found(self, asked: Asked, group: CacheKey, vector: Vector, least: float) -> Near | None:
        """Gives what is kept, or what a call that is being made gets; None: the call is to be made."""
        until = self._clock.monotonic() + (asked.deadline - self._clock.monotonic()) * _SHARE_OF_TIME
        tenant = asked.principal.tenant
        while (near := self._kept.look(tenant, group, vector, least=least, now=self._clock.monotonic())) is None:
            left = until - self._clock.monotonic()
            like = (one for one in self._making.get((tenant, group), ()) if similarity(one.vector, vector) >= least)
            making = next(like, None)
            if making is None or left <= 0:
                return None
            await making.being_made.wait(left, clock=self._clock)
            if making.being_made.of_no_use:
                return None
        # The question was another one: its answer is given to who may read both.
        label = join(part.label for part in asked.prompt.parts)
        parts = tuple(replace(part, label=part.label.joined(label)) for part in near.answer.parts)
        return replace(near, answer=replace(near.answer, parts=parts))

    async def _vector(self, asked: Asked, question: Question) -> Vector | None:
        """Gives the vector of a question; None when it cannot be had in time, which only costs the shared answer."""
        now = self._clock.monotonic()
        wanted = AskedVectors(
            principal=asked.principal,
            context=asked.context,
            model=self._embedder.name,
            texts=(question.text,),
            label=question.label,
            inside=self._embedder,
            deadline=min(asked.deadline, now + _VECTOR_SECONDS),
        )
        try:
            return (await self._embed(wanted)).vectors[0]
        except MeshError as error:
            log.warning("a question is not compared with others", error=error.message)
            return None

    def _ended(self, place: tuple[TenantId, CacheKey], making: _Making) -> None:
        self._making[place].remove(making)
        if not self._making[place]:
            del self._making[place]
        making.being_made.over.set()
