"""The core that Generate and StreamGenerate share: the chain of attempts, the record, the settlement.

claim the call id ─▶ for each deployment: law before ─▶ hold, as leaving now ─▶ provider (law during)
                 ─▶ law after ∥ settle ─▶ record the answer and what was charged ─▶ answer

Money is settled as soon as the usage is known, whatever becomes of the answer: a crash before the record leaves a
ledger that equals the provider's. When cost does not answer, the record says that settling is pending, and the sweeper
does it.
"""

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Final

from services.inference.domain.answer import Answer, Restarted, TextDelta
from services.inference.domain.call import Blocked, RecordedCall, SettleState
from services.inference.domain.deployment import Adapter, Deployment, Deployments
from services.inference.domain.errors import LawBlocked, ProviderFailure, most_hopeful
from services.inference.domain.law import Stage, Subject
from services.inference.usecases.asked import Asked
from services.inference.usecases.attempt import Attempt, RawAnswer, labelled
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.ports import CallStore, HoldClient, LawGate, ModelProvider, Settlement
from services.meshkit.content import Usage, text_of
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal
from services.meshkit.core.money import NanoUsd
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


class ModelCall:
    """Makes one call of a model, from its id to its settlement."""

    def __init__(
        self,
        *,
        deployments: Deployments,
        providers: Mapping[Adapter, ModelProvider],
        law: LawGate,
        holds: HoldClient,
        calls: CallStore,
        clock: Clock,
    ) -> None:
        self._deployments = deployments
        self._providers = providers
        self._law = law
        self._holds = holds
        self._calls = calls
        self._clock = clock
        self._model_label = metrics.BoundedLabel()

    async def __call__(self, asked: Asked, release: Release, *, streamed: bool) -> Answer:
        """Gives the answer; a repeat of a recorded call gets the recorded one.

        Raises: CallArgumentsDiffer, ModelNotFound, NoModelConfigured, LawBlocked, ProviderFailure of the chain, and
            what law and money raise.
        """
        with span(names.SPAN_INFERENCE, model=asked.model, run_id=asked.context.call_id.run_id):
            candidates = self._deployments.generators(asked.model, region=asked.context.residency_region)
            if asked.repeatable:
                recorded = await self._calls.claim(asked.key, asked.arguments_hash)
                if recorded is not None:
                    return await self._replay(asked.principal, recorded)
            raw, failed = await self._chain(asked, candidates, release if streamed else None)
            answer = await finish(self._conclude(asked, raw, failed))
            if streamed:
                rest = raw.gate.passed(text_of(answer.parts))
                if rest:
                    release(TextDelta(rest))
            return answer

    async def _chain(
        self, asked: Asked, candidates: tuple[Deployment, ...], release: Release | None
    ) -> tuple[RawAnswer, tuple[str, ...]]:
        """Asks one deployment after the other until one answers; gives the answer and the failures before it."""
        failures: list[MeshError] = []
        notes: list[str] = []
        void = False
        for deployment in candidates:
            attempt = Attempt(
                asked,
                deployment,
                self._providers[deployment.adapter],
                law=self._law,
                holds=self._holds,
                clock=self._clock,
            )
            if void and release is not None:
                release(Restarted(deployment.name))
            try:
                with self._measured(deployment):
                    return await attempt.run(release), tuple(notes)
            except MeshError as failure:
                if not _next_may_do_better(failure):
                    raise
                failures.append(failure)
                notes.append(f"{deployment.name}: {failure.reason}")
                log.warning("a model did not answer", deployment=deployment.name, reason=failure.reason)
            void = void or attempt.showed_text
        raise most_hopeful(failures)

    @contextmanager
    def _measured(self, deployment: Deployment) -> Generator[None]:
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
            metrics.INFERENCE_LATENCY.labels(deployment.adapter, model, outcome).observe(perf_counter() - started)

    async def _conclude(self, asked: Asked, raw: RawAnswer, failed: tuple[str, ...]) -> Answer:
        """Judges, settles and records an answer. Never interrupted: the money is spent already."""
        usage = raw.finished.usage
        judged, charged = await asyncio.gather(
            self._judge(asked, raw, failed), self._settle(asked.principal, raw.hold.id, usage), return_exceptions=True
        )
        if isinstance(charged, BaseException):
            raise charged
        if isinstance(judged, BaseException):
            # Unjudged, the answer goes nowhere; what it used is charged all the same.
            raise judged
        if usage is None:
            state = SettleState.ASSUMED
        else:
            state = SettleState.PENDING if charged is None else SettleState.SETTLED
            self._count(raw.deployment, usage)
        call = RecordedCall(
            key=asked.key,
            arguments_hash=asked.arguments_hash,
            outcome=judged,
            hold_id=raw.hold.id,
            usage=usage or Usage(),
            settle_state=state,
            charged=charged,
        )
        await failpoint(BEFORE_RECORD)
        standing = await self._calls.record(call, token=asked.principal.token)
        await failpoint(AFTER_RECORD)
        if standing.hold_id != call.hold_id:
            return await self._replay(asked.principal, standing)
        return _outcome(call, bound=raw.hold.amount)

    async def _judge(self, asked: Asked, raw: RawAnswer, failed: tuple[str, ...]) -> Answer | Blocked:
        label = asked.prompt.label(model=raw.deployment.model)
        usage = raw.finished.usage or Usage()
        subject = Subject(
            stage=Stage.AFTER,
            parts=raw.parts,
            measures={
                "input_tokens": usage.total - usage.output - usage.reasoning - usage.audio_out,
                "output_tokens": usage.output + usage.reasoning,
                "latency_ms": raw.provider_us / 1000,
            },
            context=asked.context,
            target=raw.deployment.model,
        )
        after = await self._law.evaluate(asked.principal, subject)
        if not after.allowed:
            try:
                after.raise_if_blocked(Stage.AFTER)
            except LawBlocked as blocked:
                return Blocked(
                    verdict_id=after.id, rules=tuple(blocked.metadata["rules"].split(", ")), bundle=after.bundle
                )
        return Answer(
            parts=labelled(after.parts or raw.parts, label),
            stop_reason=raw.finished.stop_reason,
            usage=usage,
            usage_known=raw.finished.usage is not None,
            provider=raw.deployment.adapter,
            model=raw.finished.model or raw.deployment.model,
            hold_id=raw.hold.id,
            cost_nano_usd=0,
            verdict_ids=(raw.before.id, *raw.during_verdict_ids, after.id),
            bundle_digest=after.bundle_digest,
            rules=(*raw.before.rules, *raw.during, *after.rules),
            provider_us=raw.provider_us,
            stub=raw.deployment.adapter is Adapter.STUB,
            failed_attempts=failed,
        )

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

    async def _settle_late(self, principal: Principal, call: RecordedCall) -> NanoUsd | None:
        """Charges a recorded call whose settlement was left pending, and notes it."""
        charged = await self._settle(principal, call.hold_id, call.usage)
        if charged is None:
            return None
        try:
            await self._calls.mark_settled([Settlement(key=call.key, hold_id=call.hold_id, charged=charged)])
        except MeshError as error:
            log.warning("a settled call stays marked as pending", hold_id=call.hold_id, error=error.message)
        return charged

    async def _replay(self, principal: Principal, call: RecordedCall) -> Answer:
        """Gives a recorded outcome again, and settles it first if that was left undone."""
        if call.settle_state is SettleState.PENDING:
            call = replace(call, charged=await finish(self._settle_late(principal, call)))
        return replace(_outcome(call, bound=0), replayed=True)

    def _count(self, deployment: Deployment, usage: Usage) -> None:
        model = self._model_label(deployment.model)
        for name in USAGE_CLASSES:
            tokens: int = getattr(usage, name)
            if tokens:
                metrics.TOKENS_CONSUMED.labels(deployment.adapter, model, name).inc(tokens)


def _next_may_do_better(failure: MeshError) -> bool:
    return isinstance(failure, ProviderFailure) or failure.reason == _PRICE_UNKNOWN


def _outcome(call: RecordedCall, *, bound: int) -> Answer:
    """Gives the answer with its price; while that is not known, with the most it can be.

    Raises: LawBlocked: the outcome is that the law stopped it.
    """
    if isinstance(call.outcome, Blocked):
        raise call.outcome.error()
    return replace(call.outcome, cost_nano_usd=bound if call.charged is None else call.charged)
