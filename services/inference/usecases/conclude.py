"""What follows an answer: its settlement, the law's verdict on the whole, and the record.

Money is settled as soon as the usage is known, whatever becomes of the answer: a crash before the record leaves a
ledger that equals the provider's. What is recorded before cost has answered says that settling is pending; whoever
comes next, the call itself, a repeat or the sweep, settles it, and more than once is harmless. When the law cannot be
asked about an answer, it is recorded unjudged: nobody sees it, and a repeat has it judged instead of asking a model.
"""

import asyncio
from dataclasses import replace
from typing import Final

from services.inference.domain.answer import Answer
from services.inference.domain.call import Blocked, Outcome, RecordedCall, SettleState, Unjudged
from services.inference.domain.deployment import Adapter, DeploymentVersion
from services.inference.domain.errors import OutputInvalid
from services.inference.usecases.asked import Asked
from services.inference.usecases.attempt import RawAnswer
from services.inference.usecases.chain import Concluded
from services.inference.usecases.ports import CallStore, HoldClient, Router
from services.meshkit.calls.ports import LawGate, Settlement
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.content import Usage
from services.meshkit.content.law import Verdict
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Internal, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

BEFORE_RECORD: Final = "inference.before_record"
AFTER_RECORD: Final = "inference.after_record"
BEFORE_SETTLE: Final = "inference.before_settle"
AFTER_SETTLE: Final = "inference.after_settle"
register(BEFORE_RECORD, AFTER_RECORD, BEFORE_SETTLE, AFTER_SETTLE)


class Conclude:
    """Settles, judges and records answers, and gives recorded ones again.

    Args:
        router: hears of each answer once its cost is known.
    """

    def __init__(
        self, *, router: Router, law: LawGate, holds: HoldClient, calls: CallStore, notes: SettledNotes
    ) -> None:
        self._router = router
        self._law = law
        self._holds = holds
        self._calls = calls
        self._notes = notes
        self._model_label = metrics.BoundedLabel()
        self._payee_label = metrics.BoundedLabel()

    async def __call__(self, asked: Asked, concluded: Concluded, *, lost_attempts: int) -> Answer:
        """Settles beside judging and recording an answer. Not to be interrupted: the money is spent already.

        Args:
            lost_attempts: times that this call was begun before, and lost.
        Raises: LawBlocked; why the law could not be asked, once the answer is recorded unjudged.
        """
        raw = concluded.raw
        usage = raw.finished.usage
        if usage is not None:
            self._count(raw.deployment, usage)
        settling = asyncio.create_task(self._settle(asked.principal, raw.hold.id, usage), name="settle")
        # What settles without waiting has done so before anything is recorded.
        await asyncio.sleep(0)
        try:
            recorded = await self._judge_and_record(asked, _unjudged(concluded, lost_attempts), raw, settling)
        finally:
            charged = await settling
            self._router.told(concluded.candidate, replace(concluded.outcome, cost_nano_usd=charged))
        if recorded.hold_id != raw.hold.id:
            return await self.replay(asked, recorded)
        return _outcome(self._noted(recorded, charged), bound=raw.hold.amount)

    async def _judge_and_record(
        self, asked: Asked, unjudged: Unjudged, raw: RawAnswer, settling: asyncio.Task[NanoUsd | None]
    ) -> RecordedCall:
        """Records the outcome, settled or with its settlement pending. Gives what stands in the record.

        Raises: why the law could not be asked, once the answer is recorded unjudged.
        """
        outcome: Outcome
        failure: Exception | None = None
        try:
            outcome = unjudged.under(await self._law.evaluate(asked.principal, unjudged.subject(asked.context)))
        except Exception as error:  # noqa: BLE001  # raised below; whatever it was, the answer is paid for
            log.warning("an answer is recorded unjudged", hold_id=raw.hold.id, error=str(error))
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
            arguments_hash=asked.recorded_hash,
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
        except Exception:
            # A fault of ours is no reason to withhold an answer that is paid for.
            log.exception("settlement is left to the sweeper", hold_id=hold_id)
            return None
        await failpoint(AFTER_SETTLE)
        return charged

    def _noted(self, call: RecordedCall, charged: NanoUsd | None) -> RecordedCall:
        """Has it noted that a call recorded as pending was charged, and gives it so."""
        if charged is None or call.settle_state is not SettleState.PENDING:
            return call
        self._notes.add(Settlement(key=call.key, hold_id=call.hold_id, charged=charged))
        return replace(call, settle_state=SettleState.SETTLED, charged=charged)

    async def kept(
        self, asked: Asked, answer: Answer, before: Verdict, lost_attempts: int, *, similarity: float
    ) -> Answer:
        """Has the law judge an answer that an equal call was given, for this caller, and records it; it costs nothing.

        Args:
            before: verdict on the prompt.
            similarity: how near the question was that it answered, if it was another one.
        Raises: LawBlocked; why the law could not be asked.
        """
        unjudged = Unjudged(
            draft=replace(
                answer,
                usage=Usage(),
                usage_known=True,
                hold_id="",
                cost_nano_usd=0,
                verdict_ids=(before.id,),
                bundle_digest=before.bundle_digest,
                rules=before.rules,
                provider_us=0,
                first_byte_us=0,
                failed_attempts=(),
                attempts=(),
                lost_attempts=lost_attempts,
            ),
            target=answer.model,
        )
        verdict = await self._law.evaluate(asked.principal, unjudged.subject(asked.context))
        call = RecordedCall(
            key=asked.key,
            arguments_hash=asked.recorded_hash,
            outcome=unjudged.under(verdict),
            hold_id="",
            usage=Usage(),
            settle_state=SettleState.SETTLED,
            charged=0,
        )
        standing = await self._calls.record(call, token=asked.principal.token)
        if standing.hold_id:
            return await self.replay(asked, standing)
        return replace(_outcome(standing, bound=0), cached=True, cache_similarity=similarity)

    async def replay(self, asked: Asked, call: RecordedCall) -> Answer:
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
        payee, model = self._payee_label(deployment.payee), self._model_label(deployment.model)
        for name in USAGE_CLASSES:
            tokens: int = getattr(usage, name)
            if tokens:
                metrics.TOKENS_CONSUMED.labels(payee, model, name).inc(tokens)


