"""Remembers calls by id, each with its sealed outcome and what became of its money. A `CallStore`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from asyncpg import Record
from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.call import Claimed, RecordedCall, SettleState, Unjudged
from services.inference.domain.errors import CallArgumentsDiffer, CallInProgress
from services.inference.storage.one_trips import (
    ACKNOWLEDGE_CALLS,
    CLAIM_CALLS,
    EXTEND_CLAIMS,
    GIVE_BACK,
    JUDGE_CALL,
    MARK_SETTLED,
    RECORD_CALLS,
)
from services.inference.storage.outcome_codec import decode_outcome, encode_outcome, usage_from_list, usage_to_list
from services.inference.storage.tables import call
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.calls.ports import PendingSettlement, Settlement
from services.meshkit.content import CallId, CallKey
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import NO_SECRET, Secret
from services.meshkit.crypto.errors import KeyDestroyed, SealBroken
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.one_trip import OneTrip, one_trip
from services.meshkit.sql.scope import MAX_TENANTS, maintenance_scope
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

_FORGET: Final = text("""
    DELETE FROM call WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM call
        WHERE settle_state IS DISTINCT FROM 'pending' AND (
            acknowledged_time < :before
            OR created_time < :before AND coalesce(recorded_time, created_time) < :before
                AND acknowledged_time IS NULL AND run_id NOT LIKE 'run\\_%'
            OR created_time < :long_before AND coalesce(recorded_time, created_time) < :long_before
                AND acknowledged_time IS NULL)
        LIMIT :most))""")


#: Calls of one transaction, and those that may wait for the next.
_MOST_TOGETHER: Final = 128
_MOST_WAITING: Final = 4096
#: After this time it is worth asking again for a call that another replica makes.
_COME_BACK: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write:
    """What one call has written together with others."""

    key: CallKey
    #: Values of the columns behind the key, in the order of the statement's arrays.
    values: tuple[object, ...]


#: Gives the row that stands in the way of a write, None when it was written.
_Standing = GroupCommit[_Write, Record | None]


class CallRepository:
    """Stores calls; requests see their tenant's, background work sees all. Used while it is `running`.

    Args:
        app: engine of the role `app`.
        maintenance: engine of the role `maintenance`.
        replica: name of this process among all that ever make calls.
        claim_seconds: how long others leave a call to this replica without hearing of it.
        unacknowledged: how much longer a call of a run is kept that its run has not acknowledged.
    """

    def __init__(
        self,
        app: AsyncEngine,
        maintenance: AsyncEngine,
        *,
        keys: KeyRing,
        replica: str,
        claim_seconds: float,
        unacknowledged: timedelta = timedelta(0),
    ) -> None:
        self._app = app
        self._maintenance = maintenance
        self._keys = keys
        self._replica = replica
        self._claim_seconds = claim_seconds
        self._unacknowledged = unacknowledged
        self._claims = self._group("inference.claims", CLAIM_CALLS)
        self._records = self._group("inference.records", RECORD_CALLS)
        self._acknowledged = GroupCommit[Sequence[CallKey], None](
            self._acknowledge,
            name="inference.acknowledgements",
            max_items=_MOST_TOGETHER,
            max_waiting=_MOST_WAITING,
        )

    def _group(self, name: str, work: OneTrip) -> _Standing:
        async def write(batch: Sequence[_Write]) -> Sequence[Record | None]:
            return await self._write_all(work, batch)

        return _Standing(write, name=name, max_items=_MOST_TOGETHER, max_waiting=_MOST_WAITING)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Self]:
        """Gives the repository, which claims, and records, what comes at the same time in one transaction each."""
        async with self._claims, self._records, self._acknowledged:
            yield self

    async def claim(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | Claimed:
        """See `CallStore.claim`."""
        row = await self._claims.submit(_Write(key=key, values=(arguments_hash, self._replica, self._claim_seconds)))
        if row is None:
            return Claimed()
        if row["arguments_hash"] != arguments_hash:
            raise CallArgumentsDiffer(key.call_id)
        if row["hold_id"] is None:
            if row["replica"] != self._replica:
                raise CallInProgress(key.call_id, retry_after=_COME_BACK)
            return Claimed(lost_attempts=row["attempts"] - 1)
        return await self._recorded(key, row)

    async def give_back(self, key: CallKey) -> None:
        """See `CallStore.give_back`."""
        await one_trip(self._app, key.tenant, GIVE_BACK, *_names(key), self._replica)

    async def extend_claims(self, keys: Sequence[CallKey]) -> None:
        """See `CallStore.extend_claims`."""
        await self._extend(keys, self._claim_seconds)

    async def free_claims(self, keys: Sequence[CallKey]) -> None:
        """See `CallStore.free_claims`."""
        await self._extend(keys, 0.0)

    async def acknowledge(self, keys: Sequence[CallKey]) -> None:
        """See `CallStore.acknowledge`."""
        await self._acknowledged.submit(keys)

    async def _acknowledge(self, batch: Sequence[Sequence[CallKey]]) -> Sequence[None]:
        keys = sorted({key for keys in batch for key in keys}, key=_names)
        await one_trip(self._app, {key.tenant for key in keys}, ACKNOWLEDGE_CALLS, *_columns(keys))
        return [None] * len(batch)

    async def _extend(self, keys: Sequence[CallKey], seconds: float) -> None:
        # As many as one transaction sees should each be another tenant's.
        for start in range(0, len(keys), MAX_TENANTS):
            some = keys[start : start + MAX_TENANTS]
            tenants = {key.tenant for key in some}
            await one_trip(self._app, tenants, EXTEND_CLAIMS, *_columns(some), self._replica, seconds)

    async def record(self, recorded: RecordedCall, *, token: Secret) -> RecordedCall:
        """See `CallStore.record`."""
        key = recorded.key
        pending = recorded.settle_state is SettleState.PENDING
        values = (
            recorded.arguments_hash,
            recorded.hold_id,
            await self._sealed(recorded),
            isinstance(recorded.outcome, Unjudged),
            f"{{{','.join(map(str, usage_to_list(recorded.usage)))}}}",
            str(recorded.settle_state),
            recorded.charged,
            await self._keys.seal(key.tenant, token.reveal().encode(), aad=_place(key, "token")) if pending else None,
        )
        standing = await self._records.submit(_Write(key=key, values=values))
        if standing is None or standing["hold_id"] == recorded.hold_id:
            return recorded
        return await self._recorded(key, standing)

    async def judge(self, recorded: RecordedCall) -> RecordedCall:
        """See `CallStore.judge`."""
        key, sealed = recorded.key, await self._sealed(recorded)
        standing = await one_trip(self._app, key.tenant, JUDGE_CALL, *_names(key), recorded.hold_id, sealed)
        return await self._recorded(key, standing[0]) if standing else recorded

    async def mark_settled(self, settlements: Sequence[Settlement]) -> None:
        """See `CallStore.mark_settled`."""
        rows = [
            (
                *_names(one.key),
                one.hold_id,
                str(SettleState.LAPSED if one.charged is None else SettleState.SETTLED),
                one.charged,
            )
            for one in settlements
        ]
        tenants = {one.key.tenant for one in settlements}
        await one_trip(self._app, tenants, MARK_SETTLED, *(list(column) for column in zip(*rows, strict=True)))

    async def _write_all(self, work: OneTrip, batch: Sequence[_Write]) -> Sequence[Record | None]:
        """Does what the callers of models wait for; gives the rows that stand in the way, None where none does."""
        # In one order everywhere, so that two replicas with the same calls do not lock each other out.
        order = sorted(range(len(batch)), key=lambda index: _names(batch[index].key))
        rows = [(*_names(batch[index].key), *batch[index].values) for index in order]
        tenants = {one.key.tenant for one in batch}
        standing: list[Record | None] = [None] * len(batch)
        for row in await one_trip(self._app, tenants, work, *(list(column) for column in zip(*rows, strict=True))):
            place: int = row["place"]
            standing[order[place - 1]] = row
        return standing

    async def _sealed(self, recorded: RecordedCall) -> bytes:
        outcome = encode_outcome(recorded.outcome)
        return await self._keys.seal(recorded.key.tenant, outcome, aad=_place(recorded.key, "outcome"))

    async def pending(self, *, before: datetime, most: int) -> list[PendingSettlement]:
        """See `CallStore.pending`."""
        statement = (
            select(call)
            .where(call.c.settle_state == "pending", call.c.recorded_time < before)
            .order_by(call.c.recorded_time)
            .limit(most)
        )
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            rows = (await scope.execute(statement)).all()
        return [await self._pending(row) for row in rows]

    async def forget_expired(self, *, before: datetime, most: int) -> int:
        """See `CallStore.forget_expired`."""
        async with maintenance_scope(self._maintenance) as scope:
            times = {"before": before, "long_before": before - self._unacknowledged}
            done = await scope.execute(_FORGET, {**times, "most": most})
            await scope.commit()
        return done.rowcount

    async def _recorded(self, key: CallKey, row: Record) -> RecordedCall:
        outcome = await self._keys.open(key.tenant, row["outcome"], aad=_place(key, "outcome"))
        return RecordedCall(
            key=key,
            arguments_hash=row["arguments_hash"],
            outcome=decode_outcome(outcome),
            hold_id=row["hold_id"],
            usage=usage_from_list(row["usage_tokens"]),
            settle_state=SettleState(row["settle_state"]),
            charged=row["charged_nano_usd"],
        )

    async def _pending(self, row: Row[Any]) -> PendingSettlement:
        key = CallKey(
            tenant=TenantId(row.tenant_id),
            call_id=CallId(run_id=row.run_id, path=row.path, attempt_group=row.attempt_group, index=row.call_index),
        )
        return PendingSettlement(
            key=key,
            hold_id=row.hold_id,
            usage=usage_from_list(row.usage_tokens),
            token=await self._token(key, bytes(row.token)),
        )

    async def _token(self, key: CallKey, sealed: bytes) -> Secret:
        """Opens a token; one whose key was destroyed is as good as none, and must not hold up the others."""
        try:
            return Secret((await self._keys.open(key.tenant, sealed, aad=_place(key, "token"))).decode())
        except (KeyDestroyed, SealBroken) as error:
            log.warning("a token to settle with cannot be opened", call_id=str(key.call_id), error=error.message)
            return NO_SECRET


def _names(key: CallKey) -> tuple[object, ...]:
    call_id = key.call_id
    return (key.tenant, call_id.run_id, call_id.path, call_id.attempt_group, call_id.index)


def _columns(keys: Sequence[CallKey]) -> list[list[object]]:
    return [list(column) for column in zip(*map(_names, keys), strict=True)]


def _place(key: CallKey, column: str) -> bytes:
    return f"inference.call.{column}:{key.call_id}".encode()
