"""Remembers calls by id, each with its sealed outcome and what became of its money. A `CallStore`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.elements import ColumnElement

from services.inference.domain.call import CallKey, PendingSettlement, RecordedCall, SettleState
from services.inference.domain.errors import CallArgumentsDiffer
from services.inference.storage.outcome_codec import decode_outcome, encode_outcome, usage_from_list, usage_to_list
from services.inference.storage.tables import call
from services.inference.usecases.ports import Settlement
from services.meshkit.content import CallId
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.errors import KeyDestroyed, SealBroken
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.scope import driver_scope, maintenance_scope, tenant_scope
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

_CLAIM: Final = """
    INSERT INTO call (tenant_id, run_id, path, attempt_group, call_index, arguments_hash)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO NOTHING RETURNING true"""
_RECORD: Final = """
    INSERT INTO call (tenant_id, run_id, path, attempt_group, call_index, arguments_hash,
        hold_id, outcome, usage_tokens, settle_state, charged_nano_usd, token, recorded_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now())
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO UPDATE
    SET hold_id = EXCLUDED.hold_id, outcome = EXCLUDED.outcome, usage_tokens = EXCLUDED.usage_tokens,
        settle_state = EXCLUDED.settle_state, charged_nano_usd = EXCLUDED.charged_nano_usd,
        token = EXCLUDED.token, recorded_time = EXCLUDED.recorded_time
    WHERE call.hold_id IS NULL RETURNING true"""
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
        if await self._insert(key, _CLAIM, arguments_hash):
            return None
        row = await self._find(key)
        if row.arguments_hash != arguments_hash:
            raise CallArgumentsDiffer(key.call_id)
        return None if row.hold_id is None else await self._recorded(key, row)

    async def record(self, recorded: RecordedCall, *, token: str) -> RecordedCall:
        """See `CallStore.record`."""
        key = recorded.key
        pending = recorded.settle_state is SettleState.PENDING
        outcome = await self._keys.seal(key.tenant, encode_outcome(recorded.outcome), aad=_place(key, "outcome"))
        sealed_token = await self._keys.seal(key.tenant, token.encode(), aad=_place(key, "token")) if pending else None
        done = await self._insert(
            key,
            _RECORD,
            recorded.arguments_hash,
            recorded.hold_id,
            outcome,
            usage_to_list(recorded.usage),
            str(recorded.settle_state),
            recorded.charged,
            sealed_token,
        )
        return recorded if done else await self._recorded(key, await self._find(key))

    async def _insert(self, key: CallKey, statement: str, *values: object) -> bool:
        """Writes a row by asyncpg itself, twice in each call of a model; false when another row stands."""
        async with driver_scope(self._app, key.tenant) as scope:
            if await scope.driver.fetchval(statement, *_names(key).values(), *values) is None:
                return False
            await scope.commit()
        return True

    async def _find(self, key: CallKey) -> Row[Any]:
        async with tenant_scope(self._app, key.tenant, read_only=True) as scope:
            row = (await scope.execute(select(call).where(_is(key)))).one_or_none()
        if row is None:
            raise Internal("a call that was there a moment ago is gone", call_id=key.call_id)
        return row

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
