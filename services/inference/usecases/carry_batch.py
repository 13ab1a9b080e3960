"""Carries one batch on by a step: law and money, then the submission, then whatever the provider says of it.

Each step may be broken off anywhere. What is written before it says what whoever goes on may do: money is held under
names that follow from the batch; holds are written before anything leaves; and a batch that is SUBMITTING is looked
for, never sent again. Source: docs/decisions/0019-provider-batches.md
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

from services.inference.domain.answer import Answer, StopReason
from services.inference.domain.batch_job import BatchItem, BatchJob, BatchState, ItemState, ends
from services.inference.domain.call import Unjudged
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import Charge, ModelNotFound, PatientWorkUnsupported, ProviderFailure
from services.inference.domain.law import raise_if_blocked
from services.inference.domain.prompt import Prompt
from services.inference.usecases.asked import Asked
from services.inference.usecases.attempt import judged_before
from services.inference.usecases.batch_ports import (
    BatchCall,
    BatchHolds,
    BatchPrices,
    BatchProvider,
    BatchStore,
    BatchTokens,
    LeasedBatch,
    OpenBatches,
)
from services.inference.usecases.collect_batch import CollectBatch, context_of
from services.inference.usecases.ports import ProviderCall, Registry
from services.meshkit.calls.ports import Clearance, DispatchedHold, LawGate
from services.meshkit.content import Usage
from services.meshkit.content.law import Stage, Verdict
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError, RequestIdReused
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry.logs import logger

log = logger(__name__)
Given = TypeVar("Given")
Made = TypeVar("Made")

AFTER_HOLD: Final = "inference.batch_after_hold"
AFTER_HELD: Final = "inference.batch_after_held"
BEFORE_SUBMIT: Final = "inference.batch_before_submit"
AFTER_SUBMIT: Final = "inference.batch_after_submit"
AFTER_RUNNING: Final = "inference.batch_after_running"
register(AFTER_HOLD, AFTER_HELD, BEFORE_SUBMIT, AFTER_SUBMIT, AFTER_RUNNING)

#: Life of a hold for what has not left: a batch that nobody carries on keeps money from others no longer.
_RESERVED: Final = timedelta(hours=1)
#: Life of a hold for what has left, from when it was made: the longest that cost takes. Later usage corrects `assumed`.
_DISPATCHED: Final = timedelta(hours=24)
#: Items that law and money are asked about at once.
_AT_ONCE: Final = 100
#: What the name of a model ends with in price lists that know its price in batches.
BATCH_PRICE: Final = ":batch"
#: What is wrong with an item itself, whenever it is tried.
_OF_THE_ITEM: Final = frozenset({ErrorKind.PRECONDITION, ErrorKind.INVALID, ErrorKind.NOT_FOUND, ErrorKind.DENIED})
_FIRST_PAUSE_SECONDS: Final = 15.0
_MOST_PAUSE_SECONDS: Final = 900.0


class _NamesTaken(Exception):  # caught within this file
    """Money is held under the names of this try for something else, or was: the next try has names of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cleared:
    """An item that law has passed and money is held for."""

    item: BatchItem
    prompt: Prompt
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a step works with."""

    leased: LeasedBatch
    version: DeploymentVersion
    batcher: BatchProvider

    @property
    def job(self) -> BatchJob:
        return self.leased.job


class CarryBatch:
    """Takes one step with a batch that is leased; says how long to wait before the next one.

    Args:
        read: reads what was asked back from its bytes.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        open_batches: OpenBatches,
        store: BatchStore,
        tokens: BatchTokens,
        law: LawGate,
        holds: BatchHolds,
        prices: BatchPrices,
        read: Callable[[bytes], Prompt],
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._open_batches = open_batches
        self._store = store
        self._tokens = tokens
        self._law = law
        self._holds = holds
        self._prices = prices
        self._read = read
        self._clock = clock
        self._collect = CollectBatch(store=store, tokens=tokens, law=law, holds=holds, read=read, clock=clock)

    async def __call__(self, leased: LeasedBatch) -> tuple[LeasedBatch, timedelta | None]:
        """Takes the step.

        Returns: the batch as it is now, and how long to wait; None: as long as usual.
        Raises: LeaseLost; MeshError: something is away, and the step is to be taken again later.
        """
        job = leased.job
        if job.cancel_requested and job.state is BatchState.ACCEPTED:
            items = ends(await self._store.items(job), ItemState.CANCELLED)
            return await self._finished(leased, items), None
        try:
            await self._tokens.principal(job)
        except MeshError as error:
            if error.kind is not ErrorKind.UNAUTHENTICATED:
                raise
            return await self._without_caller(leased, error.reason), None
        version, batcher = self._asked_of(job)
        work = _Work(leased=leased, version=version, batcher=batcher)
        match job.state:
            case BatchState.ACCEPTED:
                return await self._send(work)
            case BatchState.HELD:
                return await self._give_back(leased), None
            case BatchState.SUBMITTING:
                return await self._search(work), None
            case _:
                return await self._look(work), None

    def _asked_of(self, job: BatchJob) -> tuple[DeploymentVersion, BatchProvider]:
        """Finds who is asked; one that is gone for good keeps the batch waiting until it is given up."""
        found = self._registry.resolve(job.tenant, job.full_name, checking=True).versions
        version = next((one for one in found if (one.name, one.version) == (job.deployment, job.version)), None)
        if version is None:
            raise ModelNotFound(job.full_name)
        batcher = self._open_batches.batcher(version)
        if batcher is None:
            raise PatientWorkUnsupported(version.name, "model", "does no batches any more")
        return version, batcher

    # --- law and money -----------------------------------------------------------------------------------------------

    async def _send(self, work: _Work) -> tuple[LeasedBatch, timedelta | None]:
        job = work.job
        items = await self._store.items(job)
        principal = await self._tokens.principal(job)
        try:
            cleared, failed = await self._cleared(work, principal, items)
        except _NamesTaken:
            return await self._store.save(work.leased, replace(job, tries=job.tries + 1), ()), timedelta()
        await failpoint(AFTER_HOLD)
        if not cleared:
            return await self._finished(work.leased, failed), None
        held = job.to(BatchState.HELD, self._clock.now())
        leased = await self._store.save(work.leased, held, [*failed, *(one.item for one in cleared)])
        await failpoint(AFTER_HELD)
        calls, refused = await self._dispatched(replace(work, leased=leased), principal, cleared)
        if not calls:
            return await self._finished(leased, refused), None
        sent = [replace(one.item, state=ItemState.SENT) for one in cleared if one.item.hold_id in calls]
        leased = await self._store.save(leased, held.to(BatchState.SUBMITTING, self._clock.now()), [*refused, *sent])
        return await finish(self._submit(replace(work, leased=leased), list(calls.values())))

    async def _cleared(
        self, work: _Work, principal: Principal, items: Sequence[BatchItem]
    ) -> tuple[list[_Cleared], list[BatchItem]]:
        """Asks law and money about each item. Gives those that may leave, and those that may not, with the reason."""
        waiting = [item for item in items if item.state is ItemState.WAITING]
        priced_as = await self._priced_as(principal, work.version)
        requests = await self._store.requests(work.job, [item.index for item in waiting])

        async def clear(item: BatchItem) -> _Cleared | BatchItem:
            prompt = self._read(requests[item.index])
            try:
                return await self._clear(work, principal, item, prompt, priced_as)
            except MeshError as error:
                if error.kind in _OF_THE_ITEM or error.reason.startswith("BUDGET_"):
                    return replace(item, state=ItemState.FAILED, reason=error.reason)
                if error.reason == RequestIdReused.reason:
                    raise _NamesTaken from error
                raise

        made = await _in_groups(waiting, clear)
        return (
            [one for one in made if isinstance(one, _Cleared)],
            [one for one in made if isinstance(one, BatchItem)],
        )

    async def _clear(
        self, work: _Work, principal: Principal, item: BatchItem, prompt: Prompt, priced_as: str
    ) -> _Cleared:
        job, version, context = work.job, work.version, context_of(work.job, item)
        asked = Asked(
            principal=principal, context=context, model=version.name, prompt=prompt, repeatable=True, deadline=0.0
        )
        verdict = await judged_before(asked, version, law=self._law)
        raise_if_blocked(verdict, Stage.BEFORE)
        prompt = prompt.as_law_left(verdict.parts)
        hold = await self._holds.reserve(
            principal,
            context,
            job.to_reserve(item.index),
            provider=job.payee,
            model=priced_as,
            bound=asked.bound(version, prompt),
            ttl=_RESERVED,
        )
        if not hold.open:
            raise _NamesTaken
        held = replace(item, hold_id=hold.id, outcome=_begun(version, hold.id, verdict))
        return _Cleared(item=held, prompt=prompt, verdict=verdict)

    async def _priced_as(self, principal: Principal, version: DeploymentVersion) -> str:
        """Gives the name under which the price list knows the model in batches, else its own."""
        patient = f"{version.model}{BATCH_PRICE}"
        return patient if await self._prices.has_own(principal, version.payee, patient) else version.model

    async def _dispatched(
        self, work: _Work, principal: Principal, cleared: Sequence[_Cleared]
    ) -> tuple[Mapping[str, BatchCall], list[BatchItem]]:
        """Marks what is held as leaving now; gives the calls by hold, and items that money does not hold so long."""
        refused: list[BatchItem] = []

        async def dispatch(one: _Cleared) -> BatchCall | None:
            try:
                hold = await self._holds.dispatch_reserved(principal, one.item.hold_id, life=_DISPATCHED)
            except MeshError as error:
                if error.kind not in _OF_THE_ITEM and not error.reason.startswith("BUDGET_"):
                    raise
                await self._holds.release(principal, one.item.hold_id, dispatched_unbilled=True)
                refused.append(replace(one.item, state=ItemState.FAILED, reason=error.reason, outcome=None))
                return None
            return _call(work.version, one, hold)

        calls = await _in_groups(cleared, dispatch)
        return {call.name: call for call in calls if call is not None}, refused

    async def _give_back(self, leased: LeasedBatch) -> LeasedBatch:
        """Frees what is held for a batch that has certainly not left; it is to be held anew."""
        job = leased.job
        items, principal = await self._store.items(job), await self._tokens.principal(job)
        held = [item for item in items if item.state in (ItemState.WAITING, ItemState.SENT) and item.hold_id]

        async def release(item: BatchItem) -> BatchItem:
            await self._holds.release(principal, item.hold_id, dispatched_unbilled=True)
            return replace(item, state=ItemState.WAITING, hold_id="", outcome=None)

        freed = await _in_groups(held, release)
        if job.cancel_requested:
            return await self._finished(leased, ends(freed, ItemState.CANCELLED))
        again = replace(job.to(BatchState.ACCEPTED, self._clock.now()), reason=job.reason)
        return await self._store.save(leased, again, freed)

    # --- the provider ------------------------------------------------------------------------------------------------

    async def _submit(self, work: _Work, calls: Sequence[BatchCall]) -> tuple[LeasedBatch, timedelta | None]:
        """Hands the batch over, once. Not to be interrupted: what is heard of it is to be written."""
        job = work.job
        await failpoint(BEFORE_SUBMIT)
        try:
            provider_id = await work.batcher.submit(job.name, calls)
        except ProviderFailure as failure:
            log.warning("a batch was not taken", batch_id=job.name, reason=failure.reason, error=failure.message)
            return await self._not_taken(work, failure)
        await failpoint(AFTER_SUBMIT)
        running = job.to(BatchState.RUNNING, self._clock.now(), provider_id=provider_id)
        leased = await self._store.save(work.leased, running, ())
        await failpoint(AFTER_RUNNING)
        return leased, None

    async def _not_taken(self, work: _Work, failure: ProviderFailure) -> tuple[LeasedBatch, timedelta | None]:
        job, now = work.job, self._clock.now()
        if failure.charge is not Charge.NOTHING:
            # It may be there all the same: it is looked for, and never sent again.
            return await self._store.save(work.leased, replace(job, reason=failure.reason), ()), None
        leased = await self._store.save(work.leased, job.to(BatchState.HELD, now, reason=failure.reason), ())
        leased = await self._give_back(leased)
        if failure.kind is ErrorKind.PRECONDITION and leased.job.state is BatchState.ACCEPTED:
            items = ends(await self._store.items(leased.job), ItemState.FAILED, failure.reason)
            return await self._finished(leased, items, reason=failure.reason), None
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(job.tries, 10), _MOST_PAUSE_SECONDS)
        return leased, max(failure.retry_after or timedelta(), timedelta(seconds=pause))

    async def _search(self, work: _Work) -> LeasedBatch:
        """Looks for a batch that may have left, and of which nobody heard that it has."""
        job = work.job
        items = await self._store.items(job)
        names = frozenset(item.hold_id for item in items if item.state is ItemState.SENT)
        provider_id = await work.batcher.find(work.version, job.name, names, job.submitted or job.created)
        now = self._clock.now()
        if provider_id:
            return await self._store.save(work.leased, job.to(BatchState.RUNNING, now, provider_id=provider_id), ())
        if not job.given_up(now, blind=work.batcher.blind):
            return work.leased
        return await self._lost(work.leased, "BATCH_NOT_FOUND")

    async def _look(self, work: _Work) -> LeasedBatch:
        """Asks how far the provider is, passes on that it is to stop, and takes in what came of it."""
        leased, job = work.leased, work.job
        if job.cancel_requested and job.state is BatchState.RUNNING:
            await work.batcher.cancel(work.version, job.provider_id)
            leased = await self._store.save(leased, job.to(BatchState.CANCELLING, self._clock.now()), ())
        try:
            progress = await work.batcher.look(work.version, job.provider_id)
        except ProviderFailure:
            if leased.job.given_up(self._clock.now(), blind=False):
                return await self._lost(leased, "BATCH_NOT_FOUND")
            raise
        if progress.ended:
            return await self._collect(leased, work.version, work.batcher, progress)
        if leased.job.given_up(self._clock.now(), blind=False):
            return await self._lost(leased, "BATCH_NOT_ENDED")
        return leased

    # --- ends --------------------------------------------------------------------------------------------------------

    async def _finished(self, leased: LeasedBatch, items: Sequence[BatchItem], *, reason: str = "") -> LeasedBatch:
        return await self._store.save(leased, leased.job.finished(self._clock.now(), reason=reason), items)

    async def _lost(self, leased: LeasedBatch, reason: str) -> LeasedBatch:
        """Gives a batch up: what was held for it is charged as assumed once the holds expire, and shown so."""
        items = ends(await self._store.items(leased.job), ItemState.UNKNOWN, reason)
        log.warning("a batch is lost", batch_id=leased.job.name, reason=reason, items=len(items))
        return await self._store.save(leased, leased.job.to(BatchState.LOST, self._clock.now(), reason=reason), items)

    async def _without_caller(self, leased: LeasedBatch, reason: str) -> LeasedBatch:
        """Ends a batch whose caller may work no longer: nothing more leaves, and nobody may be shown what comes."""
        job = leased.job
        items = await self._store.items(job)
        if job.state in (BatchState.ACCEPTED, BatchState.HELD):
            # What is held for it has not left, and is free once it expires.
            return await self._finished(leased, ends(items, ItemState.FAILED, reason), reason=reason)
        if job.provider_id:
            version, batcher = self._asked_of(job)
            await batcher.cancel(version, job.provider_id)
        return await self._lost(leased, reason)


