"""The hot transactions of memory, one round trip each. The migrator installs them."""

from typing import Final

from services.meshkit.sql.audit_store import AUDIT_PAGE
from services.meshkit.sql.one_trip import OneTrip

_TYPES: Final = {
    "tenant_id": "uuid",
    "memory_id": "uuid",
    "session_id": "uuid",
    "agent_name": "text",
    "tags": "text[]",
    "payload": "bytea",
    "verdict_id": "text",
    "create_time": "timestamptz",
    "expire_time": "timestamptz",
    "placement": "smallint",
    "request_digest": "bytea",
    "project": "text",
}
#: Columns of a memory, in every query that reads one.
COLUMNS: Final = ", ".join(_TYPES)
_MEMORIES: Final = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())
_NOTHING: Final = ", ".join(f"NULL::{kind}" for name, kind in _TYPES.items() if name != "tenant_id")
# The statements below are put together from constants of this module alone.
#: What there is of tenant `$1`.
THERE: Final = f"SELECT {COLUMNS} FROM memory WHERE tenant_id = $1 AND forget_time IS NULL"  # noqa: S608

#: Stores memories; gives those that calls among them had stored before, and without an id those that their tenants have
#: no room for, with the bytes that are used. Tenants with a quota are counted one after the other, in their order.
REMEMBER: Final = OneTrip(
    name="remember",
    planned_once=True,
    arguments=(
        "uuid[]",  # 1 tenants
        "uuid[]",  # 2 memories
        "uuid[]",  # 3 sessions
        "text[]",  # 4 agents
        "text[]",  # 5 tags, each a JSON list
        "bytea[]",  # 6 payloads
        "bytea[]",  # 7 call keys
        "bytea[]",  # 8 digests
        "text[]",  # 9 verdicts
        "timestamptz[]",  # 10 created
        "timestamptz[]",  # 11 expire
        "smallint[]",  # 12 placements
        "text[]",  # 13 projects
        "bigint[]",  # 14 most bytes of each one's tenant, 0 for no limit
    ),
    returns=f"TABLE ({_MEMORIES}, call_key bytea, used bigint)",
    # The second statement sees what another process committed while the first one waited for it.
    body=f"""
        DECLARE
            made uuid[];
            refused bigint[] := '{{}}';
        BEGIN
            IF 0 < ANY($14) THEN
                INSERT INTO storage_used (tenant_id, bytes)
                    SELECT DISTINCT tenant, 0 FROM unnest($1, $14) AS new (tenant, most) WHERE most > 0 ORDER BY tenant
                    ON CONFLICT DO NOTHING;
                PERFORM FROM storage_used WHERE tenant_id = ANY($1) ORDER BY tenant_id FOR UPDATE;
                SELECT coalesce(array_agg(place), '{{}}') INTO refused FROM (
                    SELECT place, most, stored.bytes
                        + sum(octet_length(payload)) OVER (PARTITION BY tenant ORDER BY place) AS bytes
                    FROM unnest($1, $6, $14) WITH ORDINALITY AS new (tenant, payload, most, place)
                    JOIN storage_used AS stored ON stored.tenant_id = tenant
                    WHERE most > 0) AS filling
                WHERE bytes > most;
            END IF;
            WITH stored AS (
                INSERT INTO memory (tenant_id, memory_id, session_id, agent_name, tags, payload, call_key,
                                    request_digest, verdict_id, create_time, expire_time, placement, project)
                SELECT tenant_id, memory_id, session_id, agent_name,
                       ARRAY(SELECT jsonb_array_elements_text(tags::jsonb)), payload, call_key, request_digest,
                       verdict_id, create_time, expire_time, placement, project
                FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) WITH ORDINALITY
                  AS new (tenant_id, memory_id, session_id, agent_name, tags, payload, call_key, request_digest,
                          verdict_id, create_time, expire_time, placement, project, place)
                WHERE place <> ALL(refused)
                ON CONFLICT ON CONSTRAINT uq_memory_call DO NOTHING
                RETURNING memory_id, tenant_id, octet_length(payload) AS bytes
            ), counted AS (
                INSERT INTO storage_used AS stored_before (tenant_id, bytes)
                SELECT tenant_id, sum(bytes) FROM stored GROUP BY tenant_id ORDER BY tenant_id
                ON CONFLICT (tenant_id) DO UPDATE SET bytes = stored_before.bytes + EXCLUDED.bytes
            )
            SELECT coalesce(array_agg(memory_id), '{{}}') INTO made FROM stored;
            IF cardinality(made) < cardinality($2) THEN
                FOR place IN 1 .. cardinality($2) LOOP
                    IF $2[place] <> ALL(made) THEN
                        RETURN QUERY SELECT {COLUMNS}, call_key, 0::bigint FROM memory
                            WHERE tenant_id = $1[place] AND call_key = $7[place];
                        IF NOT FOUND THEN
                            RETURN QUERY SELECT tenant_id, {_NOTHING}, $7[place], bytes FROM storage_used
                                WHERE tenant_id = $1[place];
                        END IF;
                    END IF;
                END LOOP;
            END IF;
        END;""",  # noqa: S608
)
#: Gives the latest turns of sessions `$2` of tenants `$1` at the times `$3`, at most `$4` of each and of projects `$5`
#: alone, newest first, with the place of their session.
RINGS: Final = OneTrip(
    name="rings",
    planned_once=True,
    arguments=("uuid[]", "uuid[]", "timestamptz[]", "int[]", "text[]"),
    returns=f"TABLE (place bigint, {_MEMORIES})",
    # Planned once, so each ring is read by its index on its own; ordered once more because nothing else promises it.
    body=f"""
        RETURN QUERY SELECT asked.place, ring.*
        FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY AS asked (tenant, session, moment, most, whose, place)
        CROSS JOIN LATERAL (
            SELECT {COLUMNS} FROM memory
            WHERE tenant_id = asked.tenant AND forget_time IS NULL AND session_id = asked.session
                AND expire_time > asked.moment AND project = asked.whose
            ORDER BY create_time DESC, memory_id DESC LIMIT asked.most
        ) AS ring
        ORDER BY asked.place, ring.create_time DESC, ring.memory_id DESC;""",  # noqa: S608
)
#: Gives those of some memories that are there, of project `$4` and, unless it is empty, of agent `$3`.
THOSE: Final = OneTrip(
    name="those",
    arguments=("uuid", "uuid[]", "text", "text"),
    returns=f"TABLE ({_MEMORIES})",
    body=f"RETURN QUERY {THERE} AND memory_id = ANY($2) AND project = $4 AND ($3 = '' OR agent_name = $3);",
)
#: Takes pending memories for the time of a lease.
CLAIM: Final = OneTrip(
    name="claim_pending",
    arguments=("uuid", "int", "interval", "text"),
    returns=f"TABLE ({_MEMORIES})",
    body=f"""
        RETURN QUERY UPDATE memory SET lease_until = now() + $3
        WHERE tenant_id = $1 AND memory_id = ANY(ARRAY(
            SELECT memory_id FROM memory
            WHERE tenant_id = $1 AND placement = 1 AND (lease_until IS NULL OR lease_until < now())
                AND ($4 IS NULL OR project = $4)
            ORDER BY memory_id LIMIT $2 FOR UPDATE SKIP LOCKED))
        RETURNING {COLUMNS};""",  # noqa: S608
)
#: Records vectors and how far they have come; gives those whose memory is still there.
RECORD: Final = OneTrip(
    name="record_vectors",
    arguments=("uuid", "uuid[]", "bytea[]", "text", "int", "smallint"),
    returns="TABLE (memory_id uuid)",
    body="""
        RETURN QUERY UPDATE memory
        SET vector = $3[array_position($2, memory_id)], embed_model = $4, embed_dimensions = $5, placement = $6,
            lease_until = NULL
        WHERE tenant_id = $1 AND memory_id = ANY($2) AND forget_time IS NULL
        RETURNING memory_id;""",
)

ONE_TRIPS: Final = (REMEMBER, RINGS, THOSE, CLAIM, RECORD, AUDIT_PAGE)
