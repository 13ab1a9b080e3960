"""The hot transactions of runs, one round trip each. The migrator installs them."""

from typing import Final

from services.meshkit.sql.audit_store import AUDIT_PAGE
from services.meshkit.sql.one_trip import OneTrip
from services.orchestrator.storage.advisory_locks import SHARD_LOCK
from services.orchestrator.storage.tables import PK_RUN

#: Adds facts and views of many runs. Gives the shards whose lease is lost, and then nothing is written (INV-2).
#: A run that is gone fails the commit: its tenant was erased. So does a command that is gone: it had its effect before.
COMMIT_TICK: Final = OneTrip(
    name="commit_tick",
    planned_once=True,
    arguments=(
        "smallint[]",  # 1 shards, ascending, and
        "bigint[]",  # 2 the epochs of their leases
        "uuid[]",  # 3 journal rows: run
        "bigint[]",  # 4 first sequence
        "int[]",  # 5 count of entries
        "bytea[]",  # 6 payload
        "bytea[]",  # 7 commitments
        "uuid[]",  # 8 views: run
        "smallint[]",  # 9 state
        "bytea[]",  # 10 view
        "bigint[]",  # 11 last sequence
        "timestamptz[]",  # 12 next moment
        "uuid[]",  # 13 turns: tenant
        "uuid[]",  # 14 run
        "int[]",  # 15 number of the turn
        "bigint[]",  # 16 where it lies
        "uuid[]",  # 17 commands that are done: run
        "uuid[]",  # 18 command
        "uuid[]",  # 19 facts in the object store: tenant
        "uuid[]",  # 20 run
        "bytea[]",  # 21 digest
        "bigint[]",  # 22 sequence
        "bigint[]",  # 23 bytes
        "uuid[]",  # 24 bytes that are added in all: tenant
        "bigint[]",  # 25 bytes
        "uuid[]",  # 26 commands to sub-runs: tenant
        "uuid[]",  # 27 run
        "uuid[]",  # 28 command
        "text[]",  # 29 kind
        "text[]",  # 30 parent
    ),
    returns="TABLE (lost smallint)",
    body=f"""
        DECLARE written bigint;
        BEGIN
        PERFORM pg_advisory_xact_lock_shared({SHARD_LOCK}, asked.number) FROM unnest($1) AS asked (number);
        RETURN QUERY SELECT asked.number FROM unnest($1, $2) AS asked (number, epoch)
            LEFT JOIN shard ON shard.shard = asked.number
            WHERE shard.epoch IS DISTINCT FROM asked.epoch OR (shard.lease_until > clock_timestamp()) IS NOT TRUE;
        IF FOUND THEN RETURN; END IF;
        INSERT INTO journal (tenant_id, run_id, first_sequence, entry_count, payload, commitments)
            SELECT run.tenant_id, added.run_id, added.first, added.entries, added.payload, added.commitments
            FROM unnest($3, $4, $5, $6, $7) AS added (run_id, first, entries, payload, commitments)
            JOIN run ON run.run_id = added.run_id;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written < cardinality($3) THEN
            RAISE EXCEPTION 'a run is gone' USING ERRCODE = 'foreign_key_violation';
        END IF;
        IF cardinality($8) > 0 THEN
            UPDATE run SET state = seen.state, view = seen.view, last_sequence = seen.last, wake_time = seen.wake
                FROM unnest($8, $9, $10, $11, $12) AS seen (run_id, state, view, last, wake)
                WHERE run.run_id = seen.run_id;
        END IF;
        IF cardinality($14) > 0 THEN
            INSERT INTO turn_place (tenant_id, run_id, turn, sequence)
                SELECT * FROM unnest($13, $14, $15, $16);
        END IF;
        IF cardinality($17) > 0 THEN
            DELETE FROM run_command USING unnest($17, $18) AS done (run_id, command_id)
                WHERE run_command.run_id = done.run_id AND run_command.command_id = done.command_id;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF written < cardinality($17) THEN
                RAISE EXCEPTION 'a command had its effect before' USING ERRCODE = 'foreign_key_violation';
            END IF;
        END IF;
        IF cardinality($20) > 0 THEN
            INSERT INTO journal_blob (tenant_id, run_id, digest, sequence, bytes)
                SELECT * FROM unnest($19, $20, $21, $22, $23);
        END IF;
        IF cardinality($27) > 0 THEN
            INSERT INTO run_command (tenant_id, run_id, command_id, kind, subject)
                SELECT told.tenant_id, told.run_id, told.command_id, told.kind, told.subject
                FROM unnest($26, $27, $28, $29, $30) AS told (tenant_id, run_id, command_id, kind, subject)
                JOIN run ON run.run_id = told.run_id AND run.state NOT IN (5, 6, 7)
                ON CONFLICT DO NOTHING;
        END IF;
        UPDATE storage_used SET bytes = storage_used.bytes + grown.bytes
            FROM unnest($24, $25) AS grown (tenant_id, bytes)
            WHERE storage_used.tenant_id = grown.tenant_id AND storage_used.slot = $1[1];
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written < cardinality($24) THEN
            -- Those that had no row yet. Nobody else writes to this slot while the lease holds.
            INSERT INTO storage_used (tenant_id, slot, bytes)
                SELECT grown.tenant_id, $1[1], grown.bytes FROM unnest($24, $25) AS grown (tenant_id, bytes)
                ON CONFLICT (tenant_id, slot) DO NOTHING;
        END IF;
        END;""",  # noqa: S608  # a constant of ours
)
#: Tells whether a request may be at work (not `idle`), and how it was answered before, without claiming it.
FIND_ANSWER: Final = OneTrip(
    name="find_answer",
    planned_once=True,
    arguments=(
        "bigint",  # 1 the lock of the request
        "uuid",  # 2 tenant
        "text",  # 3 method
        "uuid",  # 4 request
    ),
    returns="TABLE (idle boolean, body_hash bytea, answer bytea)",
    body="""
        RETURN QUERY SELECT pg_try_advisory_xact_lock($1), kept.body_hash, kept.answer
        FROM (SELECT true) AS asked LEFT JOIN request_id AS kept
            ON kept.tenant_id = $2 AND kept.method = $3 AND kept.request_id = $4 AND kept.expire_time > now();""",
)
#: Adds a new run with its first facts, and the answer to the request that it is for. True when the lease of its starter
#: holds; False when not, and then the owner of its shard finds a command to adopt it. Null when there is such a run or
#: such a request, or somebody is at work on it; then nothing is written. In a transaction that has more to do, a quota
#: to look at or an audit entry to write, the request was claimed before, and none is given.
BEGIN_RUN: Final = OneTrip(
    name="begin_run",
    planned_once=True,
    arguments=(
        "uuid",  # 1 tenant
        "uuid",  # 2 run
        "smallint",  # 3 shard, and
        "bigint",  # 4 the epoch of its lease; null when its starter has none
        "smallint",  # 5 kind
        "smallint",  # 6 state
        "bytea",  # 7 view
        "bigint",  # 8 last sequence
        "text",  # 9 grant
        "timestamptz",  # 10 next moment
        "bigint",  # 11 journal row: first sequence
        "int",  # 12 count of entries
        "bytea",  # 13 payload
        "bytea",  # 14 commitments
        "bytea[]",  # 15 facts in the object store: digest
        "bigint[]",  # 16 sequence
        "bigint[]",  # 17 bytes
        "smallint",  # 18 bytes in all: where starts in this shard are counted,
        "bigint",  # 19 and how many there are
        "int[]",  # 20 turns that a fork has taken over: number
        "bigint[]",  # 21 and where each lies
        "uuid",  # 22 the run that started it, null for none,
        "uuid",  # 23 the command that has it stand still with that one,
        "text",  # 24 and that one as it is written
        "bigint",  # 25 the lock of the request, null for none,
        "text",  # 26 its method,
        "uuid",  # 27 id,
        "bytea",  # 28 and body, hashed
        "bytea",  # 29 its answer,
        "interval",  # 30 and how long that is kept
    ),
    returns="boolean",
    body=f"""
        DECLARE parent_state smallint;
        BEGIN
        IF $25 IS NOT NULL THEN
            IF NOT pg_try_advisory_xact_lock($25) THEN RETURN NULL; END IF;
            INSERT INTO request_id AS kept (tenant_id, method, request_id, body_hash, answer, expire_time)
                VALUES ($1, $26, $27, $28, $29, now() + $30)
                ON CONFLICT (tenant_id, method, request_id) DO UPDATE
                SET body_hash = excluded.body_hash, answer = excluded.answer, expire_time = excluded.expire_time
                WHERE kept.expire_time <= now();
            IF NOT FOUND THEN RETURN NULL; END IF;
        END IF;
        INSERT INTO run (tenant_id, run_id, shard, state, view, last_sequence, grant_id, wake_time, kind)
            VALUES ($1, $2, $3, $6, $7, $8, $9, $10, $5) ON CONFLICT ON CONSTRAINT {PK_RUN} DO NOTHING;
        IF NOT FOUND THEN
            -- Whoever is asked for a run gives it an id of its own.
            IF $25 IS NOT NULL THEN RAISE EXCEPTION 'a run has the id of a new one'; END IF;
            RETURN NULL;
        END IF;
        INSERT INTO journal (tenant_id, run_id, first_sequence, entry_count, payload, commitments)
            VALUES ($1, $2, $11, $12, $13, $14);
        IF cardinality($15) > 0 THEN
            INSERT INTO journal_blob (tenant_id, run_id, digest, sequence, bytes)
                SELECT $1, $2, blob.digest, blob.sequence, blob.bytes
                FROM unnest($15, $16, $17) AS blob (digest, sequence, bytes);
        END IF;
        IF cardinality($20) > 0 THEN
            INSERT INTO turn_place (tenant_id, run_id, turn, sequence)
                SELECT $1, $2, place.turn, place.sequence FROM unnest($20, $21) AS place (turn, sequence);
        END IF;
        INSERT INTO storage_used (tenant_id, slot, bytes) VALUES ($1, $18, $19)
            ON CONFLICT (tenant_id, slot) DO UPDATE SET bytes = storage_used.bytes + excluded.bytes;
        IF $22 IS NOT NULL THEN
            -- Locked, so that a tick which pauses the parent comes before this, or finds the new run and tells it.
            SELECT state INTO parent_state FROM run WHERE run_id = $22 FOR SHARE;
            IF parent_state = 8 THEN
                INSERT INTO run_command (tenant_id, run_id, command_id, kind, subject)
                    VALUES ($1, $2, $23, 'pause', $24);
            END IF;
        END IF;
        IF $4 IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock_shared({SHARD_LOCK}, $3);
            PERFORM true FROM shard
                WHERE shard.shard = $3 AND shard.epoch = $4 AND shard.lease_until > clock_timestamp();
            IF FOUND THEN RETURN true; END IF;
        END IF;
        INSERT INTO run_command (tenant_id, run_id, command_id, kind, subject) VALUES ($1, $2, $2, 'adopt', '');
        RETURN false;
        END;""",  # noqa: S608  # constants of ours
)
#: Begins runs of several callers in one transaction, each as `BEGIN_RUN` does: such as no run has started, that have no
#: fact in the object store and no turns yet. They come by tenant and slot, so that no two such transactions wait for
#: each other in a ring. Gives for each what `BEGIN_RUN` gives, in their order.
BEGIN_RUNS: Final = OneTrip(
    name="begin_runs",
    planned_once=True,
    arguments=(
        "uuid[]",  # 1 tenant
        "uuid[]",  # 2 run
        "smallint[]",  # 3 shard
        "bigint[]",  # 4 epoch
        "smallint[]",  # 5 kind
        "smallint[]",  # 6 state
        "bytea[]",  # 7 view
        "bigint[]",  # 8 last sequence
        "text[]",  # 9 grant
        "timestamptz[]",  # 10 next moment
        "bigint[]",  # 11 first sequence
        "int[]",  # 12 count of entries
        "bytea[]",  # 13 payload
        "bytea[]",  # 14 commitments
        "smallint[]",  # 15 where bytes are counted
        "bigint[]",  # 16 bytes
        "bigint[]",  # 17 the lock of the request
        "text[]",  # 18 its method
        "uuid[]",  # 19 id
        "bytea[]",  # 20 body, hashed
        "bytea[]",  # 21 answer
        "interval",  # 22 how long that is kept
    ),
    returns="TABLE (held boolean)",
    body=f"""
        RETURN QUERY SELECT {BEGIN_RUN.function}(
            asked.tenant_id, asked.run_id, asked.shard, asked.epoch, asked.kind, asked.state, asked.view, asked.last,
            asked.grant_id, asked.wake, asked.first, asked.entries, asked.payload, asked.commitments,
            '{{}}', '{{}}', '{{}}', asked.slot, asked.bytes, '{{}}', '{{}}', NULL, NULL, NULL,
            asked.turn, asked.method, asked.request_id, asked.body_hash, asked.answer, $22, $23)
        FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
            AS asked (tenant_id, run_id, shard, epoch, kind, state, view, last, grant_id, wake, first, entries,
                payload, commitments, slot, bytes, turn, method, request_id, body_hash, answer);""",  # noqa: S608  # ours
)
#: Gives the sealed view of a run, and of which kind it is.
VIEW_OF_RUN: Final = OneTrip(
    name="view_of_run",
    planned_once=True,
    arguments=("uuid",),
    returns="TABLE (kind smallint, view bytea)",
    body="RETURN QUERY SELECT kind, view FROM run WHERE run_id = $1;",
)

