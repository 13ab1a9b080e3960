"""Answers kept per `request_id`, so that a repeated request gets the first answer instead of a second effect."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal, MeshError, RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.core.once import RequestInProgress
from services.meshkit.sql.rls import tenant_table
from services.meshkit.sql.scope import DriverScope, Scope, maintenance_scope
from services.meshkit.telemetry.logs import logger

if TYPE_CHECKING:
    # Only migrations have it at hand; a service does without its 9 MB.
    from alembic.operations import Operations

#: How long an answer is kept.
RETENTION: Final = timedelta(hours=24)
REQUEST_IDS: Final = "request_id"
#: Pause between two sweeps.
SWEEP_SECONDS: Final = 900.0
_AT_ONCE: Final = 10_000

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """What makes a request the same request."""

    tenant: TenantId
    #: Full name of the RPC, such as `comitia.tools.v1.ToolService/ApproveTool`.
    method: str
    request_id: UUID


def request_id_table(metadata: MetaData) -> Table:
    """Describes the table of kept answers for a service's `tables.py`."""
    return Table(
        REQUEST_IDS,
        metadata,
        Column("tenant_id", Uuid, nullable=False),
        Column("method", Text, nullable=False),
        Column("request_id", Uuid, nullable=False),
        Column("body_hash", LargeBinary, nullable=False),
        # Null only inside the transaction that does the work.
        Column("answer", LargeBinary),
        Column("expire_time", DateTime(timezone=True), nullable=False, index=True),
        PrimaryKeyConstraint("tenant_id", "method", "request_id", name="pk_request_id"),
    )


def create_request_ids(op: "Operations") -> None:
    """Makes the table in a migration."""
    op.execute(
        "CREATE TABLE request_id (tenant_id uuid NOT NULL, method text NOT NULL, request_id uuid NOT NULL,"
        " body_hash bytea NOT NULL, answer bytea, expire_time timestamptz NOT NULL,"
        " CONSTRAINT pk_request_id PRIMARY KEY (tenant_id, method, request_id))"
    )
    op.execute("CREATE INDEX ix_request_id_expire_time ON request_id (expire_time)")
    tenant_table(op, REQUEST_IDS, app=("SELECT", "INSERT", "UPDATE"), maintenance=("SELECT", "DELETE"))


#: The lock keeps a second caller from waiting for the first: it is told at once, and asks again.
_CLAIM: Final = """
    WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS mine),
    claimed AS (
        INSERT INTO request_id AS kept (tenant_id, method, request_id, body_hash, answer, expire_time)
        SELECT $2::uuid, $3::text, $4::uuid, $5::bytea, NULL, now() + $6::interval FROM turn WHERE mine
        ON CONFLICT ON CONSTRAINT pk_request_id DO UPDATE
           SET body_hash = EXCLUDED.body_hash, answer = NULL, expire_time = EXCLUDED.expire_time
         WHERE kept.expire_time <= now()
        RETURNING true)
    SELECT mine, EXISTS (SELECT FROM claimed) AS claimed FROM turn"""
_FIND: Final = """
    SELECT body_hash, answer FROM request_id WHERE tenant_id = $1 AND method = $2 AND request_id = $3"""
_KEEP: Final = """
    UPDATE request_id SET answer = $4 WHERE tenant_id = $1 AND method = $2 AND request_id = $3"""
_EXPIRE: Final = text("""
    DELETE FROM request_id
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM request_id WHERE expire_time <= now() LIMIT :most))""")


async def claim(scope: Scope | DriverScope, key: RequestKey, body: bytes) -> bytes | None:
    """Claims a request id in the transaction that will do the work, before the work.

    Args:
        body: the request, serialised deterministically, without what may differ between repeats.
    Returns: None if the work is to be done (then `keep` its answer), else the first answer.
    Raises: RequestIdReused: the id came before with another body. RequestInProgress: the first with this id is at work.
    Concurrency: nobody waits; whoever comes second while the first is at work is refused.
    """
    names = (key.tenant, key.method, key.request_id)
    digest = sha256(body).digest()
    found = await _row(scope, _CLAIM, (lock_of(key), *names, digest, RETENTION))
    if found is None or not found[0]:
        raise RequestInProgress(key.request_id)
    if found[1]:
        return None
    row = await _row(scope, _FIND, names)
    if row is None:
        # It expired and was swept between the two statements.
        raise RequestInProgress(key.request_id)
    if row[0] != digest:
        raise RequestIdReused(str(key.request_id))
    if row[1] is None:
        raise Internal("a claimed request id was committed without its answer", method=key.method)
    return bytes(row[1])


async def keep(scope: Scope | DriverScope, key: RequestKey, answer: bytes) -> None:
    """Keeps the answer of claimed work, in the same transaction."""
    names = (key.tenant, key.method, key.request_id)
    if isinstance(scope, DriverScope):
        await scope.driver.execute(_KEEP, *names, answer)
    else:
        await scope.exec_driver_sql(_KEEP, (*names, answer))


async def _row(scope: Scope | DriverScope, statement: str, values: tuple[object, ...]) -> Sequence[Any] | None:
    if isinstance(scope, DriverScope):
        return cast("Sequence[Any] | None", await scope.driver.fetchrow(statement, *values))
    return (await scope.exec_driver_sql(statement, values)).first()


def lock_of(key: RequestKey) -> int:
    """The lock of a request at work: 64 bits of a hash, so that two requests share one by a chance of nearly nought."""
    name = b"\0".join((key.tenant.bytes, key.method.encode(), key.request_id.bytes))
    return int.from_bytes(sha256(b"comitia.request_id" + name).digest()[:8], "big", signed=True)


async def forget_expired(connection: AsyncConnection, *, most: int = 10_000) -> int:
    """Deletes answers past their time, in a maintenance scope; returns how many. Call again while it equals `most`."""
    return (await connection.execute(_EXPIRE, {"most": most})).rowcount


class ForgetRequests:
    """Forgets answers past their time, every quarter of an hour. A `Background` of every service with the table.

    Args:
        engine: of the `maintenance` role.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def __call__(self) -> None:
        """Forgets until cancelled."""
        while True:
            try:
                while await self.sweep() == _AT_ONCE:
                    pass
            except MeshError as error:
                log.warning("kept answers are not forgotten right now", error=error.message)
            await self._clock.sleep(SWEEP_SECONDS)

    async def sweep(self) -> int:
        """Forgets some; returns how many."""
        async with maintenance_scope(self._engine) as scope:
            count = await forget_expired(scope, most=_AT_ONCE)
            await scope.commit()
        return count
