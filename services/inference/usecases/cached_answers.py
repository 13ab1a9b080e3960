"""Gives an equal call the answer that was given before: without a model, without a hold, and under the law as it is."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from services.inference.domain.answer import Answer
from services.inference.domain.answer_cache import CacheKey, KeptAnswers, cache_key, may_be_kept
from services.inference.domain.call_policy import CacheUse
from services.inference.domain.route import Plan
from services.inference.usecases.asked import Asked
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
        #: On what would be sent; there whenever `answer` is.
        self.verdict = verdict
        #: What the call was answered with.
        self.made: Answer | None = None


class _Making:
    """A call that is being made, and that equal ones wait for."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        #: True once it has an answer that equal calls do not get.
        self.of_no_use = False


class CachedAnswers:
    """Looks answers up, and has equal calls wait for the first of them.

    Keys are made under a secret of this process and its tenant: nobody finds, or can guess at, what another was told.

    Args:
        seconds: how long answers are kept of calls whose route does not say; 0: not at all.
    """

    def __init__(self, kept: KeptAnswers, *, seconds: float, clock: Clock) -> None:
        self._kept = kept
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._making: dict[CacheKey, _Making] = {}

    @asynccontextmanager
    async def turn(self, asked: Asked, plan: Plan, before: Awaitable[Verdict]) -> AsyncGenerator[Turn]:
        """Gives a kept answer, or has the call made in the block, which notes its answer on the turn.

        What the law stops or rewrites is neither looked up nor kept.
        """
        seconds = self._seconds if plan.route is None else plan.route.cache_seconds
        verdict = await before if seconds > 0 and asked.policy.cache is not CacheUse.NO else None
        if verdict is None or not verdict.allowed or verdict.parts:
            yield Turn()
            return
        key = self._key(asked, plan, verdict)
        making: _Making | None = None
        if asked.policy.cache is not CacheUse.REFRESH:
            kept = await self._found(key, asked)
            metrics.ANSWERS_LOOKED_UP.labels("miss" if kept is None else "hit").inc()
            if kept is not None:
                yield Turn(kept, verdict=verdict)
                return
            if key not in self._making:
                making = self._making[key] = _Making()
        turn = Turn()
        try:
            yield turn
        finally:
            if turn.made is not None and may_be_kept(turn.made):
                self._kept.keep(key, turn.made, until=self._clock.monotonic() + seconds)
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
            waits = (asyncio.create_task(making.over.wait()), asyncio.create_task(self._clock.sleep(left)))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()
            if making.of_no_use:
                return None
        return kept

    def _key(self, asked: Asked, plan: Plan, verdict: Verdict) -> CacheKey:
        """The prompt, its version with it, is in the hash of the arguments, labels included."""
        versions = sorted(
            "\0".join((one.version.deployment_id, one.version.name, str(one.version.version), one.version.model))
            for one in plan.candidates
        )
        route, arm = "" if plan.route is None else plan.route.name, str(plan.candidates[0].arm)
        told = (route, arm, verdict.bundle_digest, *versions)
        parts = (asked.arguments_hash, *(one.encode() for one in told))
        return cache_key(self._secret, str(asked.principal.tenant), parts)