#: Gives the agents that references stand for, each a name and a version; an empty version stands for the highest.
FIND_AGENTS: Final = OneTrip(
    name="find_agents",
    planned_once=True,
    arguments=("uuid", "text[]", "text[]"),
    returns="TABLE (place bigint, definition bytea, digest bytea, create_time timestamptz)",
    body="""
        RETURN QUERY SELECT asked.place, found.definition, found.digest, found.create_time
        FROM unnest($2, $3) WITH ORDINALITY AS asked (name, version, place) CROSS JOIN LATERAL (
            SELECT agent.definition, agent.digest, agent.create_time FROM agent
            WHERE agent.tenant_id = $1 AND agent.name = asked.name
                AND (asked.version = '' OR agent.version = asked.version)
            ORDER BY agent.major DESC, agent.minor DESC, agent.patch DESC LIMIT 1
        ) AS found;""",
)

#: The round of a replica's leases: it says that it lives, extends what it has, and takes of what is free up to its
#: share. One trip, or a replica that is stopped in the middle would keep the locks of all its shards while it sleeps,
#: and nobody could take them over. Gives the share as the fence of shard -1, then what it holds.
HOLD_SHARDS: Final = OneTrip(
    name="hold_shards",
    planned_once=True,
    arguments=(
        "text",  # 1 `replica/incarnation`
        "text",  # 2 the replica
        "boolean",  # 3 true for its first round: what its former incarnations had is free
        "smallint[]",  # 4 shards that it holds, and
        "bigint[]",  # 5 the epochs of their leases
        "interval",  # 6 life of a lease
        "int",  # 7 how many shards there are
        "int",  # 8 at most so many are taken
    ),
    returns="TABLE (number smallint, fence bigint)",
    body=f"""
        DECLARE share bigint; kept bigint;
        BEGIN
        INSERT INTO engine_replica (owner, alive_until) VALUES ($1, now() + $6)
            ON CONFLICT (owner) DO UPDATE SET alive_until = excluded.alive_until;
        -- One that has not said for so long that it lives takes no share of the shards.
        DELETE FROM engine_replica
            WHERE alive_until < now() OR ($3 AND split_part(owner, '/', 1) = $2 AND owner <> $1);
        SELECT ceil($7::numeric / count(*)) INTO share FROM engine_replica;
        RETURN QUERY SELECT (-1)::smallint, share;
        RETURN QUERY UPDATE shard SET lease_until = now() + $6
            FROM unnest($4, $5) AS held (number, epoch)
            WHERE shard.shard = held.number AND shard.epoch = held.epoch AND shard.owner = $1
            RETURNING shard.shard, shard.epoch;
        GET DIAGNOSTICS kept = ROW_COUNT;
        -- A commit under way keeps its shards from being taken over; they are tried again in the next round.
        RETURN QUERY WITH free AS (
            SELECT shard FROM shard
            WHERE owner IS NULL OR lease_until < now() OR (owner = $1 AND shard <> ALL($4))
                OR ($3 AND split_part(owner, '/', 1) = $2 AND owner <> $1)
            ORDER BY shard LIMIT greatest(0, least(share - kept, $8)) FOR UPDATE SKIP LOCKED)
        UPDATE shard SET owner = $1, epoch = epoch + 1, lease_until = now() + $6
            FROM free WHERE shard.shard = free.shard AND pg_try_advisory_xact_lock({SHARD_LOCK}, free.shard)
            RETURNING shard.shard, shard.epoch;
        END;""",  # noqa: S608  # a constant of ours
)

ONE_TRIPS: Final = (HOLD_SHARDS, COMMIT_TICK, FIND_ANSWER, BEGIN_RUN, BEGIN_RUNS, VIEW_OF_RUN, FIND_AGENTS, AUDIT_PAGE)
