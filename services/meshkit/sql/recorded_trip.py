"""A control-plane mutation in one round trip: what it writes, its audit entry and its answer are true together."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.audit import pending_draft
from services.meshkit.core.failpoints import failpoint
from services.meshkit.core.identity import TenantId
from services.meshkit.core.once import Once, current_once
from services.meshkit.sql.audit import AuditOutcome, entry_of
from services.meshkit.sql.finish import finish
from services.meshkit.sql.once import key_of
from services.meshkit.sql.one_trip import OneTrip, run_call
from services.meshkit.sql.request_ids import lock_of
from services.meshkit.sql.scope import BEFORE_COMMIT, listed_tenants

_NO_REQUEST: Final = (None,) * 6


async def recorded_trip(
    engine: AsyncEngine, tenants: TenantId | Iterable[TenantId], work: OneTrip, *values: object, made: object
) -> bool:
    """Runs the transaction of a mutation and commits it; a caller that is cancelled meanwhile is told after its end.

    Args:
        work: has `RECORD` in its body and returns a boolean: False when it wrote nothing.
        made: what the servicer writes the answer of, if the request has an id.
    Returns: False when nothing was written, also because the request came before or is at work: the longer way, which
        claims the request first, knows which.
    Raises: as `one_trip`.
    """
    return await finish(_run(engine, work, (*values, listed_tenants(tenants)), made))


async def _run(engine: AsyncEngine, work: OneTrip, values: tuple[object, ...], made: object) -> bool:
    draft, this = pending_draft(), current_once()
    if not work.recorded_call:
        raise TypeError(f"{work.name!r} has no RECORD in its body")
    entry = None if draft is None else entry_of(draft, AuditOutcome.SUCCEEDED)
    await failpoint(BEFORE_COMMIT)
    rows: list[Record] = await run_call(engine, work.recorded_call, (*values, entry, *_request(this, made)))
    written = bool(rows[0][0])
    if written and draft is not None:
        draft.written = True
    if written and this is not None:
        this.claimed = True
    return written


def _request(this: Once | None, made: object) -> tuple[object, ...]:
    if this is None:
        return _NO_REQUEST
    key, answer = key_of(this), this.answer(made)
    return (lock_of(key), key.tenant, key.method, key.request_id, sha256(this.body).digest(), answer)
