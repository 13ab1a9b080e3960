"""Partitions of the journal by month, made ahead of time and dropped when they are empty, in place of quarters.

Only the owner of a table can do that, so two functions do it on behalf of role `maintenance`, and nothing else.
"""

from alembic.operations import Operations

from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.rls import database_of
from services.meshkit.sql.roles import roles_of

revision = "0009"
down_revision = "0008"

#: The quarters that 0001 made.
_FIRST_YEAR, _LAST_YEAR = 2026, 2028
_MONTHS_AHEAD = 3
#: Replicas take turns.
_TURN = 1919249003

#: The lowest UUIDv7 of a moment (UTC).
_FIRST_ID = """
CREATE FUNCTION journal_first_id(moment timestamp) RETURNS uuid LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog AS $body$
    SELECT (substr(encode(int8send((extract(epoch FROM moment) * 1000)::bigint), 'hex'), 5) || repeat('0', 20))::uuid
$body$"""

_MAKE = f"""
CREATE FUNCTION make_journal_months(ahead integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '2s' AS $body$
DECLARE
    month timestamp; partition text; low uuid; high uuid; made integer := 0;
    this_month CONSTANT timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
BEGIN
    IF NOT pg_try_advisory_xact_lock({_TURN}) THEN RETURN 0; END IF;
    FOR month IN SELECT generate_series(this_month, this_month + ahead * interval '1 month', interval '1 month') LOOP
        partition := to_char(month, '"journal_"YYYY"m"MM');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL
            OR to_regclass(to_char(month, '"journal_"YYYY"q"Q')) IS NOT NULL;
        low := journal_first_id(month);
        high := journal_first_id(month + interval '1 month');
        EXECUTE format('CREATE TABLE %I (LIKE journal INCLUDING DEFAULTS)', partition);
        -- What lies in the range lies in the default partition, and must not when this one joins.
        EXECUTE format('WITH early AS (DELETE FROM journal WHERE run_id >= $1 AND run_id < $2 RETURNING *)
            INSERT INTO %I SELECT * FROM early', partition) USING low, high;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', partition);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', partition);
        EXECUTE format('ALTER TABLE journal ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END $body$"""  # noqa: S608  # a constant of ours

#: A month or quarter that ended a month ago gets no rows any more: a run's rows lie where its id does. One that comes
#: nevertheless, from a clock that is wrong, goes to the default partition.
_DROP = f"""
CREATE FUNCTION drop_journal_months() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '1s' AS $body$
DECLARE
    partition text; named text[]; first timestamp; low uuid; high uuid; filled boolean; dropped integer := 0;
    this_month CONSTANT timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
BEGIN
    IF NOT pg_try_advisory_xact_lock({_TURN}) THEN RETURN 0; END IF;
    FOR partition IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'journal'::regclass LOOP
        named := regexp_match(partition, '^journal_(\\d{{4}})([mq])(\\d{{1,2}})$');
        CONTINUE WHEN named IS NULL;
        first := make_timestamp(named[1]::integer, CASE named[2] WHEN 'm' THEN named[3]::integer
            ELSE 3 * named[3]::integer - 2 END, 1, 0, 0, 0);
        low := journal_first_id(first);
        first := first + CASE named[2] WHEN 'm' THEN interval '1 month' ELSE interval '3 months' END;
        high := journal_first_id(first);
        CONTINUE WHEN first >= this_month;
        SELECT EXISTS (SELECT FROM journal WHERE run_id >= low AND run_id < high) INTO filled;
        CONTINUE WHEN filled;
        EXECUTE format('LOCK TABLE journal, %I IN ACCESS EXCLUSIVE MODE', partition);
        SELECT EXISTS (SELECT FROM journal WHERE run_id >= low AND run_id < high) INTO filled;
        CONTINUE WHEN filled;
        EXECUTE format('DROP TABLE %I', partition);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $body$"""  # noqa: S608  # a constant of ours

_DROP_EMPTY_QUARTERS = f"""
DO $body$
DECLARE first timestamp; filled boolean;
BEGIN
    FOR first IN SELECT generate_series(make_timestamp({_FIRST_YEAR}, 1, 1, 0, 0, 0),
            make_timestamp({_LAST_YEAR}, 10, 1, 0, 0, 0), interval '3 months') LOOP
        SELECT EXISTS (SELECT FROM journal WHERE run_id >= journal_first_id(first)
            AND run_id < journal_first_id(first + interval '3 months')) INTO filled;
        IF NOT filled THEN EXECUTE format('DROP TABLE %I', to_char(first, '"journal_"YYYY"q"Q')); END IF;
    END LOOP;
END $body$"""  # noqa: S608  # a constant of ours

_BACK_TO_QUARTERS = f"""
DO $body$
DECLARE first timestamp; partition text;
BEGIN
    CREATE TEMP TABLE moved (LIKE journal) ON COMMIT DROP;
    WITH gone AS (DELETE FROM journal WHERE tableoid IN (SELECT inhrelid FROM pg_inherits
            WHERE inhparent = 'journal'::regclass AND inhrelid::regclass::text !~ 'q\\d$') RETURNING *)
        INSERT INTO moved SELECT * FROM gone;
    FOR partition IN SELECT inhrelid::regclass::text FROM pg_inherits
            WHERE inhparent = 'journal'::regclass AND inhrelid::regclass::text ~ 'm\\d\\d$' LOOP
        EXECUTE format('DROP TABLE %I', partition);
    END LOOP;
    FOR first IN SELECT generate_series(make_timestamp({_FIRST_YEAR}, 1, 1, 0, 0, 0),
            make_timestamp({_LAST_YEAR}, 10, 1, 0, 0, 0), interval '3 months') LOOP
        partition := to_char(first, '"journal_"YYYY"q"Q');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I PARTITION OF journal FOR VALUES FROM (%L) TO (%L)', partition,
            journal_first_id(first), journal_first_id(first + interval '3 months'));
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', partition);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', partition);
    END LOOP;
    INSERT INTO journal SELECT * FROM moved;
END $body$"""  # noqa: S608  # a constant of ours


def upgrade(op: Operations) -> None:
    """Makes the functions, and months where nothing lies yet. A quarter with rows stays as it is until it is empty."""
    maintenance = quoted(roles_of(database_of(op)).maintenance)
    for statement in (_FIRST_ID, _MAKE, _DROP, _DROP_EMPTY_QUARTERS):
        op.execute(statement)
    op.execute(f"SELECT make_journal_months({_MONTHS_AHEAD})")  # a constant of ours
    for function in ("make_journal_months(integer)", "drop_journal_months()"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {maintenance}")


def downgrade(op: Operations) -> None:
    """Goes back to quarters, with all rows."""
    op.execute(_BACK_TO_QUARTERS)
    for function in ("drop_journal_months()", "make_journal_months(integer)", "journal_first_id(timestamp)"):
        op.execute(f"DROP FUNCTION {function}")