def _begun(version: DeploymentVersion, hold_id: str, before: Verdict) -> Unjudged:
    """Gives what the answer begins as: everything but what the provider will say."""
    draft = Answer(
        parts=(),
        stop_reason=StopReason.STOP,
        usage=Usage(),
        usage_known=False,
        provider=version.payee,
        model=version.model,
        hold_id=hold_id,
        cost_nano_usd=0,
        verdict_ids=(before.id,),
        bundle_digest=before.bundle_digest,
        rules=before.rules,
        provider_us=0,
        deployment=version.name,
        deployment_version=version.version,
    )
    return Unjudged(draft=draft, target=version.model)


def _call(version: DeploymentVersion, one: _Cleared, hold: DispatchedHold) -> BatchCall:
    clearance = Clearance(hold=hold, verdict_id=one.verdict.id)
    return BatchCall(
        call=ProviderCall(
            deployment=version, prompt=one.prompt, clearance=clearance, seconds=_DISPATCHED.total_seconds()
        )
    )


async def _in_groups(items: Sequence[Given], work: Callable[[Given], Awaitable[Made]]) -> list[Made]:
    """Does something to many, some at a time, and waits for all of a group, also where one fails."""
    made: list[Made] = []
    for first in range(0, len(items), _AT_ONCE):
        group = await asyncio.gather(*(work(item) for item in items[first : first + _AT_ONCE]), return_exceptions=True)
        for one in group:
            if isinstance(one, BaseException):
                raise one
            made.append(one)
    return made
