"""Answers kept per `request_id`, so that a repeated request gets the first answer instead of a second effect."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.meshkit.core.errors import Internal, RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.rls import tenant_table

if TYPE_CHECKING:
    # Only migrations have it at hand; a service does without its 9 MB.
    from alembic.operations import Operations

#: How long an answer is kept.
RETENTION: Final = timedelta(hours=24)
REQUEST_IDS: Final = "request_id"


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


_CLAIM: Final = text("""
    INSERT INTO request_id AS kept (tenant_id, method, request_id, body_hash, answer, expire_time)
    VALUES (:tenant, :method, :request_id, :body_hash, NULL, now() + CAST(:retention AS interval))
    ON CONFLICT ON CONSTRAINT pk_request_id DO UPDATE
       SET body_hash = EXCLUDED.body_hash, answer = NULL, expire_time = EXCLUDED.expire_time
     WHERE kept.expire_time <= now()
    RETURNING true""")
_FIND: Final = text("""
    SELECT body_hash, answer FROM request_id
    WHERE tenant_id = :tenant AND method = :method AND request_id = :request_id""")
_KEEP: Final = text("""
    UPDATE request_id SET answer = :answer
    WHERE tenant_id = :tenant AND method = :method AND request_id = :request_id""")
_EXPIRE: Final = text("""
    DELETE FROM request_id
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM request_id WHERE expire_time <= now() LIMIT :most))""")


async def claim(connection: AsyncConnection, key: RequestKey, body: bytes) -> bytes | None:
    """Claims a request id in the transaction that will do the work, before the work.

    Args:
        body: the request, serialised deterministically, without what may differ between repeats.
    Returns: None if the work is to be done (then `keep` its answer), else the first answer.
    Raises: RequestIdReused: the id came before with another body.
    Concurrency: a second caller with the same id waits until the first has committed or rolled back.
    """
    names = {"tenant": key.tenant, "method": key.method, "request_id": key.request_id}
    digest = sha256(body).digest()
    claimed = await connection.execute(_CLAIM, {**names, "body_hash": digest, "retention": RETENTION})
    if claimed.first() is not None:
        return None
    row = (await connection.execute(_FIND, names)).one()
    if row.body_hash != digest:
        raise RequestIdReused(str(key.request_id))
    if row.answer is None:
        raise Internal("a claimed request id was committed without its answer", method=key.method)
    return bytes(row.answer)


async def keep(connection: AsyncConnection, key: RequestKey, answer: bytes) -> None:
    """Keeps the answer of claimed work, in the same transaction."""
    await connection.execute(
        _KEEP, {"tenant": key.tenant, "method": key.method, "request_id": key.request_id, "answer": answer}
    )


async def forget_expired(connection: AsyncConnection, *, most: int = 10_000) -> int:
    """Deletes answers past their time, in a maintenance scope; returns how many. Call again while it equals `most`."""
    return (await connection.execute(_EXPIRE, {"most": most})).rowcount
