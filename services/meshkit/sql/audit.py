"""The audit entries of a service: written with each control-plane mutation, in its transaction.

Places are given by the database. A trigger takes the next position of one of 32 streams and holds that stream until the
transaction ends: what a stream shows is always a prefix without gaps, in the order of the commits, and 32 transactions
commit at once. Requests may add entries and do nothing else; not even a maintainer may delete a young one.
"""

import json
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.errors import Internal
from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of, run_together, tenant_table, untenanted_table
from services.meshkit.sql.roles import roles_of

if TYPE_CHECKING:
    # Only migrations have it at hand; a service does without its 9 MB.
    from alembic.operations import Operations

AUDIT_ENTRY: Final = "audit_entry"
AUDIT_STREAM: Final = "audit_stream"
#: So many transactions with entries commit at once.
STREAMS: Final = 32
#: An entry that the gateway has is kept this long all the same, so that it can be fetched again.
KEEP: Final = timedelta(days=7)


class AuditOutcome(IntEnum):
    """How a mutation ended, by its number in the contract."""

    SUCCEEDED = 1
    REFUSED = 2


def audit_entry_tables(metadata: MetaData) -> None:
    """Describes the tables for a service's `tables.py`."""
    Table(
        AUDIT_ENTRY,
        metadata,
        Column("stream", SmallInteger, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("record_time", DateTime(timezone=True), nullable=False),
        Column("tenant_id", Uuid, nullable=False),
        Column("actor", Text, nullable=False),
        Column("peer", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("method", Text, nullable=False),
        Column("target", Text, nullable=False),
        Column("outcome", SmallInteger, nullable=False),
        Column("reason", Text, nullable=False),
        Column("request_hash", LargeBinary, nullable=False),
        Column("request_id", Text, nullable=False),
        Column("correlation_id", Text, nullable=False),
        Column("source_address", Text, nullable=False),
        Column("details", JSONB, nullable=False),
        PrimaryKeyConstraint("stream", "position", name="pk_audit_entry"),
    )
    Table(
        AUDIT_STREAM,
        metadata,
        Column("stream", SmallInteger, primary_key=True, autoincrement=False),
        Column("position", BigInteger, nullable=False, server_default=text("0")),
    )


_TABLES: Final = f"""
CREATE TABLE audit_entry (
    stream smallint NOT NULL,
    position bigint NOT NULL,
    record_time timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    actor text NOT NULL,
    peer text NOT NULL,
    action text NOT NULL,
    method text NOT NULL,
    target text NOT NULL,
    outcome smallint NOT NULL CHECK (outcome IN (1, 2)),
    reason text NOT NULL,
    request_hash bytea NOT NULL,
    request_id text NOT NULL,
    correlation_id text NOT NULL,
    source_address text NOT NULL,
    details jsonb NOT NULL,
    CONSTRAINT pk_audit_entry PRIMARY KEY (stream, position)
);
CREATE TABLE audit_stream (
    stream smallint PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO audit_stream (stream) SELECT generate_series(0, {STREAMS - 1})
"""
# The first stream that is free is taken, so that a quiet service has few for the gateway to ask about; only when none
# is does the transaction wait. Plans are made once per connection: made anew at each entry they cost more than it.
_PLACE: Final = f"""
CREATE FUNCTION place_audit_entry() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $place$
BEGIN
    UPDATE public.audit_stream AS s SET position = s.position + 1
    WHERE s.stream = (SELECT f.stream FROM public.audit_stream AS f ORDER BY f.stream LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING s.stream, s.position, clock_timestamp() INTO NEW.stream, NEW.position, NEW.record_time;
    IF NOT FOUND THEN
        UPDATE public.audit_stream AS s SET position = s.position + 1
        WHERE s.stream = pg_backend_pid() % {STREAMS}
        RETURNING s.stream, s.position, clock_timestamp() INTO NEW.stream, NEW.position, NEW.record_time;
    END IF;
    RETURN NEW;
END
$place$"""  # noqa: S608  # a constant

_COLUMNS: Final = (
    "tenant_id, actor, peer, action, method, target, outcome, reason, request_hash, request_id, correlation_id, "
    "source_address, details"
)


def adding_given(entry: str) -> str:
    """Writes the statement of a function that adds the entry in one of its variables, JSON as bytes."""
    return f"""INSERT INTO public.audit_entry ({_COLUMNS})
    SELECT e.tenant_id, e.actor, e.peer, e.action, e.method, e.target, e.outcome, e.reason,
           decode(e.request_hash, 'hex'), e.request_id, e.correlation_id, e.source_address, e.details
    FROM jsonb_to_record(convert_from({entry}, 'UTF8')::jsonb) AS e (
        tenant_id uuid, actor text, peer text, action text, method text, target text, outcome smallint, reason text,
        request_hash text, request_id text, correlation_id text, source_address text, details jsonb)"""  # noqa: S608


# It travels in the text of the statement, in hexadecimal digits, which cannot quote.
_ADD: Final = f"""
CREATE FUNCTION add_audit_entry(entry bytea) RETURNS void LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $add$
BEGIN
    {adding_given("entry")};
END
$add$"""  # a constant


def create_audit(op: "Operations") -> None:
    """Makes the tables in a migration, with the trigger that gives entries their places."""
    run_together(op, _TABLES.split(";"))
    tenant_table(op, AUDIT_ENTRY, app=("INSERT",), maintenance=("SELECT", "DELETE"))
    untenanted_table(op, AUDIT_STREAM, reason="positions of streams that all tenants share", app=(), maintenance=())
    op.execute(_PLACE)
    op.execute(_ADD)
    roles = roles_of(database_of(op))
    op.execute("REVOKE ALL ON FUNCTION place_audit_entry(), add_audit_entry(bytea) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION add_audit_entry(bytea) TO {quoted(roles.app)}")
    op.execute(
        "CREATE TRIGGER place_audit_entry BEFORE INSERT ON audit_entry"
        " FOR EACH ROW EXECUTE FUNCTION place_audit_entry()"
    )
    op.execute(
        f"CREATE POLICY old_rows_go ON audit_entry AS RESTRICTIVE FOR DELETE TO {quoted(roles.maintenance)}"
        f" USING (record_time < now() - interval '{KEEP.days} days')"
    )


def drop_audit(op: "Operations") -> None:
    """Takes back `create_audit`."""
    op.execute("DROP TABLE audit_entry, audit_stream")
    op.execute("DROP FUNCTION place_audit_entry(), add_audit_entry(bytea)")


def adding(draft: AuditDraft, outcome: AuditOutcome, reason: str = "") -> str:
    """Writes the statement that adds an entry, without parameters, so that it can travel with another one.

    Raises: Internal: nobody is known to act.
    """
    return f"SELECT add_audit_entry('\\x{entry_of(draft, outcome, reason).hex()}')"


def entry_of(draft: AuditDraft, outcome: AuditOutcome, reason: str = "") -> bytes:
    """Writes an entry as `add_audit_entry` takes it. Raises: Internal: nobody is known to act."""
    if draft.tenant is None:
        raise Internal("an audited mutation was made without knowing who makes it", method=draft.method)
    entry = {
        "tenant_id": str(draft.tenant),
        "actor": draft.actor,
        "peer": draft.peer,
        "action": draft.action,
        "method": draft.method,
        "target": draft.target,
        "outcome": int(outcome),
        "reason": reason,
        "request_hash": draft.request_hash.hex(),
        "request_id": draft.request_id,
        "correlation_id": draft.correlation_id,
        "source_address": draft.source_address,
        "details": draft.details,
    }
    return json.dumps(entry).encode()
