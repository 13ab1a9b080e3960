"""The hot transactions of the gateway, one round trip each. The migrator installs them."""

from typing import Final

from services.meshkit.sql.audit_store import AUDIT_PAGE
from services.meshkit.sql.one_trip import OneTrip

#: Leases slices of token buckets, by the time of the database. A bucket that is not there is full. Buckets are locked
#: in the order of their names, whoever asks. `AS MATERIALIZED` reads the clock once a bucket, behind its lock.
LEASE_RATE: Final = OneTrip(
    name="lease_rate",
    planned_once=True,
    arguments=(
        "text[]",  # 1 buckets, each once
        "double precision[]",  # 2 tokens per second
        "double precision[]",  # 3 most tokens
        "integer[]",  # 4 tokens asked
        "integer[]",  # 5 tokens spent ahead
        "integer[]",  # 6 tokens handed back
    ),
    returns="TABLE (bucket text, granted integer, tokens double precision)",
    body="""
        RETURN QUERY INSERT INTO rate_bucket AS kept
            (bucket, per_second, burst, asked, spent, unused, granted, tokens, refill_time)
        SELECT item.bucket, per_second, burst, asked, spent, unused, given, burst - spent - given, clock_timestamp()
        FROM unnest($1, $2, $3, $4, $5, $6) AS item (bucket, per_second, burst, asked, spent, unused)
        CROSS JOIN LATERAL (SELECT greatest(0, least(asked, floor(burst - spent)))::integer) AS granting (given)
        ORDER BY item.bucket COLLATE "C"
        ON CONFLICT (bucket) DO UPDATE SET
            (per_second, burst, asked, spent, unused, granted, tokens, refill_time) = (
                WITH clock AS MATERIALIZED (
                    SELECT greatest(kept.refill_time, clock_timestamp()) AS now
                ), filled AS MATERIALIZED (
                    SELECT now, least(EXCLUDED.burst, kept.tokens + EXCLUDED.unused
                        + EXCLUDED.per_second * extract(epoch FROM now - kept.refill_time)) - EXCLUDED.spent AS level
                    FROM clock
                ), granting AS MATERIALIZED (
                    SELECT greatest(0, least(EXCLUDED.asked, floor(level)))::integer AS given FROM filled
                )
                SELECT EXCLUDED.per_second, EXCLUDED.burst, EXCLUDED.asked, EXCLUDED.spent, EXCLUDED.unused,
                       given, level - given, now
                FROM filled CROSS JOIN granting
            )
        RETURNING kept.bucket, kept.granted, kept.tokens;""",
)
#: Forgets buckets that are full, for those are as good as none; gives how many. Waits for no lease.
FORGET_FULL_BUCKETS: Final = OneTrip(
    name="forget_full_buckets",
    arguments=("integer",),
    returns="TABLE (forgotten bigint)",
    body="""
        RETURN QUERY WITH full_ones AS (
            SELECT bucket FROM rate_bucket
            WHERE clock_timestamp() > refill_time + make_interval(secs => least(86400, (burst - tokens) / per_second))
            LIMIT $1 FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM rate_bucket USING full_ones WHERE rate_bucket.bucket = full_ones.bucket RETURNING 1
        ) SELECT count(*) FROM gone;""",
)

#: Finds an API key of whatever tenant, and where its tenant is in its life. The edge waits for it. A key that does
#: not exist gives a row too, found and read by the same steps, so that the time does not tell; its `id` is NULL.
FIND_API_KEY: Final = OneTrip(
    name="find_api_key",
    planned_once=True,
    arguments=("uuid",),
    returns="""TABLE (
        id uuid, tenant_id uuid, display_name text, roles text[], project text, scopes text[], service_account_id uuid,
        salt bytea, digest bytea, previous_salt bytea, previous_digest bytea, previous_expire_time timestamptz,
        create_time timestamptz, expire_time timestamptz, revoke_time timestamptz, rotate_time timestamptz,
        last_use_time timestamptz, tenant_state text)""",
    body="""
        RETURN QUERY SELECT id, api_key.tenant_id, display_name, coalesce(roles, '{}'), project, scopes,
            service_account_id, salt, digest, previous_salt, previous_digest, previous_expire_time,
            api_key.create_time, expire_time, revoke_time, rotate_time, last_use_time,
            coalesce(tenant.state, 'active')
        FROM (SELECT $1 AS wanted) AS asked
            LEFT JOIN api_key ON id = wanted
            LEFT JOIN tenant ON tenant.tenant_id = coalesce(api_key.tenant_id, wanted);""",
)

#: Stores a grant; gives its id, or that of the grant which the run has already.
ADD_GRANT: Final = OneTrip(
    name="add_grant",
    planned_once=True,
    arguments=(
        "uuid",  # 1 grant
        "uuid",  # 2 tenant
        "uuid",  # 3 run
        "uuid",  # 4 API key or null
        "text",  # 5 subject
        "text[]",  # 6 roles
        "text",  # 7 project or null
        "text[]",  # 8 scopes or null
        "timestamptz",  # 9 time
    ),
    returns="TABLE (id uuid)",
    body="""
        RETURN QUERY INSERT INTO run_grant AS kept
            (id, tenant_id, run_id, api_key_id, subject, roles, project, scopes, create_time)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        -- An update without effect, so that the row which stands comes back.
        ON CONFLICT (tenant_id, run_id) DO UPDATE SET run_id = EXCLUDED.run_id
        RETURNING kept.id;""",
)
#: Finds a grant of whatever tenant, the API key that it stands on, if it does, and where its tenant is in its life.
FIND_GRANT: Final = OneTrip(
    name="find_grant",
    planned_once=True,
    arguments=("uuid",),
    returns="""TABLE (
        id uuid, tenant_id uuid, run_id uuid, api_key_id uuid, subject text, roles text[], project text, scopes text[],
        create_time timestamptz, revoke_time timestamptz, tenant_state text,
        key_roles text[], key_expire_time timestamptz, key_revoke_time timestamptz, key_secret_time timestamptz)""",
    body="""
        RETURN QUERY SELECT kept.id, kept.tenant_id, kept.run_id, kept.api_key_id, kept.subject, kept.roles,
            kept.project, kept.scopes, kept.create_time, kept.revoke_time, tenant.state,
            key.roles, key.expire_time, key.revoke_time, coalesce(key.rotate_time, key.create_time)
        FROM run_grant AS kept
            LEFT JOIN api_key AS key ON key.tenant_id = kept.tenant_id AND key.id = kept.api_key_id
            LEFT JOIN tenant ON tenant.tenant_id = kept.tenant_id
        WHERE kept.id = $1;""",
)

#: What changed behind a version that services have to know, in order. Asked for four times a second.
GUARD_CHANGES: Final = OneTrip(
    name="guard_changes",
    planned_once=True,
    arguments=("bigint", "integer"),
    returns="TABLE (version bigint, noun text, about text, changed_tenant uuid)",
    body="""
        RETURN QUERY SELECT version, noun, about, changed_tenant FROM guard_change
        WHERE version > $1 ORDER BY version LIMIT $2;""",
)

ONE_TRIPS: Final = (LEASE_RATE, FORGET_FULL_BUCKETS, FIND_API_KEY, ADD_GRANT, FIND_GRANT, GUARD_CHANGES, AUDIT_PAGE)
