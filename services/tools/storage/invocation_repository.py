"""Remembers calls by id, each with its sealed outcome and what became of its money. A `CallStore`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from asyncpg import Record
from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.calls.ports import PendingSettlement, Settlement
from services.meshkit.content import CallId, CallKey
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import NO_SECRET, Secret
from services.meshkit.crypto.errors import KeyDestroyed, SealBroken
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.one_trip import OneTrip, one_trip
from services.meshkit.sql.scope import maintenance_scope
from services.meshkit.telemetry.logs import logger
from services.tools.domain.errors import CallArgumentsDiffer
from services.tools.domain.invocation import RecordedCall, SettleState
from services.tools.storage.one_trips import BEGIN_INVOCATION, FIND_INVOCATION, MARK_SETTLED, RECORD_INVOCATION
from services.tools.storage.outcome_codec import decode_outcome, encode_outcome
from services.tools.storage.tables import INVOCATION

log = logger(__name__)

_FORGET: Final = text("""
    DELETE FROM invocation WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM invocation
        WHERE create_time < :before AND settle_state IS DISTINCT FROM 'pending' LIMIT :most))""")


class InvocationRepository:
    """Stores calls; requests see their tenant's, background work sees all.

    Args:
        app: engine of the role `app`.
        maintenance: engine of the role `maintenance`.
    """

    def __init__(self, app: AsyncEngine, maintenance: AsyncEngine, *, keys: KeyRing) -> None:
        self._app = app
        self._maintenance = maintenance
        self._keys = keys

    async def find(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | None:
        """See `CallStore.find`."""
        return await self._standing(key, arguments_hash, await self._do(key, FIND_INVOCATION))

    async def begin(self, key: CallKey, arguments_hash: bytes, *, tool: str, hold_id: str) -> RecordedCall | None:
        """See `CallStore.begin`."""
        row = await self._do(key, BEGIN_INVOCATION, arguments_hash, tool, hold_id)
        return await self._standing(key, arguments_hash, row)

    async def record(self, recorded: RecordedCall, *, token: Secret) -> RecordedCall:
        """See `CallStore.record`."""
        key = recorded.key
        pending = recorded.settle_state is SettleState.PENDING
        sealed_token = None
        if pending:
            sealed_token = await self._keys.seal(key.tenant, token.reveal().encode(), aad=_place(key, "token"))
        row = await self._do(
            key,
            RECORD_INVOCATION,
            recorded.arguments_hash,
            recorded.tool,
            recorded.hold_id,
            str(recorded.state),
            await self._keys.seal(key.tenant, encode_outcome(recorded.outcome), aad=_place(key, "outcome")),
            str(recorded.settle_state),
            sealed_token,
        )
        return await self._standing(key, recorded.arguments_hash, row) or recorded

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

    async def pending(self, *, before: datetime, most: int) -> list[PendingSettlement]:
        """See `CallStore.pending`."""
        columns = INVOCATION.c
        statement = (
            select(INVOCATION)
            # Written out, so that the partial index fits.
            .where(text("settle_state = 'pending'"), columns.record_time < before)
            .order_by(columns.record_time)
            .limit(most)
        )
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            rows = (await scope.execute(statement)).all()
        return [await self._pending(row) for row in rows]

    async def forget_expired(self, *, before: datetime, most: int) -> int:
        """See `CallStore.forget_expired`."""
        async with maintenance_scope(self._maintenance) as scope:
            done = await scope.execute(_FORGET, {"before": before, "most": most})
            await scope.commit()
        return done.rowcount

    async def _do(self, key: CallKey, work: OneTrip, *values: object) -> Record | None:
        """Does what a caller waits for; gives the row that stands, None when there is none or it was written now."""
        rows = await one_trip(self._app, key.tenant, work, *_names(key), *values)
        return rows[0] if rows else None

    async def _standing(self, key: CallKey, arguments_hash: bytes, row: Record | None) -> RecordedCall | None:
        """Gives the outcome that a row has. Raises: CallArgumentsDiffer."""
        if row is None:
            return None
        if row["arguments_hash"] != arguments_hash:
            raise CallArgumentsDiffer(key.call_id)
        if row["outcome"] is None:
            return None
        outcome = await self._keys.open(key.tenant, row["outcome"], aad=_place(key, "outcome"))
        return RecordedCall(
            key=key,
            arguments_hash=row["arguments_hash"],
            tool=row["tool"],
            outcome=decode_outcome(outcome),
            hold_id=row["hold_id"],
            settle_state=SettleState(row["settle_state"]),
            charged=row["charged_nano_usd"],
        )

    async def _pending(self, row: Row[Any]) -> PendingSettlement:
        key = CallKey(
            tenant=TenantId(row.tenant_id),
            call_id=CallId(run_id=row.run_id, path=row.path, attempt_group=row.attempt_group, index=row.call_index),
        )
        return PendingSettlement(
            key=key, hold_id=row.hold_id, usage=None, token=await self._token(key, bytes(row.token))
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


def _place(key: CallKey, column: str) -> bytes:
    return f"tools.invocation.{column}:{key.call_id}".encode()
