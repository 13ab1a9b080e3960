"""The tables of the loop, and its commit: one call of one function, whatever the tick holds."""

from typing import Any

import asyncpg
from messages import SHARDS, Features

OWN_TENANTS = "tenant_id IN (SELECT unnest(current_setting('app.tenants')::uuid[]))"
#: First key of the advisory locks of shards.
LOCKS = 4711
ARGUMENTS = (
    "text",  # 1 tenants of the tick
    "smallint[]",  # 2 shards of the tick, and
    "bigint[]",  # 3 their epochs
    "uuid[]",  # 4 journal: tenant
    "uuid[]",  # 5 run
    "bigint[]",  # 6 first sequence
    "smallint[]",  # 7 count of entries
    "bytea[]",  # 8 payload
    "bytea[]",  # 9 commitments
    "uuid[]",  # 10 runs that start: tenant
    "uuid[]",  # 11 run
    "smallint[]",  # 12 shard
    "uuid[]",  # 13 runs that end
    "bigint[]",  # 14 last sequence
)
CALL = f"SELECT commit_tick({', '.join(f'${place}' for place in range(1, len(ARGUMENTS) + 1))})"
LOST = """
    SELECT array_agg(mine.shard) INTO lost FROM unnest($2, $3) AS mine (shard, epoch)
        WHERE NOT EXISTS (SELECT FROM shard WHERE shard.shard = mine.shard AND shard.epoch = mine.epoch);
    IF lost IS NOT NULL THEN RETURN lost; END IF;"""
ROW_LOCK = "PERFORM FROM shard WHERE shard = ANY($2) ORDER BY shard FOR {};" + LOST
FENCES = {
    "none": "",
    "share": ROW_LOCK.format("SHARE"),
    "key_share": ROW_LOCK.format("KEY SHARE"),
    "advisory": f"PERFORM pg_advisory_xact_lock_shared({LOCKS}, shard) FROM unnest($2) AS shard;" + LOST,
}
INSERT_JOURNAL = """
    INSERT INTO journal (tenant_id, run_id, first_sequence, entry_count, payload, commitments)
        SELECT * FROM unnest($4, $5, $6, $7, $8, $9);"""
RUN_ROWS = {
    "none": "",
    "ends": """
    IF cardinality($10) > 0 THEN
        INSERT INTO run (tenant_id, run_id, shard) SELECT * FROM unnest($10, $11, $12);
    END IF;
    IF cardinality($13) > 0 THEN
        UPDATE run SET state = 5, last_sequence = ended.last_sequence
            FROM unnest($13, $14) AS ended (run_id, last_sequence) WHERE run.run_id = ended.run_id;
    END IF;""",
}
RUN_ROWS["every_tick"] = (
    RUN_ROWS["ends"]
    + """
    UPDATE run SET last_sequence = moved.first_sequence + moved.entries - 1
        FROM unnest($5, $6, $7) AS moved (run_id, first_sequence, entries) WHERE run.run_id = moved.run_id;"""
)


def function(features: Features) -> str:
    """The commit as a function of the invoker; gives the shards that were lost, else null."""
    sleep = f"PERFORM pg_sleep({features.delay_ms / 1000});" if features.delay_ms else ""
    return f"""
        CREATE FUNCTION commit_tick({", ".join(ARGUMENTS)}) RETURNS smallint[] LANGUAGE plpgsql AS $commit$
        #variable_conflict use_column
        DECLARE lost smallint[];
        BEGIN
        PERFORM set_config('app.tenants', $1, true);
        {FENCES[features.fence]}
        {sleep}
        {INSERT_JOURNAL}
        {RUN_ROWS[features.run_row]}
        RETURN NULL;
        END $commit$"""


async def create(admin: asyncpg.Connection, features: Features) -> None:
    """Makes the tables anew, empty, with the commit that the features ask for."""
    await admin.execute(f"""
        DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO engine;
        CREATE TABLE shard (shard smallint PRIMARY KEY, epoch bigint NOT NULL) WITH (fillfactor = 50);
        INSERT INTO shard SELECT n, 1 FROM generate_series(0, {SHARDS - 1}) AS n;
        CREATE TABLE run (
            tenant_id uuid NOT NULL, run_id uuid NOT NULL PRIMARY KEY, shard smallint NOT NULL,
            state smallint NOT NULL DEFAULT 1, last_sequence bigint NOT NULL DEFAULT 0,
            create_time timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 80);
        CREATE TABLE journal (
            tenant_id uuid NOT NULL, run_id uuid NOT NULL, first_sequence bigint NOT NULL,
            entry_count smallint NOT NULL, payload bytea NOT NULL, commitments bytea NOT NULL,
            record_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (run_id, first_sequence))
            {"PARTITION BY RANGE (run_id)" if features.partitioned else ""};
        GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO engine;""")
    if features.partitioned:
        # As the migrations make them: ranges of version 7 ids, so of time, and a default that stays empty.
        await admin.execute("""
            CREATE TABLE journal_past PARTITION OF journal
                FOR VALUES FROM ('00000000-0000-0000-0000-000000000000') TO ('01000000-0000-0000-0000-000000000000');
            CREATE TABLE journal_now PARTITION OF journal
                FOR VALUES FROM ('01000000-0000-0000-0000-000000000000') TO ('02000000-0000-0000-0000-000000000000');
            CREATE TABLE journal_default PARTITION OF journal DEFAULT;""")
    if features.rls:
        for table in ("run", "journal"):
            await admin.execute(f"""
                ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
                ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
                CREATE POLICY tenants ON {table} TO engine USING ({OWN_TENANTS}) WITH CHECK ({OWN_TENANTS});""")
    await admin.execute(function(features))
    await admin.execute("CHECKPOINT")


async def check_books(admin: asyncpg.Connection, features: Features) -> None:
    """Every run's facts must be there without a gap, and as many as its row says."""
    gaps = await admin.fetchval("""
        SELECT count(*) FROM (SELECT sum(entry_count) AS entries, max(first_sequence + entry_count - 1) AS last
            FROM journal GROUP BY run_id) AS of_run WHERE entries <> last""")
    wrong = 0
    if features.run_row != "none":
        wrong = await admin.fetchval("""
            SELECT count(*) FROM run LEFT JOIN (SELECT run_id, sum(entry_count) AS entries FROM journal GROUP BY run_id)
                AS facts USING (run_id) WHERE state = 5 AND last_sequence IS DISTINCT FROM entries""")
    if gaps or wrong:
        raise SystemExit(f"the books are wrong: {gaps} runs with gaps, {wrong} with another end than their journal")


async def check_fence(admin: asyncpg.Connection, commit: Any, values: tuple[Any, ...]) -> None:
    """A tick that names an old epoch must be told the shard, and write nothing."""
    await admin.execute("UPDATE shard SET epoch = 2 WHERE shard = 3")
    lost = await commit.fetchval(values[0], [3, 4], [1, 1], *values[1:], [], [], [], [], [])
    if lost != [3] or await admin.fetchval("SELECT count(*) FROM journal"):
        raise SystemExit(f"the fence let a tick of a lost shard through: {lost}")


async def connect(url: str) -> tuple[asyncpg.Connection, Any]:
    """Opens a lane's own connection and prepares the commit on it. Its plans are made once, for any values."""
    connection = await asyncpg.connect(
        url, server_settings={"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
    )
    return connection, await connection.prepare(CALL)