def _unjudged(concluded: Concluded, lost_attempts: int) -> Unjudged:
    """Gives what a provider answered in the form in which it becomes the answer, once the law has passed it."""
    raw = concluded.raw
    draft = Answer(
        parts=raw.parts,
        stop_reason=raw.finished.stop_reason,
        usage=raw.finished.usage or Usage(),
        usage_known=raw.finished.usage is not None,
        provider=raw.deployment.payee,
        model=raw.finished.model or raw.deployment.model,
        hold_id=raw.hold.id,
        # The most that it can be, until it is charged.
        cost_nano_usd=raw.hold.amount,
        verdict_ids=(raw.before.id, *raw.during_verdict_ids),
        bundle_digest=raw.before.bundle_digest,
        rules=(*raw.before.rules, *raw.during),
        provider_us=raw.provider_us,
        stub=raw.deployment.adapter == Adapter.STUB,
        failed_attempts=concluded.failed,
        attempts=concluded.attempts,
        repairs=sum(note.endswith(f": {OutputInvalid.reason}") for note in concluded.failed),
        deployment=raw.deployment.name,
        deployment_version=raw.deployment.version,
        lost_attempts=lost_attempts,
        continued_by=concluded.continued_by,
        first_byte_us=raw.first_byte_us,
        choice=concluded.candidate.choice,
    )
    return Unjudged(draft=draft, target=raw.deployment.model)


def _outcome(call: RecordedCall, *, bound: int) -> Answer:
    """Gives the answer with its price; while that is not known, with the most it can be.

    Raises: LawBlocked: the outcome is that the law stopped it.
    """
    match call.outcome:
        case Answer():
            cost = bound if call.charged is None else call.charged
            return call.outcome if call.outcome.cost_nano_usd == cost else replace(call.outcome, cost_nano_usd=cost)
        case Blocked():
            raise call.outcome.error()
        case Unjudged():
            raise Internal("an answer that nobody judged was about to be shown", call_id=call.key.call_id)
