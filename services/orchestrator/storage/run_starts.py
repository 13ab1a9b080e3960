"""How runs begin: once for each request, and within the quotas of their tenant."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.core.audit import pending_draft
from services.meshkit.core.errors import RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.once import RequestInProgress
from services.meshkit.core.tenant import KnowsTenants, QuotaExceeded, rules_of
from services.meshkit.sql.finish import finish
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.request_ids import RETENTION, RequestKey, claim, keep, lock_of
from services.meshkit.sql.scope import DriverScope, driver_scope, listed_tenants
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.run import (
    SHARDS,
    Created,
    OwnedRun,
    RunKind,
    RunView,
    RunWrite,
    SealedRow,
    ShardLease,
    StartKey,
    kind_of,
    parent_of,
    stand_still,
)
from services.orchestrator.storage.advisory_locks import STARTS_LOCK
from services.orchestrator.storage.one_trips import BEGIN_RUN, BEGIN_RUNS, FIND_ANSWER
from services.orchestrator.storage.run_journal import SqlJournal
from services.orchestrator.storage.storage_used import STORED

#: Kept by older releases: the id of the run, as text.
_OLD_ANSWER: Final = b"run_"
_ID_BYTES: Final = 16
#: For `BEGIN_RUN`: no request, or one that was claimed before.
_ASKED_BEFORE: Final = (None,) * 6
#: Of the arguments of `BEGIN_RUN`, those that `BEGIN_RUNS` takes of each run.
_EACH: Final = (*range(14), *range(17, 19), *range(24, 29))
#: Runs that begin in one transaction, and those that may wait for the one under way.
_MOST_TOGETHER: Final = 128
_MOST_WAITING: Final = 4_096
_START_METHODS: Final = {
    RunKind.SESSION: "comitia.orchestrator.v1.SessionService/StartSession",
    RunKind.RUN: "comitia.orchestrator.v1.RunService/StartRun",
}
_FORK_METHOD: Final = "comitia.orchestrator.v1.RecordService/ForkRun"
#: Starts of one tenant take turns until they are committed, so that none is counted by nobody.
_TAKE_TURNS: Final = f"SELECT pg_advisory_xact_lock({STARTS_LOCK}, hashtext($1::text))"
_IN_PROGRESS: Final = "SELECT count(*) FROM run WHERE tenant_id = $1 AND state NOT IN (5, 6, 7)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """A run to begin with others."""

    tenant: TenantId
    #: Where its bytes are counted.
    slot: int
    #: As `BEGIN_RUN` takes them.
    values: Sequence[object]


class SqlStarts:
    """Implements `engine.ports.Starts`, while it is `running`."""

    def __init__(self, app: AsyncEngine, *, journal: SqlJournal, codec: JournalCodec, tenants: KnowsTenants) -> None:
        self._app = app
        self._journal = journal
        self._codec = codec
        self._tenants = tenants
        self._together = GroupCommit[_Start, bool | None](
            self._begin_all, name="orchestrator.starts", max_items=_MOST_TOGETHER, max_waiting=_MOST_WAITING
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Self]:
        """Begins runs that come at the same time in one transaction, while the block runs."""
        async with self._together:
            yield self

    async def started_before(self, key: StartKey) -> RunView | None:
        """See `Starts.started_before`."""
        request = _request_key(key)
        names = (lock_of(request), request.tenant, request.method, request.request_id)
        [row] = await one_trip(self._app, key.tenant, FIND_ANSWER, *names)
        if not row["idle"]:
            raise RequestInProgress(key.request_id)
        if row["answer"] is None:
            return None
        if row["body_hash"] != sha256(key.body).digest():
            raise RequestIdReused(str(key.request_id))
        return await self._first_view(key, row["answer"])

    async def _first_view(self, key: StartKey, answer: bytes) -> RunView:
        if answer.startswith(_OLD_ANSWER):
            return await self._journal.view(key.tenant, answer.decode())
        run_id = from_uuid("run", UUID(bytes=answer[:_ID_BYTES]))
        return await self._codec.open_view(key.tenant, run_id, answer[_ID_BYTES:], key.kind)

    async def create(self, first: RunWrite, key: StartKey | None, lease: ShardLease | None) -> Created:
        """See `Starts.create`."""
        run = first.run
        await self._codec.load([run.tenant])
        if first.view is None:
            raise ValueError("a new run has a view")
        view, parent = self._codec.seal_view(run, first.view), parent_of(first.view)
        [sealed] = self._codec.seal([first])
        await self._codec.put(sealed.blobs)
        values: tuple[object, ...] = (
            *(run.tenant, run.uuid, run.shard, None if lease is None else lease.epoch),
            *(int(kind_of(first.view)), int(first.view.state), view, first.last_sequence),
            *(run.grant_id, first.wake_time),
            *(first.first_sequence, len(first.entries), sealed.payload, sealed.commitments),
            [blob.digest for blob in sealed.blobs],
            [blob.sequence for blob in sealed.blobs],
            [len(blob.content) for blob in sealed.blobs],
            # Starts count in slots of their own, so that none waits for a tick under way, nor a tick for it.
            *(_slot_of(run), sealed.size),
            [number for number, _ in first.turns],
            [sequence for _, sequence in first.turns],
            *(to_uuid(parent, "run") if parent else None, stand_still(run, parent).command_id, parent),
        )
        answer = run.uuid.bytes + view
        if pending_draft() is None and not self._is_bounded(run.tenant):
            begun = await self._begin(first, sealed, parent, (*values, *_asked(key, answer)))
            if begun is not None:
                return Created(held=begun)
        # There is more to do than to write it; or it was not written, and this way knows why.
        async with driver_scope(self._app, run.tenant) as scope:
            if key is not None:
                earlier = await claim(scope, _request_key(key), key.body)
                if earlier is not None:
                    return Created(earlier=await self._first_view(key, earlier))
                await keep(scope, _request_key(key), answer)
            await self._check_quota(scope, run.tenant, of_run=bool(parent))
            held: bool | None = await scope.driver.fetchval(
                BEGIN_RUN.call, *values, *_ASKED_BEFORE, listed_tenants(run.tenant)
            )
            if held is not None:
                await scope.commit()
        if held is None:
            # A sub-run, whose id is that of its place, and which the owner before has started.
            return Created(earlier=await self._journal.view(run.tenant, run.run_id))
        return Created(held=held)

    async def _begin(self, first: RunWrite, sealed: SealedRow, parent: str, values: Sequence[object]) -> bool | None:
        """Begins a run in one round trip, with others if it can. Gives what `BEGIN_RUN` gives."""
        run = first.run
        if sealed.blobs or first.turns or parent:
            [row] = await one_trip(self._app, run.tenant, BEGIN_RUN, *values)
            return row[0]
        # Whoever leaves is told after its end: then it can be seen whether the run has begun, and has to be driven.
        return await finish(self._together.submit(_Start(tenant=run.tenant, slot=_slot_of(run), values=values)))

    async def _begin_all(self, starts: Sequence[_Start]) -> Sequence[bool | None]:
        # Two transactions that count bytes in the same slots do so in the same order.
        places = sorted(range(len(starts)), key=lambda place: (starts[place].tenant.int, starts[place].slot))
        columns = ([starts[place].values[column] for place in places] for column in _EACH)
        tenants = {start.tenant for start in starts}
        rows = await one_trip(self._app, tenants, BEGIN_RUNS, *columns, RETENTION)
        held = list[bool | None]([None]) * len(starts)
        for place, row in zip(places, rows, strict=True):
            held[place] = row["held"]
        return held

    async def check_quota(self, tenant: TenantId) -> None:
        """See `Starts.check_quota`."""
        if self._is_bounded(tenant):
            # Rolled back: it only looks.
            async with driver_scope(self._app, tenant) as scope:
                await self._check_quota(scope, tenant)

    def _is_bounded(self, tenant: TenantId) -> bool:
        quotas = rules_of(self._tenants, tenant).quotas
        return bool(quotas.max_concurrent_runs or quotas.max_storage_bytes)

    async def _check_quota(self, scope: DriverScope, tenant: TenantId, *, of_run: bool = False) -> None:
        """Raises: QuotaExceeded. The count of runs that it finds holds until the scope ends, in all replicas.

        Bytes grow with every run in progress, so none are reserved: what has begun goes on, and nothing more begins.

        Args:
            of_run: a run that has begun starts this one as a step. `SqlStorageRoom` judges of its bytes.
        """
        quotas = rules_of(self._tenants, tenant).quotas
        if quotas.max_storage_bytes and not of_run:
            stored: int = await scope.driver.fetchval(STORED, tenant)
            if stored >= quotas.max_storage_bytes:
                raise QuotaExceeded("max_storage_bytes", limit=quotas.max_storage_bytes, used=stored)
        most = quotas.max_concurrent_runs
        if not most:
            return
        await scope.driver.execute(_TAKE_TURNS, str(tenant))
        used: int = await scope.driver.fetchval(_IN_PROGRESS, tenant)
        if used >= most:
            raise QuotaExceeded("max_concurrent_runs", limit=most, used=used)


def _slot_of(run: OwnedRun) -> int:
    """Says where the bytes that a run begins with are counted."""
    return SHARDS + run.shard


def _request_key(key: StartKey) -> RequestKey:
    method = _FORK_METHOD if key.forks else _START_METHODS[key.kind]
    return RequestKey(tenant=key.tenant, method=method, request_id=key.request_id)


def _asked(key: StartKey | None, answer: bytes) -> tuple[object, ...]:
    """Gives `BEGIN_RUN` the request that a run is for."""
    if key is None:
        return _ASKED_BEFORE
    request = _request_key(key)
    return (lock_of(request), request.method, request.request_id, sha256(key.body).digest(), answer, RETENTION)
