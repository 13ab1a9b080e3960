"""Remembers calls by id, each with its sealed outcome and what became of its money. A `CallStore`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.elements import ColumnElement

from services.inference.domain.call import CallKey, PendingSettlement, RecordedCall, SettleState
from services.inference.domain.errors import CallArgumentsDiffer
from services.inference.storage.outcome_codec import decode_outcome, encode_outcome, usage_from_list, usage_to_list
from services.inference.storage.tables import PK_CALL, call
from services.inference.usecases.ports import Settlement
from services.meshkit.content import CallId
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.errors import KeyDestroyed, SealBroken
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

_FORGET: Final = text("""
    DELETE FROM call WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM call
        WHERE created_time < :before AND settle_state IS DISTINCT FROM 'pending' LIMIT :most))""")


class CallRepository:
    """Stores calls; requests see their tenant's, background work sees all.

    Args:
        app: engine of the role `app`.
        maintenance: engine of the role `maintenance`.
    """

    def __init__(self, app: AsyncEngine, maintenance: AsyncEngine, *, keys: KeyRing) -> None:
        self._app = app
        self._maintenance = maintenance
        self._keys = keys

    async def claim(self, key: CallKey, arguments_hash: bytes) -> RecordedCall | None:
        """See `CallStore.claim`."""
        statement = (
            insert(call)
            .values(**_names(key), arguments_hash=arguments_hash)
            .on_conflict_do_nothing(constraint=PK_CALL)
            .returning(call.c.tenant_id)
        )
        async with tenant_scope(self._app, key.tenant) as scope:
            if (await scope.execute(statement)).first() is not None:
                await scope.commit()
                return None
            row = await _find(scope, key)
        if row.arguments_hash != arguments_hash:
            raise CallArgumentsDiffer(key.call_id)
        return None if row.hold_id is None else await self._recorded(key, row)

    async def record(self, recorded: RecordedCall, *, token: str) -> RecordedCall:
        """See `CallStore.record`."""
        key = recorded.key
        pending = recorded.settle_state is SettleState.PENDING
        outcome = await self._keys.seal(key.tenant, encode_outcome(recorded.outcome), aad=_place(key, "outcome"))
        sealed_token = await self._keys.seal(key.tenant, token.encode(), aad=_place(key, "token")) if pending else None
        values: dict[str, object] = {
            "hold_id": recorded.hold_id,
            "outcome": outcome,
            "usage_tokens": usage_to_list(recorded.usage),
            "settle_state": recorded.settle_state,
            "charged_nano_usd": recorded.charged,
            "token": sealed_token,
            "recorded_time": func.now(),
        }
        statement = (
            insert(call)
            .values(**_names(key), arguments_hash=recorded.arguments_hash, **values)
            .on_conflict_do_update(constraint=PK_CALL, set_=values, where=call.c.hold_id.is_(None))
            .returning(call.c.tenant_id)
        )
        async with tenant_scope(self._app, key.tenant) as scope:
            if (await scope.execute(statement)).first() is not None:
                await scope.commit()
                return recorded
            row = await _find(scope, key)
        return await self._recorded(key, row)

    async def mark_settled(self, settlements: Sequence[Settlement]) -> None:
        """See `CallStore.mark_settled`."""
        tenants = {settlement.key.tenant for settlement in settlements}
        async with tenant_scope(self._app, tenants) as scope:
            for settlement in settlements:
                state = SettleState.LAPSED if settlement.charged is None else SettleState.SETTLED
                statement = (
                    update(call)
                    .where(_is(settlement.key), call.c.hold_id == settlement.hold_id, call.c.settle_state == "pending")
                    .values(settle_state=state, charged_nano_usd=settlement.charged, token=None)
                )
                await scope.execute(statement)
            await scope.commit()

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
            done = await scope.execute(_FORGET, {"before": before, "most": most})
            await scope.commit()
        return done.rowcount

    async def _recorded(self, key: CallKey, row: Row[Any]) -> RecordedCall:
        outcome = await self._keys.open(key.tenant, bytes(row.outcome), aad=_place(key, "outcome"))
        return RecordedCall(
            key=key,
            arguments_hash=row.arguments_hash,
            outcome=decode_outcome(outcome),
            hold_id=row.hold_id,
            usage=usage_from_list(row.usage_tokens),
            settle_state=SettleState(row.settle_state),
            charged=row.charged_nano_usd,
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
            recorded_time=row.recorded_time,
        )

    async def _token(self, key: CallKey, sealed: bytes) -> str:
        """Opens a token; one whose key was destroyed is as good as none, and must not hold up the others."""
        try:
            return (await self._keys.open(key.tenant, sealed, aad=_place(key, "token"))).decode()
        except (KeyDestroyed, SealBroken) as error:
            log.warning("a token to settle with cannot be opened", call_id=str(key.call_id), error=error.message)
            return ""


async def _find(scope: AsyncConnection, key: CallKey) -> Row[Any]:
    row = (await scope.execute(select(call).where(_is(key)))).one_or_none()
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
    return and_(*(call.c[name] == value for name, value in _names(key).items()))


def _place(key: CallKey, column: str) -> bytes:
    return f"inference.call.{column}:{key.call_id}".encode()
