"""Takes in what a provider made of a batch: settles each item, has the law judge its answer, and records it.

Money first: its usage is known, whatever becomes of the answer. Settling again charges nothing twice, so a crash
between the settlement and the record only has both done again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from services.inference.domain.answer import WITHHELD, AttemptNote, Finished, Whole
from services.inference.domain.batch_job import BatchItem, BatchJob, ItemState
from services.inference.domain.call import Blocked, Unjudged
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import Charge, LawBlocked, OutputInvalid, ProviderFailure, ProviderUnavailable
from services.inference.domain.output_format import Violation, conform
from services.inference.domain.prompt import Prompt
from services.inference.usecases.batch_ports import (
    BatchHolds,
    BatchProgress,
    BatchProvider,
    BatchResult,
    BatchStore,
    BatchTokens,
    LeasedBatch,
)
from services.meshkit.calls.ports import LawGate
from services.meshkit.content import MAX_ARGUMENT_LEVELS, CallContext, CallId, Part, Usage, nests_deeper, text_part
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, Internal, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

AFTER_SETTLE: Final = "inference.batch_after_settle"
AFTER_RECORD: Final = "inference.batch_after_record"
register(AFTER_SETTLE, AFTER_RECORD)

#: Items that are settled, judged and recorded together.
_AT_ONCE: Final = 50
#: What a repeat of the step does not change: the item ends with it instead of holding up the others.
_FOR_GOOD: Final = frozenset({ErrorKind.PRECONDITION, ErrorKind.INVALID, ErrorKind.NOT_FOUND})
#: Why an item has no outcome that the provider knows of.
_MISSING: Final = "RESULT_MISSING"
_EXPIRED: Final = "BATCH_EXPIRED"
_CANCELLED: Final = "BATCH_CANCELLED"


class CollectBatch:
    """Brings every item of a batch that has ended to its end."""

    def __init__(
        self,
        *,
        store: BatchStore,
        tokens: BatchTokens,
        law: LawGate,
        holds: BatchHolds,
        read: Callable[[bytes], Prompt],
        clock: Clock,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._law = law
        self._holds = holds
        self._read = read
        self._clock = clock
        self._model_label = metrics.BoundedLabel()
        self._payee_label = metrics.BoundedLabel()

    async def __call__(
        self, leased: LeasedBatch, version: DeploymentVersion, batcher: BatchProvider, progress: BatchProgress
    ) -> LeasedBatch:
        """Takes all results in, those that were taken in before excepted.

        Raises: LeaseLost; MeshError: something is away, and the rest is to be taken in later.
        """
        job = leased.job
        sent = {one.hold_id: one for one in await self._store.items(job) if one.hold_id}
        told, group = set[str](), list[tuple[BatchItem, BatchResult]]()
        try:
            async with aclosing(batcher.results(version, job.provider_id)) as results:
                async for result in results:
                    item = sent.get(result.name)
                    if item is None or result.name in told:
                        continue
                    told.add(result.name)
                    if item.state is ItemState.SENT:
                        group.append((item, result))
                    if len(group) == _AT_ONCE:
                        await self._take(leased, version, group)
                        group.clear()
        except ProviderFailure:
            # What was read is paid for and shown, whatever becomes of the rest.
            await self._take(leased, version, group)
            raise
        await self._take(leased, version, group)
        rest = [one for name, one in sent.items() if name not in told and one.state is ItemState.SENT]
        ended = await self._untold(job, rest, progress, told=len(told))
        return await self._store.save(leased, job.finished(self._clock.now()), ended)

    async def _take(
        self, leased: LeasedBatch, version: DeploymentVersion, group: Sequence[tuple[BatchItem, BatchResult]]
    ) -> None:
        if not group:
            return
        principal = await self._tokens.principal(leased.job)
        requests = await self._store.requests(leased.job, [item.index for item, _ in group])

        async def end(item: BatchItem, result: BatchResult) -> BatchItem:
            return await self._ended(leased.job, principal, version, item, result, self._read(requests[item.index]))

        ended = await asyncio.gather(*(end(item, result) for item, result in group), return_exceptions=True)
        done = [one for one in ended if isinstance(one, BatchItem)]
        # What was settled and judged is recorded, whatever stands in the way of the others.
        await self._store.save(leased, leased.job, done)
        await failpoint(AFTER_RECORD)
        for one in ended:
            if isinstance(one, BaseException):
                raise one

    async def _ended(
        self,
        job: BatchJob,
        principal: Principal,
        version: DeploymentVersion,
        item: BatchItem,
        result: BatchResult,
        prompt: Prompt,
    ) -> BatchItem:
        """Gives an item as its result leaves it, once money and law have been asked."""
        try:
            if result.not_asked:
                return await self._given_back(principal, item, result.not_asked)
            if result.answer is None:
                charge = Charge.UNKNOWN if result.failure is None else result.failure.charge
                reason = _MISSING if result.failure is None else result.failure.reason
                return await self._failed(principal, version, item, charge, reason)
            return await self._answered(job, principal, version, item, result.answer, prompt)
        except MeshError as error:
            if error.kind not in _FOR_GOOD:
                raise
            log.warning("an item ends unpaid or unjudged", hold_id=item.hold_id, error=error.message)
            return replace(item, state=ItemState.UNKNOWN, reason=error.reason, outcome=None)

    async def _answered(
        self,
        job: BatchJob,
        principal: Principal,
        version: DeploymentVersion,
        item: BatchItem,
        answer: Whole,
        prompt: Prompt,
    ) -> BatchItem:
        finished = answer.finished
        charge = finished.usage or Charge.UNKNOWN
        kept = conform(answer.text, prompt.output_format)
        withheld = bool(finished.tool_calls) or finished.stop_reason in WITHHELD
        if isinstance(kept, Violation) and not withheld:
            return await self._failed(principal, version, item, charge, OutputInvalid.reason)
        text = answer.text if isinstance(kept, Violation) else kept.text
        if not _says_something(text, finished):
            return await self._failed(principal, version, item, charge, ProviderUnavailable.reason)
        charged = await self._settled(principal, version, item, finished.usage)
        unjudged = _unjudged(item, version, text, finished, prompt, charged)
        verdict = await self._law.evaluate(principal, unjudged.subject(context_of(job, item)))
        outcome = unjudged.under(verdict)
        blocked = isinstance(outcome, Blocked)
        return replace(
            item,
            state=ItemState.FAILED if blocked else ItemState.ANSWERED,
            reason=LawBlocked.reason if blocked else "",
            charged=charged,
            outcome=outcome,
        )

    async def _settled(
        self, principal: Principal, version: DeploymentVersion, item: BatchItem, usage: Usage | None
    ) -> int | None:
        """Charges what was used. None: nobody said; the hold expires into `assumed`."""
        if usage is None:
            return None
        charged = await self._holds.settle(principal, item.hold_id, usage)
        payee, model = self._payee_label(version.payee), self._model_label(version.model)
        for name in USAGE_CLASSES:
            tokens: int = getattr(usage, name)
            if tokens:
                metrics.TOKENS_CONSUMED.labels(payee, model, name).inc(tokens)
        await failpoint(AFTER_SETTLE)
        return charged

    async def _failed(
        self, principal: Principal, version: DeploymentVersion, item: BatchItem, charge: Charge | Usage, reason: str
    ) -> BatchItem:
        if charge is Charge.UNKNOWN:
            return replace(item, state=ItemState.UNKNOWN, reason=reason, outcome=None)
        if isinstance(charge, Usage):
            charged = await self._settled(principal, version, item, charge)
            return replace(item, state=ItemState.FAILED, reason=reason, outcome=None, charged=charged)
        return await self._given_back(principal, item, reason)

    async def _given_back(self, principal: Principal, item: BatchItem, reason: str) -> BatchItem:
        """Frees the money of an item that no model was asked, or that its provider does not bill."""
        await self._holds.release(principal, item.hold_id, dispatched_unbilled=True)
        state = ItemState.CANCELLED if reason == _CANCELLED else ItemState.FAILED
        return replace(item, state=state, reason=reason, outcome=None, charged=0)

    async def _untold(
        self, job: BatchJob, rest: Sequence[BatchItem], progress: BatchProgress, *, told: int
    ) -> list[BatchItem]:
        """Ends items of which the results say nothing: free if no model was asked for certain, else unknown."""
        if not rest:
            return []
        if not progress.refused and progress.told != told:
            return [replace(one, state=ItemState.UNKNOWN, reason=_MISSING, outcome=None) for one in rest]
        principal = await self._tokens.principal(job)
        reason = _CANCELLED if job.cancel_requested else _EXPIRED
        return [
            await self._given_back(principal, one, "PROVIDER_REFUSED" if progress.refused else reason) for one in rest
        ]


def context_of(job: BatchJob, item: BatchItem) -> CallContext:
    """Gives the call that an item is, as law and money know it."""
    return CallContext(call_id=CallId(run_id=job.name, path=f"items/{item.item_id}"), project=job.project)


def _says_something(text: str, finished: Finished) -> bool:
    if any(nests_deeper(call.arguments, MAX_ARGUMENT_LEVELS) for call in finished.tool_calls):
        return False
    return bool(text.strip() or finished.tool_calls or finished.stop_reason in WITHHELD)


def _unjudged(
    item: BatchItem,
    version: DeploymentVersion,
    text: str,
    finished: Finished,
    prompt: Prompt,
    charged: int | None,
) -> Unjudged:
    """Puts what the provider said to what its answer began as."""
    begun = item.outcome
    if not isinstance(begun, Unjudged):
        raise Internal("an item of a batch was sent without a verdict", hold_id=item.hold_id)
    label = prompt.label(model=version.model)
    texts = (text_part(text, label),) if text else ()
    note = AttemptNote(
        deployment=version.name,
        version=version.version,
        hold_id=item.hold_id,
        reason="",
        usage_known=finished.usage is not None,
        provider_us=0,
    )
    draft = replace(
        begun.draft,
        parts=(*texts, *(Part(call, label) for call in finished.tool_calls)),
        stop_reason=finished.stop_reason,
        usage=finished.usage or Usage(),
        usage_known=finished.usage is not None,
        model=finished.model or version.model,
        cost_nano_usd=charged or 0,
        attempts=(note,),
    )
    return replace(begun, draft=draft)
