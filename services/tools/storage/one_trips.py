"""What a call of a tool reads and writes while its caller waits, each a transaction of one round trip.

The first five arguments of most: tenant, run, path, attempt group, index. Those that may meet another's outcome give
the row that stands, or nothing when they have written.
"""

from typing import Final

from services.meshkit.sql.audit_store import AUDIT_PAGE
from services.meshkit.sql.one_trip import OneTrip

_KEY: Final = ("uuid", "text", "text", "integer", "integer")
_STANDING: Final = """TABLE (arguments_hash bytea, tool text, hold_id text, outcome bytea, settle_state text,
    charged_nano_usd bigint)"""
_FIND: Final = """
    RETURN QUERY SELECT arguments_hash, tool, hold_id, outcome, settle_state, charged_nano_usd FROM invocation
    WHERE tenant_id = $1 AND run_id = $2 AND path = $3 AND attempt_group = $4 AND call_index = $5;"""
_FIND_IF_NOT_WRITTEN: Final = f"IF NOT FOUND THEN {_FIND} END IF;"

#: Finds versions of tools, the highest one where none is asked for. Each is one step down the primary key.
FIND_TOOLS: Final = OneTrip(
    name="find_tools",
    planned_once=True,
    arguments=(
        "uuid",  # 1 tenant
        "text[]",  # 2 names
        "integer[]",  # 3 versions, or nulls: major,
        "integer[]",  # 4 minor,
        "integer[]",  # 5 patch
    ),
    returns="TABLE (tool_id uuid, definition bytea, create_time timestamptz)",
    body="""
    RETURN QUERY SELECT found.tool_id, found.definition, found.create_time
    FROM unnest($2, $3, $4, $5) AS asked (name, major, minor, patch)
    CROSS JOIN LATERAL (
        SELECT * FROM tool WHERE tenant_id = $1 AND tool.name = asked.name
            AND (tool.major, tool.minor, tool.patch)
                <= (coalesce(asked.major, 2147483647), coalesce(asked.minor, 0), coalesce(asked.patch, 0))
        ORDER BY tool.major DESC, tool.minor DESC, tool.patch DESC LIMIT 1
    ) AS found
    WHERE asked.major IS NULL
        OR (found.major, found.minor, found.patch) = (asked.major, asked.minor, asked.patch);""",
)

FIND_INVOCATION: Final = OneTrip(
    name="find_invocation", planned_once=True, arguments=_KEY, returns=_STANDING, body=_FIND
)

BEGIN_INVOCATION: Final = OneTrip(
    name="begin_invocation",
    planned_once=True,
    arguments=(*_KEY, "bytea", "text", "text"),
    returns=_STANDING,
    body=f"""
    INSERT INTO invocation (tenant_id, run_id, path, attempt_group, call_index, arguments_hash, tool, hold_id, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'dispatched')
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO UPDATE
    SET hold_id = EXCLUDED.hold_id, tool = EXCLUDED.tool
    WHERE invocation.outcome IS NULL AND invocation.arguments_hash = EXCLUDED.arguments_hash;
    {_FIND_IF_NOT_WRITTEN}""",  # noqa: S608  # of constants only
)

RECORD_INVOCATION: Final = OneTrip(
    name="record_invocation",
    planned_once=True,
    arguments=(*_KEY, "bytea", "text", "text", "text", "bytea", "text", "bytea"),
    returns=_STANDING,
    body=f"""
    INSERT INTO invocation (tenant_id, run_id, path, attempt_group, call_index, arguments_hash,
        tool, hold_id, state, outcome, settle_state, token, record_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now())
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO UPDATE
    SET tool = EXCLUDED.tool, hold_id = EXCLUDED.hold_id, state = EXCLUDED.state, outcome = EXCLUDED.outcome,
        settle_state = EXCLUDED.settle_state, token = EXCLUDED.token, record_time = EXCLUDED.record_time
    WHERE invocation.outcome IS NULL AND invocation.arguments_hash = EXCLUDED.arguments_hash;
    {_FIND_IF_NOT_WRITTEN}""",  # noqa: S608  # of constants only
)

MARK_SETTLED: Final = OneTrip(
    name="mark_settled",
    arguments=("uuid[]", "text[]", "text[]", "integer[]", "integer[]", "text[]", "text[]", "bigint[]"),
    returns="void",
    body="""
    UPDATE invocation SET settle_state = done.state, charged_nano_usd = done.charged, token = NULL
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
        AS done (tenant, run, way, attempts, place, hold, state, charged)
    WHERE invocation.tenant_id = done.tenant AND invocation.run_id = done.run AND invocation.path = done.way
        AND invocation.attempt_group = done.attempts AND invocation.call_index = done.place
        AND invocation.hold_id = done.hold AND invocation.settle_state = 'pending';""",
)

ONE_TRIPS: Final = (FIND_TOOLS, FIND_INVOCATION, BEGIN_INVOCATION, RECORD_INVOCATION, MARK_SETTLED, AUDIT_PAGE)
