"""The hot transactions of policy, one round trip each. The migrator installs them."""

from typing import Final

from services.meshkit.sql.audit_store import AUDIT_PAGE
from services.meshkit.sql.one_trip import OneTrip

#: Of a new violation: its tenant, how many of the same commit come after it, and what is stored.
_NEW: Final = {
    "tenant_id": "uuid",
    "behind": "bigint",
    "id": "uuid",
    "verdict_id": "text",
    "rule": "text",
    "severity": "smallint",
    "action": "smallint",
    "stage": "smallint",
    "operation": "smallint",
    "rationale": "text",
    "run_id": "text",
    "path": "text",
    "agent_name": "text",
    "bundle": "text",
    "created_time": "timestamptz",
}
_STORED: Final = ", ".join(name for name in _NEW if name not in ("tenant_id", "behind"))
_PLACES: Final = ", ".join(f"${place}" for place in range(3, 3 + len(_NEW)))

#: Adds violations. The heads of tenants `$1` move by the numbers `$2` of what is new, and each violation takes its
#: place below them. Tenants come in order, so two commits never wait for each other in a circle.
ADD_VIOLATIONS: Final = OneTrip(
    name="add_violations",
    planned_once=True,
    arguments=("uuid[]", "bigint[]", *(f"{kind}[]" for kind in _NEW.values())),
    returns="void",
    # Names and types are our own constants.
    body=f"""
        WITH moved AS (
            INSERT INTO violation_head AS head (tenant_id, sequence)
            SELECT * FROM unnest($1, $2)
            ON CONFLICT (tenant_id) DO UPDATE SET sequence = head.sequence + excluded.sequence
            RETURNING tenant_id, sequence
        )
        INSERT INTO violation (tenant_id, sequence, {_STORED})
        SELECT tenant_id, moved.sequence - behind, {_STORED}
        FROM unnest({_PLACES}) AS new ({", ".join(_NEW)})
        JOIN moved USING (tenant_id);""",  # noqa: S608
)

#: Gives whose law changed after a change, oldest first. Every replica asks once a second.
CHANGED_LAWS: Final = OneTrip(
    name="changed_laws",
    planned_once=True,
    arguments=("bigint", "integer"),
    returns="TABLE (change bigint, tenant_id uuid, name text, version text)",
    body="""
        RETURN QUERY SELECT change, tenant_id, name, version FROM law WHERE change > $1 ORDER BY change LIMIT $2;""",
)

ONE_TRIPS: Final = (ADD_VIOLATIONS, CHANGED_LAWS, AUDIT_PAGE)
