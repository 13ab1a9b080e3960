"""The core that Generate and StreamGenerate share: the order in which a call is made.

claim the call id ∥ law before ─▶ chain: hold, as leaving now ─▶ provider (law during)     … for each attempt
                 ─▶ conclude: settle ∥ (law after ─▶ record the outcome) ─▶ answer ─▶ note that it is settled
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial

from services.inference.domain.answer import Answer, TextDelta
from services.inference.domain.call import RecordedCall
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.output_format import OutputKind
from services.inference.domain.route import Plan
from services.inference.usecases.asked import Asked
from services.inference.usecases.attempt import judged_before
from services.inference.usecases.cached_answers import CachedAnswers
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.chain import Chain
from services.inference.usecases.claims import Claims
from services.inference.usecases.conclude import Conclude
from services.inference.usecases.ports import HoldsAhead, Router
from services.meshkit.calls.ports import LawGate
from services.meshkit.content import text_of
from services.meshkit.content.law import Verdict
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry import genai, names
from services.meshkit.telemetry.tracing import Attributes, span


class ModelCall:
    """Makes one call of a model, from its id to its settlement.

    Args:
        holds_ahead: begins to hold money while the law looks at the prompt; None: money is held after that.
    """

    def __init__(
        self,
        *,
        router: Router,
        cached: CachedAnswers,
        chain: Chain,
        conclude: Conclude,
        law: LawGate,
        claims: Claims,
        tenants: KnowsTenants,
        holds_ahead: HoldsAhead | None = None,
    ) -> None:
        self._router = router
        self._cached = cached
        self._chain = chain
        self._conclude = conclude
        self._law = law
        self._claims = claims
        self._tenants = tenants
        self._holds_ahead = holds_ahead

    async def __call__(self, asked: Asked, release: Release, *, streamed: bool) -> Answer:
        """Gives the answer; a repeat of a recorded call gets the recorded one.

        Raises: CallArgumentsDiffer, CallInProgress, ModelNotFound, NoModelConfigured, LawBlocked, what the chain
            raises, and what law and money raise.
        """
        with span(names.SPAN_INFERENCE, attributes=partial(_asked_for, asked)) as recorded:
            regions = asked.regions(rules_of(self._tenants, asked.principal.tenant))
            plan = self._router.plan(asked, regions=regions)
            first = self._chain.first_asked(plan)
            async with (
                self._judging(asked, first.version) as before,
                self._paid_ahead(asked, plan, first.version),
                self._claims.claim(asked) as claimed,
            ):
                if isinstance(claimed, RecordedCall):
                    return await self._conclude.replay(asked, claimed)
                async with AsyncExitStack() as looking:
                    async with self._claims.given_back_if_it_fails(asked):
                        turn = await looking.enter_async_context(self._cached.turn(asked, plan, before))
                    if turn.answer is not None and turn.verdict is not None:
                        kept = self._conclude.kept(
                            asked, turn.answer, turn.verdict, claimed.lost_attempts, similarity=turn.similarity
                        )
                        async with self._claims.given_back_if_it_fails(asked):
                            answer = await finish(kept)
                        rest = text_of(answer.parts)
                    else:
                        watched = streamed and asked.prompt.output_format.kind is OutputKind.TEXT
                        async with self._claims.given_back_if_it_fails(asked):
                            concluded = await self._chain.run(
                                asked, plan, release if watched else None, first=first, before=before
                            )
                        conclusion = self._conclude(asked, concluded, lost_attempts=claimed.lost_attempts)
                        answer = turn.made = await finish(conclusion)
                        rest = concluded.raw.gate.passed(text_of(answer.parts))
            if streamed and rest:
                release(TextDelta(rest))
            if recorded.on:
                recorded.tell(_answered(answer))
            return answer

    def _paid_ahead(self, asked: Asked, plan: Plan, first: DeploymentVersion) -> AbstractAsyncContextManager[None]:
        """Begins to hold money. A kept answer needs none: where there may be one, money is held once there is not."""
        if self._holds_ahead is None or self._cached.looks_up(asked, plan):
            return nullcontext()
        return self._holds_ahead.ahead(asked, first)

    @asynccontextmanager
    async def _judging(self, asked: Asked, first: DeploymentVersion) -> AsyncGenerator[Awaitable[Verdict]]:
        """Has the law look at the prompt while the block runs; nothing leaves the mesh by that."""
        before = asyncio.create_task(judged_before(asked, first, law=self._law), name="law before")
        try:
            yield before
        finally:
            before.cancel()
            await asyncio.wait((before,))
            if not before.cancelled():
                before.exception()  # Looked at here: a repeat is answered without its verdict.


def _asked_for(asked: Asked) -> Attributes:
    return {
        genai.OPERATION: genai.CHAT,
        genai.REQUEST_MODEL: asked.model,
        genai.CONVERSATION_ID: asked.context.call_id.run_id,
        genai.AGENT_NAME: asked.context.agent_name,
    }


def _answered(answer: Answer) -> Attributes:
    used = answer.usage
    return {
        genai.PROVIDER: answer.provider,
        genai.RESPONSE_MODEL: answer.model,
        genai.FINISH_REASONS: [answer.stop_reason.name.lower()],
        genai.INPUT_TOKENS: used.input + used.cache_read + used.cache_write_5m + used.cache_write_1h,
        genai.OUTPUT_TOKENS: used.output + used.reasoning,
        names.ATTRIBUTE_COST: answer.cost_nano_usd,
    }
