"""Batches in Postgres. A `BatchStore`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from itertools import accumulate, takewhile
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, Select, case, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.batch_job import (
    BATCH_PREFIX,
    FINAL,
    MOST_OPEN_BATCHES,
    BatchItem,
    BatchJob,
    BatchState,
    ItemState,
)
from services.inference.domain.errors import BatchNotFound, TooManyBatches
from services.inference.storage.batch_tables import model_batch, model_batch_item
from services.inference.storage.outcome_codec import decode_outcome, encode_outcome
from services.inference.usecases.batch_ports import BatchView, LeasedBatch, LeaseLost
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Most sealed bytes of a page of results; one that is longer is a page of its own.
_PAGE_BYTES: Final = 2 * 1024 * 1024
_AT_ONCE: Final = 100

_TAKE: Final = text("""
    UPDATE model_batch AS b
    SET lease_until = clock_timestamp() + CAST(:lease AS interval), lease_epoch = lease_epoch + 1
    FROM (
        SELECT one.tenant_id, one.batch_id
        FROM model_batch AS one JOIN (
            SELECT tenant_id, batch_id, row_number() OVER (PARTITION BY tenant_id ORDER BY look_time) + (
                SELECT count(*) FROM model_batch AS held
                WHERE held.tenant_id = waiting.tenant_id AND held.ended_time IS NULL
                    AND held.lease_until > clock_timestamp()) AS place
            FROM model_batch AS waiting
            WHERE ended_time IS NULL AND look_time <= clock_timestamp()
                AND (lease_until IS NULL OR lease_until <= clock_timestamp())
        ) AS placed ON placed.tenant_id = one.tenant_id AND placed.batch_id = one.batch_id
        WHERE placed.place <= :of_one_tenant AND one.ended_time IS NULL AND one.look_time <= clock_timestamp()
            AND (one.lease_until IS NULL OR one.lease_until <= clock_timestamp())
        ORDER BY one.look_time LIMIT :most FOR UPDATE OF one SKIP LOCKED
    ) AS due
    WHERE b.tenant_id = due.tenant_id AND b.batch_id = due.batch_id
    RETURNING b.*""")
_FORGET_ITEMS: Final = text("""
    DELETE FROM model_batch_item AS i USING model_batch AS b
    WHERE b.tenant_id = i.tenant_id AND b.batch_id = i.batch_id AND (b.tenant_id, b.batch_id) IN (
        SELECT tenant_id, batch_id FROM model_batch
        WHERE ended_time < clock_timestamp() - CAST(:older AS interval) ORDER BY ended_time LIMIT :most)""")
_FORGET: Final = text("""
    DELETE FROM model_batch WHERE (tenant_id, batch_id) IN (
        SELECT tenant_id, batch_id FROM model_batch
        WHERE ended_time < clock_timestamp() - CAST(:older AS interval) ORDER BY ended_time LIMIT :most)""")


class BatchRepository:
    """Stores batches; requests see their tenant's, and leases are taken over all of them.

    Args:
        app: engine of the role `app`.
        maintenance: engine of the role `maintenance`.
    """

    def __init__(self, app: AsyncEngine, maintenance: AsyncEngine, *, keys: KeyRing) -> None:
        self._app = app
        self._maintenance = maintenance
        self._keys = keys

    async def check_addable(self, tenant: TenantId) -> None:
        """See `BatchStore.check_addable`."""
        async with tenant_scope(self._app, tenant) as scope:
            await claim_once(scope)
            await _check_room(scope, tenant)

    async def add(self, job: BatchJob, items: Sequence[tuple[str, bytes]]) -> BatchView:
        """See `BatchStore.add`."""
        rows = [
            {
                "tenant_id": job.tenant,
                "batch_id": job.id,
                "place": place,
                "item_id": item_id,
                "request": await self._keys.seal(job.tenant, request, aad=_place(job, place, "request")),
                "state": ItemState.WAITING.value,
            }
            for place, (item_id, request) in enumerate(items)
        ]
        view = BatchView(job=job, counts={ItemState.WAITING: len(items)})
        async with tenant_scope(self._app, job.tenant) as scope:
            await claim_once(scope)
            # Batches of one tenant are counted one after the other, on all replicas: each sees those before it.
            await scope.execute(select(func.pg_advisory_xact_lock(_lock_of(job.tenant))))
            await _check_room(scope, job.tenant)
            values = {"tenant_id": job.tenant, "batch_id": job.id, "item_count": job.item_count, **_values(job)}
            await scope.execute(
                insert(model_batch).values(**values, **_settled_at_birth(job), look_time=func.clock_timestamp())
            )
            for first in range(0, len(rows), _AT_ONCE):
                await scope.execute(insert(model_batch_item), rows[first : first + _AT_ONCE])
            await keep_once(scope, view)
            await scope.commit()
        metrics.MODEL_BATCHES.labels(job.state.value).inc()
        return view

    async def view(self, tenant: TenantId, batch_id: str, *, bound_to: str | None) -> BatchView:
        """See `BatchReader.view`."""
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            job = await _job(scope, tenant, batch_id, bound_to)
            return await _counted(scope, job)

    async def views(
        self, tenant: TenantId, *, bound_to: str | None, before: UUID | None, most: int
    ) -> Sequence[BatchView]:
        """See `BatchReader.views`."""
        statement = _of(tenant, bound_to).order_by(model_batch.c.batch_id.desc()).limit(most)
        if before is not None:
            statement = statement.where(model_batch.c.batch_id < before)
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            jobs = [_shown_of(row) for row in await scope.execute(statement)]
            return [await _counted(scope, job) for job in jobs]

    async def results(
        self, tenant: TenantId, batch_id: str, *, bound_to: str | None, after: int, most: int
    ) -> tuple[Sequence[BatchItem], bool]:
        """See `BatchReader.results`."""
        columns = model_batch_item.c
        size = func.coalesce(func.octet_length(columns.outcome), 0)
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            job = await _job(scope, tenant, batch_id, bound_to)
            mine = columns.tenant_id == tenant, columns.batch_id == job.id, columns.place > after
            sizes = (
                (await scope.execute(select(size).where(*mine).order_by(columns.place).limit(most + 1))).scalars().all()
            )
            fit = sum(1 for _ in takewhile(lambda total: total <= _PAGE_BYTES, accumulate(sizes)))
            fit = min(max(1, fit), most)
            rows = (await scope.execute(_items_of(job).where(columns.place > after).limit(fit))).all()
        return [await self._shown_item(job, row) for row in rows], len(sizes) > fit

    async def request_cancel(self, tenant: TenantId, batch_id: str, *, bound_to: str | None) -> BatchView:
        """See `BatchStore.request_cancel`."""
        async with tenant_scope(self._app, tenant) as scope:
            await claim_once(scope)
            job = await _job(scope, tenant, batch_id, bound_to, lock=True)
            job.check_cancellable()
            await scope.execute(
                update(model_batch)
                .where(model_batch.c.tenant_id == tenant, model_batch.c.batch_id == job.id)
                .values(cancel_requested=True, look_time=func.clock_timestamp())
            )
            view = await _counted(scope, await _job(scope, tenant, batch_id, bound_to))
            await keep_once(scope, view)
            await scope.commit()
        return view

    async def take(self, *, most: int, of_one_tenant: int, lease: timedelta) -> Sequence[LeasedBatch]:
        """See `BatchStore.take`."""
        values = {"most": most, "of_one_tenant": of_one_tenant, "lease": lease}
        async with maintenance_scope(self._maintenance) as scope:
            rows = (await scope.execute(_TAKE, values)).all()
            await scope.commit()
        leased: list[LeasedBatch] = []
        for row in rows:
            try:
                leased.append(LeasedBatch(job=_job_of(row), epoch=row.lease_epoch))
            except ValueError:
                # Another release wrote it. Its lease keeps it from being taken again and again.
                log.exception("a batch cannot be read", batch_id=from_uuid(BATCH_PREFIX, row.batch_id))
        return leased

    async def renew(self, leased: LeasedBatch, *, lease: timedelta) -> None:
        """See `BatchStore.renew`."""
        await self._hold_on(leased, lease_until=func.clock_timestamp() + lease)

    async def hand_back(self, leased: LeasedBatch, *, look_in: timedelta) -> None:
        """See `BatchStore.hand_back`."""
        columns, later = model_batch.c, func.clock_timestamp() + look_in
        # One that somebody asked to stop meanwhile is looked at again at once.
        heard = leased.job.cancel_requested or ~columns.cancel_requested
        look = later if heard is True else case((heard, later), else_=func.clock_timestamp())
        statement = update(model_batch).where(*_held_by(leased)).values(lease_until=None, look_time=look)
        async with tenant_scope(self._app, leased.job.tenant, audited=False) as scope:
            await scope.execute(statement)
            await scope.commit()

    async def items(self, job: BatchJob) -> Sequence[BatchItem]:
        """See `BatchStore.items`."""
        async with tenant_scope(self._app, job.tenant, read_only=True) as scope:
            rows = (await scope.execute(_items_of(job))).all()
        return [await self._item(job, row) for row in rows]

    async def requests(self, job: BatchJob, places: Sequence[int]) -> Mapping[int, bytes]:
        """See `BatchStore.requests`."""
        columns = model_batch_item.c
        statement = select(columns.place, columns.request).where(
            columns.tenant_id == job.tenant,
            columns.batch_id == job.id,
            columns.place.in_(places),
            columns.request.is_not(None),
        )
        async with tenant_scope(self._app, job.tenant, read_only=True) as scope:
            rows = (await scope.execute(statement)).all()
        return {
            row.place: await self._keys.open(job.tenant, row.request, aad=_place(job, row.place, "request"))
            for row in rows
        }

    async def save(self, leased: LeasedBatch, job: BatchJob, items: Sequence[BatchItem]) -> LeasedBatch:
        """See `BatchStore.save`."""
        sealed = [
            None
            if one.outcome is None
            else await self._keys.seal(job.tenant, encode_outcome(one.outcome), aad=_place(job, one.index, "outcome"))
            for one in items
        ]
        columns = model_batch_item.c
        settled = Counter[ItemState]()
        async with tenant_scope(self._app, job.tenant, audited=False) as scope:
            done = await scope.execute(update(model_batch).where(*_held_by(leased)).values(**_values(job)))
            if not done.rowcount:
                raise LeaseLost
            for one, outcome in zip(items, sealed, strict=True):
                values: dict[str, Any] = {
                    "state": one.state.value,
                    "reason": one.reason,
                    "hold_id": one.hold_id,
                    "charged_nano_usd": one.charged,
                    "outcome": outcome,
                }
                if one.state in FINAL:
                    values["request"] = None
                written = await scope.execute(
                    update(model_batch_item)
                    .where(
                        columns.tenant_id == job.tenant,
                        columns.batch_id == job.id,
                        columns.place == one.index,
                        columns.state.not_in([state.value for state in FINAL]),
                    )
                    .values(**values)
                )
                settled[one.state] += written.rowcount
            await scope.commit()
        _count(leased.job, job, settled)
        return LeasedBatch(job=job, epoch=leased.epoch)

    async def forget(self, *, older: timedelta, most: int) -> int:
        """See `BatchStore.forget`."""
        values = {"older": older, "most": most}
        async with maintenance_scope(self._maintenance) as scope:
            await scope.execute(_FORGET_ITEMS, values)
            done = await scope.execute(_FORGET, values)
            await scope.commit()
        return done.rowcount

    async def _hold_on(self, leased: LeasedBatch, **values: Any) -> None:
        async with tenant_scope(self._app, leased.job.tenant, audited=False) as scope:
            done = await scope.execute(update(model_batch).where(*_held_by(leased)).values(**values))
            if not done.rowcount:
                raise LeaseLost
            await scope.commit()

    async def _shown_item(self, job: BatchJob, row: Row[Any]) -> BatchItem:
        """Reads an item to be shown, also one that another release wrote."""
        try:
            return await self._item(job, row)
        except (ValueError, TypeError, Internal):
            log.exception("an item of a batch cannot be read", batch_id=job.name, place=row.place)
            return BatchItem(index=row.place, item_id=row.item_id, state=ItemState.UNREADABLE, hold_id=row.hold_id)

    async def _item(self, job: BatchJob, row: Row[Any]) -> BatchItem:
        outcome = None
        if row.outcome is not None:
            opened = await self._keys.open(job.tenant, row.outcome, aad=_place(job, row.place, "outcome"))
            outcome = decode_outcome(opened)
        return BatchItem(
            index=row.place,
            item_id=row.item_id,
            state=ItemState(row.state),
            reason=row.reason,
            hold_id=row.hold_id,
            charged=row.charged_nano_usd,
            outcome=outcome,
        )


def _count(before: BatchJob, job: BatchJob, settled: Mapping[ItemState, int]) -> None:
    """Shows how far a batch has come, and which of its items have come to their end."""
    if job.state is not before.state:
        metrics.MODEL_BATCHES.labels(job.state.value).inc()
    for state in FINAL:
        if settled.get(state):
            metrics.MODEL_BATCH_ITEMS.labels(state.value).inc(settled[state])


def _held_by(leased: LeasedBatch) -> tuple[Any, ...]:
    """Finds the batch while whoever leased it holds it still: the next to take it has another epoch."""
    columns = model_batch.c
    return (
        columns.tenant_id == leased.job.tenant,
        columns.batch_id == leased.job.id,
        columns.lease_epoch == leased.epoch,
    )


# Any: as many columns as SQLAlchemy counts.
def _of(tenant: TenantId, bound_to: str | None) -> Select[*tuple[Any, ...]]:
    statement = select(model_batch).where(model_batch.c.tenant_id == tenant)
    return statement if bound_to is None else statement.where(model_batch.c.project == bound_to)


def _items_of(job: BatchJob) -> Select[*tuple[Any, ...]]:
    columns = model_batch_item.c
    return (
        select(
            columns.place,
            columns.item_id,
            columns.state,
            columns.reason,
            columns.hold_id,
            columns.charged_nano_usd,
            columns.outcome,
        )
        .where(columns.tenant_id == job.tenant, columns.batch_id == job.id)
        .order_by(columns.place)
    )


async def _job(scope: Scope, tenant: TenantId, batch_id: str, bound_to: str | None, *, lock: bool = False) -> BatchJob:
    about = to_uuid(batch_id, BATCH_PREFIX, field="batch_id")
    statement = _of(tenant, bound_to).where(model_batch.c.batch_id == about)
    row = (await scope.execute(statement.with_for_update() if lock else statement)).one_or_none()
    if row is None:
        raise BatchNotFound(batch_id)
    return _shown_of(row)


async def _check_room(scope: Scope, tenant: TenantId) -> None:
    """Raises: TooManyBatches."""
    open_ones = select(func.count()).where(model_batch.c.tenant_id == tenant, model_batch.c.ended_time.is_(None))
    if (await scope.execute(open_ones)).scalar_one() >= MOST_OPEN_BATCHES:
        raise TooManyBatches(MOST_OPEN_BATCHES)


def _lock_of(tenant: TenantId) -> int:
    return int.from_bytes(sha256(b"comitia.model_batch" + tenant.bytes).digest()[:8], "big", signed=True)


async def _counted(scope: Scope, job: BatchJob) -> BatchView:
    columns = model_batch_item.c
    statement = (
        select(columns.state, func.count())
        .where(columns.tenant_id == job.tenant, columns.batch_id == job.id)
        .group_by(columns.state)
    )
    known = frozenset(ItemState)
    counts = {ItemState(state): number for state, number in await scope.execute(statement) if state in known}
    return BatchView(job=job, counts=counts)


def _settled_at_birth(job: BatchJob) -> dict[str, Any]:
    """Gives what never changes."""
    return {
        "deployment": job.deployment,
        "version": job.version,
        "deployment_id": job.deployment_id,
        "payee": job.payee,
        "grant_id": job.grant_id,
        "project": job.project,
        "created_time": job.created,
        "cancel_requested": job.cancel_requested,
    }


def _values(job: BatchJob) -> dict[str, Any]:
    """Gives what whoever carries it on changes. Whether it is to stop is for its caller to say."""
    return {
        "state": job.state.value,
        "tries": job.tries,
        "provider_id": job.provider_id,
        "reason": job.reason,
        "submitted_time": job.submitted,
        "ended_time": job.ended,
    }


def _shown_of(row: Row[Any]) -> BatchJob:
    """Reads a batch to be shown, also one whose state another release wrote."""
    try:
        return _job_of(row)
    except ValueError:
        return _job_in(row, BatchState.UNREADABLE)


def _job_of(row: Row[Any]) -> BatchJob:
    """Reads a batch to be carried on. Raises: ValueError: another release wrote it."""
    return _job_in(row, BatchState(row.state))


def _job_in(row: Row[Any], state: BatchState) -> BatchJob:
    return BatchJob(
        id=row.batch_id,
        tenant=TenantId(row.tenant_id),
        deployment=row.deployment,
        version=row.version,
        deployment_id=row.deployment_id,
        payee=row.payee,
        grant_id=row.grant_id,
        project=row.project,
        item_count=row.item_count,
        state=state,
        tries=row.tries,
        provider_id=row.provider_id,
        cancel_requested=row.cancel_requested,
        reason=row.reason,
        created=row.created_time,
        submitted=row.submitted_time,
        ended=row.ended_time,
    )


def _place(job: BatchJob, place: int, column: str) -> bytes:
    return f"inference.model_batch_item.{column}:{job.name}/{place}".encode()
