"""What a call of a model writes while its caller waits, and what is asked all the time: one round trip each.

Calls are claimed and recorded many at a time: one array per column, the first five of them tenant, run, path, attempt
group and index. What stands in the way of some comes with their places; nothing comes when all is written.
"""

from typing import Final

from services.meshkit.sql.audit_store import AUDIT_PAGE
from services.meshkit.sql.one_trip import OneTrip

_KEY: Final = ("uuid", "text", "text", "integer", "integer")
_KEYS: Final = tuple(f"{kind}[]" for kind in _KEY)
_STANDS: Final = {
    "arguments_hash": "bytea",
    "hold_id": "text",
    "outcome": "bytea",
    "usage_tokens": "bigint[]",
    "settle_state": "text",
    "charged_nano_usd": "bigint",
    "attempts": "integer",
    "replica": "text",
}
_COLUMNS: Final = ", ".join(_STANDS)
_STANDING: Final = f"TABLE ({', '.join(f'{name} {kind}' for name, kind in _STANDS.items())})"
_STANDING_IN_PLACES: Final = f"{_STANDING[:-1]}, place bigint)"
_FIND: Final = f"""
    IF NOT FOUND THEN
        RETURN QUERY SELECT {_COLUMNS} FROM call
        WHERE tenant_id = $1 AND run_id = $2 AND path = $3 AND attempt_group = $4 AND call_index = $5;
    END IF;"""  # noqa: S608  # of constants only
#: What stands, when fewer rows were written than were given. LATERAL and OFFSET 0: each is looked up by its key,
#: however small the table was when this was planned.
_STANDING_ROWS: Final = f"""
        RETURN QUERY SELECT stands.*, asked.place
        FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY AS asked (tenant, run, way, attempts, number, place)
        CROSS JOIN LATERAL (
            SELECT {_COLUMNS} FROM call
            WHERE tenant_id = asked.tenant AND run_id = asked.run AND path = asked.way
                AND attempt_group = asked.attempts AND call_index = asked.number
            OFFSET 0
        ) AS stands;"""  # noqa: S608  # of constants only
_FIND_ALL: Final = f"""
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written < cardinality($1) THEN
        {_STANDING_ROWS}
    END IF;"""

#: The statements behind the first see what another process committed while that one waited for it. Calls that were
#: claimed before are begun anew, once more if they were lost; the time tells them from those written just now. Those
#: that another replica makes stay with it until its time is up: they come with its name.
CLAIM_CALLS: Final = OneTrip(
    name="claim_calls",
    planned_once=True,
    arguments=(*_KEYS, "bytea[]", "text[]", "double precision[]"),
    returns=_STANDING_IN_PLACES,
    body=f"""
    DECLARE
        written bigint;
    BEGIN
    INSERT INTO call (tenant_id, run_id, path, attempt_group, call_index, arguments_hash, replica, claim_until)
    SELECT tenant, run, way, tries, number, hash, claimer, now() + make_interval(secs => seconds)
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) AS new (tenant, run, way, tries, number, hash, claimer, seconds)
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO NOTHING;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written < cardinality($1) THEN
        UPDATE call SET attempts = call.attempts + (call.replica IS NOT NULL)::integer, replica = asked.claimer,
            claim_until = now() + make_interval(secs => asked.seconds)
        FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) AS asked (tenant, run, way, tries, number, hash, claimer, seconds)
        WHERE call.tenant_id = asked.tenant AND call.run_id = asked.run AND call.path = asked.way
            AND call.attempt_group = asked.tries AND call.call_index = asked.number
            AND call.arguments_hash = asked.hash AND call.hold_id IS NULL AND call.created_time < now()
            AND (call.replica IS NULL OR call.replica = asked.claimer OR call.claim_until IS NULL
                OR call.claim_until <= now());
        {_STANDING_ROWS}
    END IF;
    END;""",  # noqa: S608  # of constants only
)

GIVE_BACK: Final = OneTrip(
    name="give_back_call",
    planned_once=True,
    arguments=(*_KEY, "text"),
    returns="void",
    body="""
    UPDATE call SET replica = NULL
    WHERE tenant_id = $1 AND run_id = $2 AND path = $3 AND attempt_group = $4 AND call_index = $5
        AND hold_id IS NULL AND replica = $6;""",
)

#: For another so many seconds; 0 frees them.
EXTEND_CLAIMS: Final = OneTrip(
    name="extend_claims",
    arguments=(*_KEYS, "text", "double precision"),
    returns="void",
    body="""
    UPDATE call SET claim_until = now() + make_interval(secs => $7)
    FROM unnest($1, $2, $3, $4, $5) AS held (tenant, run, way, tries, number)
    WHERE call.tenant_id = held.tenant AND call.run_id = held.run AND call.path = held.way
        AND call.attempt_group = held.tries AND call.call_index = held.number
        AND call.hold_id IS NULL AND call.replica = $6;""",
)

#: Token counts travel as literals: an array of arrays would be flattened.
RECORD_CALLS: Final = OneTrip(
    name="record_calls",
    planned_once=True,
    arguments=(*_KEYS, "bytea[]", "text[]", "bytea[]", "boolean[]", "text[]", "text[]", "bigint[]", "bytea[]"),
    returns=_STANDING_IN_PLACES,
    body=f"""
    DECLARE
        written bigint;
    BEGIN
    INSERT INTO call (tenant_id, run_id, path, attempt_group, call_index, arguments_hash,
        hold_id, outcome, unjudged, usage_tokens, settle_state, charged_nano_usd, token, recorded_time)
    SELECT tenant, run, way, attempts, number, hash, hold, answer, unseen, CAST(used AS bigint[]), state, charged,
        bearer, now()
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        AS new (tenant, run, way, attempts, number, hash, hold, answer, unseen, used, state, charged, bearer)
    ON CONFLICT (tenant_id, run_id, path, attempt_group, call_index) DO UPDATE
    SET hold_id = EXCLUDED.hold_id, outcome = EXCLUDED.outcome, unjudged = EXCLUDED.unjudged,
        usage_tokens = EXCLUDED.usage_tokens, settle_state = EXCLUDED.settle_state,
        charged_nano_usd = EXCLUDED.charged_nano_usd, token = EXCLUDED.token, recorded_time = EXCLUDED.recorded_time
    WHERE call.hold_id IS NULL;
    {_FIND_ALL}
    END;""",  # noqa: S608  # of constants only
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

ACKNOWLEDGE_CALLS: Final = OneTrip(
    name="acknowledge_calls",
    arguments=_KEYS,
    returns="void",
    body="""
    UPDATE call SET acknowledged_time = now()
    FROM unnest($1, $2, $3, $4, $5) AS known (tenant, run, way, tries, number)
    WHERE call.tenant_id = known.tenant AND call.run_id = known.run AND call.path = known.way
        AND call.attempt_group = known.tries AND call.call_index = known.number
        AND call.acknowledged_time IS NULL;""",
)

#: The number of the last change of models, routes and rollouts. Every replica asks several times a second.
NEWEST_CHANGE: Final = OneTrip(
    name="newest_change",
    planned_once=True,
    arguments=(),
    returns="bigint",
    body="RETURN (SELECT version FROM registry_version);",
)

ONE_TRIPS: Final = (
    CLAIM_CALLS,
    GIVE_BACK,
    EXTEND_CLAIMS,
    RECORD_CALLS,
    JUDGE_CALL,
    MARK_SETTLED,
    ACKNOWLEDGE_CALLS,
    NEWEST_CHANGE,
    AUDIT_PAGE,
)
