"""Carries one batch on by a step: law and money, then the submission, then whatever the provider says of it.

Each step may be broken off anywhere. What is written before it says what whoever goes on may do: money is held under
names that follow from the batch; holds are written before anything leaves; and a batch that is SUBMITTING is looked
for, never sent again. Source: docs/decisions/0019-provider-batches.md
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from services.inference.domain.batch_job import BatchItem, BatchJob, BatchState, ItemState, ends
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import (
    Charge,
    ModelNotFound,
    NoModelConfigured,
    PatientWorkUnsupported,
    ProviderFailure,
)
from services.inference.domain.prompt import Prompt
from services.inference.usecases.batch_ports import (
    BatchCall,
    BatchHolds,
    BatchPrices,
    BatchProvider,
    BatchStore,
    BatchTokens,
    HearsOfModels,
    HearsOfTenants,
    LeasedBatch,
    OpenBatches,
)
from services.inference.usecases.collect_batch import CollectBatch
from services.inference.usecases.hold_batch import OF_THE_ITEM, HoldBatch, NamesTaken
from services.inference.usecases.ports import Registry
from services.meshkit.calls.ports import LawGate
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import rules_of
from services.meshkit.guard.errors import GuardUnknown
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

AFTER_HOLD: Final = "inference.batch_after_hold"
AFTER_HELD: Final = "inference.batch_after_held"
BEFORE_SUBMIT: Final = "inference.batch_before_submit"
AFTER_SUBMIT: Final = "inference.batch_after_submit"
AFTER_RUNNING: Final = "inference.batch_after_running"
register(AFTER_HOLD, AFTER_HELD, BEFORE_SUBMIT, AFTER_SUBMIT, AFTER_RUNNING)

_FIRST_PAUSE_SECONDS: Final = 15.0
_MOST_PAUSE_SECONDS: Final = 900.0


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
        news: HearsOfModels,
        tenants: HearsOfTenants,
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
        self._news = news
        self._tenants = tenants
        self._open_batches = open_batches
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._hold = HoldBatch(store=store, law=law, holds=holds, prices=prices, read=read)
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
        if job.state is BatchState.HELD:
            return await self._give_back(leased), None
        try:
            version, batcher = self._asked_of(job)
        except MeshError as error:
            return await self._without_model(leased, error), None
        work = _Work(leased=leased, version=version, batcher=batcher)
        match job.state:
            case BatchState.ACCEPTED:
                return await self._send(work)
            case BatchState.SUBMITTING:
                return await self._search(work), None
            case _:
                return await self._look(work), None

    def _asked_of(self, job: BatchJob) -> tuple[DeploymentVersion, BatchProvider]:
        """Finds who is asked: the version that was accepted, and while nothing has left only where it may go now.

        Raises: ModelNotFound, ModelNotReady, NoModelConfigured, PatientWorkUnsupported, AdapterUnusable: nobody is, any
            more. GuardUnknown: nobody can say where it may go.
        """
        leaves = job.state is BatchState.ACCEPTED
        found = self._registry.resolve(job.tenant, job.full_name, checking=not leaves).versions
        # Another deployment may have taken the name of one that was retired.
        version = next((one for one in found if job.asks(one)), None)
        if version is None:
            raise ModelNotFound(job.full_name)
        if leaves:
            self._check_place(job.tenant, version)
        batcher = self._open_batches.batcher(version)
        if batcher is None:
            raise PatientWorkUnsupported(version.name, "model", "does no batches any more")
        return version, batcher

    def _check_place(self, tenant: TenantId, version: DeploymentVersion) -> None:
        """Raises: NoModelConfigured: content must stay elsewhere. GuardUnknown: nobody can say where."""
        tenants = self._tenants
        if not tenants.knows or (tenants.is_cut and tenants.tenant(tenant) is None):
            raise GuardUnknown
        region = rules_of(tenants, tenant).residency_region
        if not version.keeps_in(region):
            raise NoModelConfigured(region=region)

    # --- law and money -----------------------------------------------------------------------------------------------

    async def _send(self, work: _Work) -> tuple[LeasedBatch, timedelta | None]:
        job = work.job
        items = await self._store.items(job)
        principal = await self._tokens.principal(job)
        try:
            cleared, failed = await self._hold.cleared(job, work.version, principal, items)
        except NamesTaken:
            return await self._store.save(work.leased, replace(job, tries=job.tries + 1), ()), timedelta()
        await failpoint(AFTER_HOLD)
        if not cleared:
            return await self._finished(work.leased, failed), None
        held = job.to(BatchState.HELD, self._clock.now())
        leased = await self._store.save(work.leased, held, [*failed, *(one.item for one in cleared)])
        await failpoint(AFTER_HELD)
        calls, refused = await self._hold.dispatched(work.version, principal, cleared)
        if not calls:
            return await self._finished(leased, refused), None
        sent = [replace(one.item, state=ItemState.SENT) for one in cleared if one.item.hold_id in calls]
        leased = await self._store.save(leased, held.to(BatchState.SUBMITTING, self._clock.now()), [*refused, *sent])
        return await finish(self._submit(replace(work, leased=leased), list(calls.values())))

    async def _give_back(self, leased: LeasedBatch) -> LeasedBatch:
        """Frees what is held for a batch that has certainly not left; it is to be held anew."""
        job = leased.job
        freed = await self._hold.given_back(await self._tokens.principal(job), await self._store.items(job))
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
        try:
            provider_id = await work.batcher.find(work.version, job.name, names, job.submitted or job.created)
        except ProviderFailure as failure:
            # Whoever could not look does not know that it is not there: that takes as long as where nobody can see.
            if not job.given_up(self._clock.now(), blind=True):
                raise
            return await self._lost(work.leased, failure.reason)
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
            leased = await self._told_to_stop(work)
        try:
            progress = await work.batcher.look(work.version, job.provider_id)
            if progress.ended:
                return await self._collect(leased, work.version, work.batcher, progress)
        except ProviderFailure as failure:
            if leased.job.given_up(self._clock.now(), blind=False):
                return await self._lost(leased, failure.reason)
            raise
        if leased.job.given_up(self._clock.now(), blind=False):
            return await self._lost(leased, "BATCH_NOT_ENDED")
        return leased

    async def _told_to_stop(self, work: _Work) -> LeasedBatch:
        """Passes on that a batch is to stop; one that cannot be told is told at the next look, and looked at now."""
        try:
            await work.batcher.cancel(work.version, work.job.provider_id)
        except ProviderFailure as failure:
            log.warning("a batch cannot be stopped right now", batch_id=work.job.name, reason=failure.reason)
            return work.leased
        return await self._store.save(work.leased, work.job.to(BatchState.CANCELLING, self._clock.now()), ())

    # --- ends --------------------------------------------------------------------------------------------------------

    async def _finished(self, leased: LeasedBatch, items: Sequence[BatchItem], *, reason: str = "") -> LeasedBatch:
        return await self._store.save(leased, leased.job.finished(self._clock.now(), reason=reason), items)

    async def _lost(self, leased: LeasedBatch, reason: str) -> LeasedBatch:
        """Gives a batch up: what was held for it is charged as assumed once the holds expire, and shown so."""
        items = ends(await self._store.items(leased.job), ItemState.UNKNOWN, reason)
        log.warning("a batch is lost", batch_id=leased.job.name, reason=reason, items=len(items))
        return await self._store.save(leased, leased.job.to(BatchState.LOST, self._clock.now(), reason=reason), items)

    async def _without_model(self, leased: LeasedBatch, error: MeshError) -> LeasedBatch:
        """Ends a batch whose model is gone, unless it has left: that one may come back, and its answers with it.

        Raises: MeshError: it waits for its model.
        """
        job = leased.job
        if not self._news.heard:
            # What this replica has not heard of may be there all the same.
            raise error
        if job.state is BatchState.ACCEPTED and error.kind in OF_THE_ITEM:
            items = ends(await self._store.items(job), ItemState.FAILED, error.reason)
            return await self._finished(leased, items, reason=error.reason)
        if not job.given_up(self._clock.now(), blind=True):
            raise error
        return await self._lost(leased, error.reason)

    async def _without_caller(self, leased: LeasedBatch, reason: str) -> LeasedBatch:
        """Ends a batch whose caller may work no longer: nothing more leaves, and nobody may be shown what comes."""
        job = leased.job
        if job.state in (BatchState.ACCEPTED, BatchState.HELD):
            # What is held for it has not left, and is free once it expires.
            items = ends(await self._store.items(job), ItemState.FAILED, reason)
            return await self._finished(leased, items, reason=reason)
        try:
            version, batcher = self._asked_of(job)
        except MeshError as error:
            # If nobody is left who could be told to stop, nobody is.
            gone = self._news.heard and error.kind in OF_THE_ITEM
            if not gone and not job.given_up(self._clock.now(), blind=True):
                raise
            return await self._lost(leased, reason)
        if job.state is BatchState.SUBMITTING:
            # It may be there, and is to stop there: it is looked for as long as any other.
            leased = await self._search(_Work(leased=leased, version=version, batcher=batcher))
            if leased.job.state is not BatchState.RUNNING:
                return leased
        try:
            await batcher.cancel(version, leased.job.provider_id)
        except ProviderFailure as failure:
            if not leased.job.given_up(self._clock.now(), blind=False):
                raise
            log.warning("a batch was not stopped", batch_id=job.name, reason=failure.reason)
        return await self._lost(leased, reason)
