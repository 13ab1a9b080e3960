"""Gives an equal call the answer that was given before: without a model, without a hold, and under the law as it is."""

import secrets
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from services.inference.domain.answer import Answer
from services.inference.domain.answer_cache import CacheKey, KeptAnswers, cache_key, may_be_kept
from services.inference.domain.call_policy import CacheUse
from services.inference.domain.route import Plan
from services.inference.domain.similar_answers import question_of
from services.inference.usecases.asked import Asked
from services.inference.usecases.being_made import BeingMade
from services.inference.usecases.near_answers import NearAnswers
from services.meshkit.content.law import Verdict
from services.meshkit.core.clock import Clock
from services.meshkit.telemetry import metrics

#: A call waits this share of its time for the answer that an equal call is about to get.
_SHARE_OF_TIME: Final = 0.5


class Turn:
    """What the cache does for one call."""

    def __init__(self, answer: Answer | None = None, *, verdict: Verdict | None = None) -> None:
        #: What is to be given; None: the call is to be made.
        self.answer = answer
        #: How near the question was that it answered; 0: it is the answer to this one.
        self.similarity = 0.0
        #: On what would be sent; there whenever `answer` is.
        self.verdict = verdict
        #: What the call was answered with.
        self.made: Answer | None = None


class CachedAnswers:
    """Looks answers up, and has equal calls wait for the first of them.

    Keys are made under a secret of this process, the tenant and the project: nobody finds, or can guess at, what
    another was told.

    Args:
        seconds: how long answers are kept of calls whose route does not say; 0: not at all.
        near: finds answers to questions that are nearly the same; None: nothing in the mesh can compare them.
    """

    def __init__(self, kept: KeptAnswers, *, seconds: float, clock: Clock, near: NearAnswers | None = None) -> None:
        self._kept = kept
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._near = near
        self._making: dict[CacheKey, BeingMade] = {}

    def looks_up(self, asked: Asked, plan: Plan) -> bool:
        """Says whether a call may be given a kept answer."""
        return self._seconds_of(plan) > 0 and asked.policy.cache is CacheUse.DEFAULT

    def _seconds_of(self, plan: Plan) -> float:
        return self._seconds if plan.route is None else plan.route.cache_seconds

    @asynccontextmanager
    async def turn(self, asked: Asked, plan: Plan, before: Awaitable[Verdict]) -> AsyncGenerator[Turn]:
        """Gives a kept answer, or has the call made in the block, which notes its answer on the turn.

        What the law stops or rewrites is neither looked up nor kept.
        """
        seconds = self._seconds_of(plan)
        least = 0.0 if plan.route is None else plan.route.semantic_threshold
        async with self._equal(asked, plan, before, seconds=seconds) as turn:
            looked = turn.answer is None and turn.verdict is not None
            question = question_of(asked.prompt) if looked and least > 0 else None
            if question is None or self._near is None or turn.verdict is None:
                yield turn
                return
            group = self._key(plan, turn.verdict, asked, question.rest.arguments_hash(asked.model))
            async with self._near.turn(asked, question, group, least=least, seconds=seconds) as found:
                if found.near is not None:
                    turn.answer, turn.similarity = found.near.answer, found.near.similarity
                yield turn
                found.made = turn.made

    @asynccontextmanager
    async def _equal(
        self, asked: Asked, plan: Plan, before: Awaitable[Verdict], *, seconds: float
    ) -> AsyncGenerator[Turn]:
        """Gives the answer to an equal call, or has this one made."""
        verdict = await before if seconds > 0 and asked.policy.cache is not CacheUse.NO else None
        if verdict is None or not verdict.allowed or verdict.parts:
            yield Turn()
            return
        key = self._key(plan, verdict, asked, asked.arguments_hash)
        making: BeingMade | None = None
        if asked.policy.cache is not CacheUse.REFRESH:
            kept = await self._found(key, asked)
            metrics.ANSWERS_LOOKED_UP.labels("miss" if kept is None else "hit").inc()
            if kept is not None:
                yield Turn(kept, verdict=verdict)
                return
            if key not in self._making:
                making = self._making[key] = BeingMade()
        turn = Turn(verdict=verdict)
        try:
            yield turn
        finally:
            if turn.made is not None and may_be_kept(turn.made):
                self._kept.keep(asked.principal.tenant, key, turn.made, until=self._clock.monotonic() + seconds)
            elif making is not None and turn.made is not None:
                making.of_no_use = True
            if making is not None:
                del self._making[key]
                making.over.set()

    async def _found(self, key: CacheKey, asked: Asked) -> Answer | None:
        """Gives what is kept, or what the equal call that is being made gets; None: the call is to be made.

        A call that fails fails alone: of those that waited for it, the next is made.
        """
        until = self._clock.monotonic() + (asked.deadline - self._clock.monotonic()) * _SHARE_OF_TIME
        while (kept := self._kept.look(key, now=self._clock.monotonic())) is None:
            making, left = self._making.get(key), until - self._clock.monotonic()
            if making is None or left <= 0:
                return None
            await making.wait(left, clock=self._clock)
            if making.of_no_use:
                return None
        return kept

    def _key(self, plan: Plan, verdict: Verdict, asked: Asked, arguments_hash: bytes) -> CacheKey:
        """The prompt, its version with it, is in the hash of the arguments, labels included.

        What belongs to another project is not there for who is bound to one.
        """
        versions = sorted(
            "\0".join((one.version.deployment_id, one.version.name, str(one.version.version), one.version.model))
            for one in plan.candidates
        )
        route, arm = "" if plan.route is None else plan.route.name, str(plan.candidates[0].arm)
        told = (asked.context.project, route, arm, verdict.bundle_digest, *versions)
        parts = (arguments_hash, *(one.encode() for one in told))
        return cache_key(self._secret, str(asked.principal.tenant), parts)
