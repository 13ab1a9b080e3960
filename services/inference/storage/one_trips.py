"""What a call of a model writes while its caller waits, each a transaction of one round trip.

The first six arguments of most: tenant, run, path, attempt group, index, then a hash or a hold. Those that may meet
another's outcome give the row that stands, or nothing when they have written.
"""

from typing import Final

from services.meshkit.sql.one_trip import OneTrip

_KEY: Final = ("uuid", "text", "text", "integer", "integer")
_STANDING: Final = """TABLE (arguments_hash bytea, hold_id text, outcome bytea, usage_tokens bigint[],
    settle_state text, charged_nano_usd bigint)"""
_FIND: Final = """
    IF NOT FOUND THEN
        RETURN QUERY SELECT arguments_hash, hold_id, outcome, usage_tokens, settle_state, charged_nano_usd FROM call
        WHERE tenant_id = $1 AND run_id = $2 AND path = $3 AND attempt_group = $4 AND call_index = $5;
    END IF;"""

CLAIM_CALL: Final = OneTrip(
    name="claim_call",
    planned_once=True,
    arguments=(*_KEY, "bytea"),
    returns=_STANDING,
    body=f"""
    INSERT INTO call (tenant_id, run_id, path, attempt_group, call_index, arguments_hash)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO NOTHING;
    {_FIND}""",  # noqa: S608  # of constants only
)

RECORD_CALL: Final = OneTrip(
    name="record_call",
    planned_once=True,
    arguments=(*_KEY, "bytea", "text", "bytea", "boolean", "bigint[]", "text", "bigint", "bytea"),
    returns=_STANDING,
    body=f"""
    INSERT INTO call (tenant_id, run_id, path, attempt_group, call_index, arguments_hash,
        hold_id, outcome, unjudged, usage_tokens, settle_state, charged_nano_usd, token, recorded_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now())
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO UPDATE
    SET hold_id = EXCLUDED.hold_id, outcome = EXCLUDED.outcome, unjudged = EXCLUDED.unjudged,
        usage_tokens = EXCLUDED.usage_tokens, settle_state = EXCLUDED.settle_state,
        charged_nano_usd = EXCLUDED.charged_nano_usd, token = EXCLUDED.token, recorded_time = EXCLUDED.recorded_time
    WHERE call.hold_id IS NULL;
    {_FIND}""",  # noqa: S608  # of constants only
)

JUDGE_CALL: Final = OneTrip(
    name="judge_call",
    planned_once=True,
    arguments=(*_KEY, "text", "bytea"),
    returns=_STANDING,
    body=f"""
    UPDATE call SET outcome = $7, unjudged = false
    WHERE tenant_id = $1 AND run_id = $2 AND path = $3 AND attempt_group = $4 AND call_index = $5
        AND hold_id = $6 AND unjudged;
    {_FIND}""",  # noqa: S608  # of constants only
)

MARK_SETTLED: Final = OneTrip(
    name="mark_settled",
    arguments=("uuid[]", "text[]", "text[]", "integer[]", "integer[]", "text[]", "text[]", "bigint[]"),
    returns="void",
    body="""
    UPDATE call SET settle_state = done.state, charged_nano_usd = done.charged, token = NULL
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
        AS done (tenant, run, way, attempts, place, hold, state, charged)
    WHERE call.tenant_id = done.tenant AND call.run_id = done.run AND call.path = done.way
        AND call.attempt_group = done.attempts AND call.call_index = done.place
        AND call.hold_id = done.hold AND call.settle_state = 'pending';""",
)

ONE_TRIPS: Final = (CLAIM_CALL, RECORD_CALL, JUDGE_CALL, MARK_SETTLED)
