"""The hot transactions of runs, one round trip each. The migrator installs them."""

from typing import Final

from services.meshkit.sql.one_trip import OneTrip

#: Adds facts and a new view to a run. Nothing is written without the lease (INV-2); gives false when it is lost.
COMMIT_RUN: Final = OneTrip(
    name="commit_run",
    planned_once=True,
    arguments=(
        "uuid",  # 1 tenant
        "uuid",  # 2 run
        "bigint",  # 3 lease epoch
        "smallint",  # 4 state
        "bytea",  # 5 view
        "bigint",  # 6 last sequence
        "bigint",  # 7 first sequence
        "smallint",  # 8 count of entries
        "bytea",  # 9 payload
        "bytea",  # 10 commitments
        "int[]",  # 11 turns, and
        "bigint[]",  # 12 where they lie
        "uuid[]",  # 13 commands that are done
    ),
    returns="boolean",
    body="""
        UPDATE run SET state = $4, view = $5, last_sequence = $6
            WHERE run_id = $2 AND lease_epoch = $3 AND lease_until > now();
        IF NOT FOUND THEN RETURN false; END IF;
        IF $8 > 0 THEN
            INSERT INTO journal (tenant_id, run_id, first_sequence, entry_count, payload, commitments)
                VALUES ($1, $2, $7, $8, $9, $10);
        END IF;
        IF cardinality($11) > 0 THEN
            INSERT INTO turn_place (tenant_id, run_id, turn, sequence)
                SELECT $1, $2, turn, sequence FROM unnest($11, $12) AS place (turn, sequence);
        END IF;
        IF cardinality($13) > 0 THEN
            DELETE FROM run_command WHERE run_id = $2 AND command_id = ANY($13);
        END IF;
        RETURN true;""",
)
#: Gives the sealed view of a run.
VIEW_OF_RUN: Final = OneTrip(
    name="view_of_run",
    planned_once=True,
    arguments=("uuid",),
    returns="TABLE (view bytea)",
    body="RETURN QUERY SELECT view FROM run WHERE run_id = $1;",
)

ONE_TRIPS: Final = (COMMIT_RUN, VIEW_OF_RUN)
