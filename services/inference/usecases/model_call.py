"""The core that Generate and StreamGenerate share: the chain of attempts, the record, the settlement.

claim the call id ∥ law before ─▶ hold, as leaving now ─▶ provider (law during)     … for each deployment of the chain
                 ─▶ settle ∥ (law after ─▶ record the outcome) ─▶ answer ─▶ note that it is settled

Money is settled as soon as the usage is known, whatever becomes of the answer: a crash before the record leaves a
ledger that equals the provider's. What is recorded before cost has answered says that settling is pending; whoever
comes next, the call itself, a repeat or the sweep, settles it, and more than once is harmless. When the law cannot be
asked about an answer, it is recorded unjudged: nobody sees it, and a repeat has it judged instead of asking a model.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Final

from services.inference.domain.answer import Answer, Restarted, TextDelta
from services.inference.domain.call import Blocked, Outcome, RecordedCall, SettleState, Unjudged
from services.inference.domain.cheaper import cheapest_of
from services.inference.domain.deployment import DEFAULT, Adapter, Deployments, DeploymentVersion
from services.inference.domain.errors import ProviderFailure, most_hopeful
from services.inference.domain.route import AttemptOutcome, Candidate
from services.inference.usecases.asked import Asked
from services.inference.usecases.attempt import Attempt, RawAnswer, judged_before
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.ports import CallStore, HoldClient, OpenModels, PriceList, Router
from services.meshkit.calls.ports import LawGate, Settlement
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.content import Usage, text_of
from services.meshkit.content.law import Verdict
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry import metrics, names
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.tracing import span

log = logger(__name__)

BEFORE_RECORD: Final = "inference.before_record"
AFTER_RECORD: Final = "inference.after_record"
BEFORE_SETTLE: Final = "inference.before_settle"
AFTER_SETTLE: Final = "inference.after_settle"
register(BEFORE_RECORD, AFTER_RECORD, BEFORE_SETTLE, AFTER_SETTLE)

#: What cost says when nobody knows a model's price: the chain then goes on, for a later model may have one.
_PRICE_UNKNOWN: Final = "PRICE_UNKNOWN"
#: What cost says when a budget lets only the cheapest through: the chain goes on with what costs less.
_BUDGET_DEGRADES: Final = "BUDGET_DEGRADES"


class ModelCall:
    """Makes one call of a model, from its id to its settlement."""

    def __init__(
        self,
        *,
        deployments: Deployments,
        router: Router,
        models: OpenModels,
        law: LawGate,
        holds: HoldClient,
        prices: PriceList,
        calls: CallStore,
        notes: SettledNotes,
        tenants: KnowsTenants,
        clock: Clock,
    ) -> None:
        self._deployments = deployments
        self._router = router
        self._models = models
        self._law = law
        self._holds = holds
        self._prices = prices
        self._calls = calls
        self._notes = notes
        self._tenants = tenants
        self._clock = clock
        self._model_label = metrics.BoundedLabel()

    async def __call__(self, asked: Asked, release: Release, *, streamed: bool) -> Answer:
        """Gives the answer; a repeat of a recorded call gets the recorded one.

        Raises: CallArgumentsDiffer, ModelNotFound, NoModelConfigured, LawBlocked, ProviderFailure of the chain, and
            what law and money raise.
        """
        with span(names.SPAN_INFERENCE, model=asked.model, run_id=asked.context.call_id.run_id):
            rules = rules_of(self._tenants, asked.principal.tenant)
            candidates = self._router.plan(asked, regions=asked.regions(rules)).candidates
            async with self._judging(asked, candidates[0].version) as before:
                if asked.repeatable:
                    recorded = await self._calls.claim(asked.key, asked.arguments_hash)
                    if recorded is not None:
                        return await self._replay(asked, recorded)
                answered, raw, failed = await self._chain(asked, candidates, before, release if streamed else None)
            answer = await finish(self._conclude(asked, answered, raw, failed))
            if streamed:
                rest = raw.gate.passed(text_of(answer.parts))
                if rest:
                    release(TextDelta(rest))
            return answer

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

    async def _chain(
        self,
        asked: Asked,
        candidates: tuple[Candidate, ...],
        before: Awaitable[Verdict],
        release: Release | None,
    ) -> tuple[Candidate, RawAnswer, tuple[str, ...]]:
        """Asks one deployment after the other until one answers; gives it, its answer and the failures before it.

        Args:
            before: verdict on what is sent to the first.
        """
        failures: list[MeshError] = []
        notes: list[str] = []
        void = cheapest = False
        waiting = list(candidates)
        while waiting:
            candidate = waiting.pop(0)
            deployment = candidate.version
            attempt = Attempt(
                asked,
                deployment,
                self._models.provider(deployment),
                law=self._law,
                holds=self._holds,
                clock=self._clock,
                cheapest=cheapest,
                before=before if candidate is candidates[0] else None,
            )
            if void and release is not None:
                release(Restarted(deployment.name))
            started = perf_counter()
            try:
                with self._measured(deployment):
                    return candidate, await attempt.run(release), tuple(notes)
            except MeshError as failure:
                took = int((perf_counter() - started) * 1_000_000)
                self._router.told(candidate, AttemptOutcome(reason=failure.reason, latency_us=took))
                if failure.reason == _BUDGET_DEGRADES and not cheapest:
                    waiting = await self._cheapest(asked, [candidate, *waiting], candidates)
                    cheapest = True
                    if not waiting:
                        raise most_hopeful([*failures, failure]) from failure
                elif not _next_may_do_better(failure):
                    raise
                failures.append(failure)
                notes.append(f"{deployment.name}: {failure.reason}")
                log.warning("a model did not answer", deployment=deployment.name, reason=failure.reason)
            void = void or attempt.showed_text
        raise most_hopeful(failures)

    async def _cheapest(
        self, asked: Asked, chain: Sequence[Candidate], candidates: Sequence[Candidate]
    ) -> list[Candidate]:
        """Gives those to go on with when a budget lets only the cheapest through; none to give up.

        Args:
            chain: those that have not failed yet, the refused one first.
        """
        rules = rules_of(self._tenants, asked.principal.tenant)
        by_name = asked.model not in ("", DEFAULT)
        default = self._deployments.default_generators(regions=asked.regions(rules)) if by_name else ()
        known = [*(one.version for one in candidates), *default]
        rates = await self._prices.rates(asked.principal, known)
        left = cheapest_of([one.version for one in chain], known, rates=rates, prompt=asked.prompt)
        return [one for one in chain if one.version in left]

    @contextmanager
    def _measured(self, deployment: DeploymentVersion) -> Generator[None]:
        started = perf_counter()
        outcome = "ok"
        try:
            yield
        except MeshError as error:
            outcome = error.reason.lower()
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            model = self._model_label(deployment.model)
            metrics.INFERENCE_LATENCY.labels(deployment.payee, model, outcome).observe(perf_counter() - started)

    async def _conclude(self, asked: Asked, answered: Candidate, raw: RawAnswer, failed: tuple[str, ...]) -> Answer:
        """Settles beside judging and recording an answer. Never interrupted: the money is spent already."""
        usage = raw.finished.usage
        if usage is not None:
            self._count(raw.deployment, usage)
        settling = asyncio.create_task(self._settle(asked.principal, raw.hold.id, usage), name="settle")
        recording = asyncio.create_task(self._judge_and_record(asked, raw, failed, settling), name="record")
        charged, recorded = await asyncio.gather(settling, recording, return_exceptions=True)
        if isinstance(charged, BaseException):
            raise charged
        self._router.told(answered, AttemptOutcome(latency_us=raw.provider_us, cost_nano_usd=charged or 0))
        if isinstance(recorded, BaseException):
            raise recorded
        if recorded.hold_id != raw.hold.id:
            return await self._replay(asked, recorded)
        return _outcome(self._noted(recorded, charged), bound=raw.hold.amount)

    async def _judge_and_record(
        self, asked: Asked, raw: RawAnswer, failed: tuple[str, ...], settling: asyncio.Task[NanoUsd | None]
    ) -> RecordedCall:
        """Records the outcome, settled or with its settlement pending. Gives what stands in the record.

        Raises: why the law could not be asked, once the answer is recorded unjudged.
        """
        outcome: Outcome
        unjudged = _unjudged(raw, failed)
        failure: MeshError | None = None
        try:
            outcome = unjudged.under(await self._law.evaluate(asked.principal, unjudged.subject(asked.context)))
        except MeshError as error:
            log.warning("an answer is recorded unjudged", hold_id=raw.hold.id, error=error.message)
            outcome, failure = unjudged, error
        usage = raw.finished.usage
        settled = settling.done() and not settling.cancelled() and settling.exception() is None
        charged = settling.result() if settled else None
        if usage is None:
            state = SettleState.ASSUMED
        else:
            state = SettleState.PENDING if charged is None else SettleState.SETTLED
        call = RecordedCall(
            key=asked.key,
            arguments_hash=asked.arguments_hash,
            outcome=outcome,
            hold_id=raw.hold.id,
            usage=usage or Usage(),
            settle_state=state,
            charged=charged,
        )
        await failpoint(BEFORE_RECORD)
        standing = await self._calls.record(call, token=asked.principal.token)
        await failpoint(AFTER_RECORD)
        if failure is not None:
            raise failure
        return standing

    async def _settle(self, principal: Principal, hold_id: str, usage: Usage | None) -> NanoUsd | None:
        """Charges known usage. None: unknown, or cost does not answer; the sweeper or a repeat settles later."""
        if usage is None:
            return None
        await failpoint(BEFORE_SETTLE)
        try:
            charged = await self._holds.settle(principal, hold_id, usage)
        except MeshError as error:
            log.warning("settlement is left to the sweeper", hold_id=hold_id, error=error.message)
            return None
        await failpoint(AFTER_SETTLE)
        return charged

    def _noted(self, call: RecordedCall, charged: NanoUsd | None) -> RecordedCall:
        """Has it noted that a call recorded as pending was charged, and gives it so."""
        if charged is None or call.settle_state is not SettleState.PENDING:
            return call
        self._notes.add(Settlement(key=call.key, hold_id=call.hold_id, charged=charged))
        return replace(call, settle_state=SettleState.SETTLED, charged=charged)

    async def _replay(self, asked: Asked, call: RecordedCall) -> Answer:
        """Gives a recorded outcome again; first judges and settles it, if that was left undone."""
        if isinstance(call.outcome, Unjudged):
            call = await finish(self._judge_late(asked, call, call.outcome))
        if call.settle_state is SettleState.PENDING:
            call = self._noted(call, await finish(self._settle(asked.principal, call.hold_id, call.usage)))
        return replace(_outcome(call, bound=0), replayed=True)

    async def _judge_late(self, asked: Asked, call: RecordedCall, unjudged: Unjudged) -> RecordedCall:
        verdict = await self._law.evaluate(asked.principal, unjudged.subject(asked.context))
        return await self._calls.judge(replace(call, outcome=unjudged.under(verdict)))

    def _count(self, deployment: DeploymentVersion, usage: Usage) -> None:
        model = self._model_label(deployment.model)
        for name in USAGE_CLASSES:
            tokens: int = getattr(usage, name)
            if tokens:
                metrics.TOKENS_CONSUMED.labels(deployment.payee, model, name).inc(tokens)


def _next_may_do_better(failure: MeshError) -> bool:
    return isinstance(failure, ProviderFailure) or failure.reason == _PRICE_UNKNOWN


def _unjudged(raw: RawAnswer, failed: tuple[str, ...]) -> Unjudged:
    """Gives what a provider answered in the form in which it becomes the answer, once the law has passed it."""
    draft = Answer(
        parts=raw.parts,
        stop_reason=raw.finished.stop_reason,
        usage=raw.finished.usage or Usage(),
        usage_known=raw.finished.usage is not None,
        provider=raw.deployment.payee,
        model=raw.finished.model or raw.deployment.model,
        hold_id=raw.hold.id,
        cost_nano_usd=0,
        verdict_ids=(raw.before.id, *raw.during_verdict_ids),
        bundle_digest=raw.before.bundle_digest,
        rules=(*raw.before.rules, *raw.during),
        provider_us=raw.provider_us,
        stub=raw.deployment.adapter == Adapter.STUB,
        failed_attempts=failed,
    )
    return Unjudged(draft=draft, target=raw.deployment.model)


def _outcome(call: RecordedCall, *, bound: int) -> Answer:
    """Gives the answer with its price; while that is not known, with the most it can be.

    Raises: LawBlocked: the outcome is that the law stopped it.
    """
    match call.outcome:
        case Answer():
            return replace(call.outcome, cost_nano_usd=bound if call.charged is None else call.charged)
        case Blocked():
            raise call.outcome.error()
        case Unjudged():
            raise Internal("an answer that nobody judged was about to be shown", call_id=call.key.call_id)
