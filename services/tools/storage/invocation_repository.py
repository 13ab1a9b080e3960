"""Remembers calls by id, each with its sealed outcome and what became of its money. A `CallStore`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.elements import ColumnElement

from services.meshkit.calls.ports import PendingSettlement, Settlement
from services.meshkit.content import CallId, CallKey
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from services.tools.domain.errors import CallArgumentsDiffer
from services.tools.domain.invocation import CallState, RecordedCall, SettleState
from services.tools.storage.outcome_codec import decode_outcome, encode_outcome
from services.tools.storage.tables import INVOCATION, PK_INVOCATION

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
        async with tenant_scope(self._app, key.tenant, read_only=True) as scope:
            row = (await scope.execute(select(INVOCATION).where(_is(key)))).one_or_none()
        return None if row is None else await self._outcome(key, row, arguments_hash)

    async def begin(self, key: CallKey, arguments_hash: bytes, *, tool: str, hold_id: str) -> RecordedCall | None:
        """See `CallStore.begin`."""
        columns = INVOCATION.c
        statement = (
            insert(INVOCATION)
            .values(
                **_names(key), arguments_hash=arguments_hash, tool=tool, state=CallState.DISPATCHED, hold_id=hold_id
            )
            .on_conflict_do_update(
                constraint=PK_INVOCATION,
                set_={"hold_id": hold_id, "tool": tool},
                where=and_(columns.outcome.is_(None), columns.arguments_hash == arguments_hash),
            )
            .returning(columns.tenant_id)
        )
        async with tenant_scope(self._app, key.tenant) as scope:
            if (await scope.execute(statement)).first() is not None:
                await scope.commit()
                return None
            row = await _present(scope, key)
        return await self._outcome(key, row, arguments_hash)

    async def record(self, recorded: RecordedCall, *, token: Secret) -> RecordedCall:
        """See `CallStore.record`."""
        key = recorded.key
        pending = recorded.settle_state is SettleState.PENDING
        outcome = await self._keys.seal(key.tenant, encode_outcome(recorded.outcome), aad=_place(key, "outcome"))
        sealed_token = None
        if pending:
            sealed_token = await self._keys.seal(key.tenant, token.reveal().encode(), aad=_place(key, "token"))
        values: dict[str, object] = {
            "tool": recorded.tool,
            "state": recorded.state,
            "hold_id": recorded.hold_id,
            "outcome": outcome,
            "settle_state": recorded.settle_state,
            "token": sealed_token,
            "record_time": func.now(),
        }
        statement = (
            insert(INVOCATION)
            .values(**_names(key), arguments_hash=recorded.arguments_hash, **values)
            .on_conflict_do_update(
                constraint=PK_INVOCATION,
                set_=values,
                where=and_(INVOCATION.c.outcome.is_(None), INVOCATION.c.arguments_hash == recorded.arguments_hash),
            )
            .returning(INVOCATION.c.tenant_id)
        )
        async with tenant_scope(self._app, key.tenant) as scope:
            if (await scope.execute(statement)).first() is not None:
                await scope.commit()
                return recorded
            row = await _present(scope, key)
        standing = await self._outcome(key, row, recorded.arguments_hash)
        if standing is None:
            raise Internal("a call that had an outcome a moment ago has none", call_id=key.call_id)
        return standing

    async def mark_settled(self, settlements: Sequence[Settlement]) -> None:
        """See `CallStore.mark_settled`."""
        columns = INVOCATION.c
        tenants = {settlement.key.tenant for settlement in settlements}
        async with tenant_scope(self._app, tenants) as scope:
            for settlement in settlements:
                state = SettleState.LAPSED if settlement.charged is None else SettleState.SETTLED
                statement = (
                    update(INVOCATION)
                    .where(
                        _is(settlement.key),
                        columns.hold_id == settlement.hold_id,
                        columns.settle_state == SettleState.PENDING,
                    )
                    .values(settle_state=state, charged_nano_usd=settlement.charged, token=None)
                )
                await scope.execute(statement)
            await scope.commit()

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

    async def _outcome(self, key: CallKey, row: Row[Any], arguments_hash: bytes) -> RecordedCall | None:
        if row.arguments_hash != arguments_hash:
            raise CallArgumentsDiffer(key.call_id)
        if row.outcome is None:
            return None
        outcome = await self._keys.open(key.tenant, bytes(row.outcome), aad=_place(key, "outcome"))
        return RecordedCall(
            key=key,
            arguments_hash=row.arguments_hash,
            tool=row.tool,
            outcome=decode_outcome(outcome),
            hold_id=row.hold_id,
            settle_state=SettleState(row.settle_state),
            charged=row.charged_nano_usd,
        )

    async def _pending(self, row: Row[Any]) -> PendingSettlement:
        key = CallKey(
            tenant=TenantId(row.tenant_id),
            call_id=CallId(run_id=row.run_id, path=row.path, attempt_group=row.attempt_group, index=row.call_index),
        )
        token = await self._keys.open(key.tenant, bytes(row.token), aad=_place(key, "token"))
        return PendingSettlement(key=key, hold_id=row.hold_id, usage=None, token=Secret(token.decode()))


async def _present(scope: AsyncConnection, key: CallKey) -> Row[Any]:
    row = (await scope.execute(select(INVOCATION).where(_is(key)))).one_or_none()
    if row is None:
        raise Internal("a call that was there a moment ago is gone", call_id=key.call_id)
    return row


def _names(key: CallKey) -> dict[str, object]:
    return {
        "tenant_id": key.tenant,
        "run_id": key.call_id.run_id,
        "path": key.call_id.path,
        "attempt_group": key.call_id.attempt_group,
        "call_index": key.call_id.index,
    }


def _is(key: CallKey) -> ColumnElement[bool]:
    return and_(*(INVOCATION.c[name] == value for name, value in _names(key).items()))


def _place(key: CallKey, column: str) -> bytes:
    return f"tools.invocation.{column}:{key.call_id}".encode()
