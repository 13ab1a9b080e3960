"""The statements that load what is spent from, a whole frame at once in arrays."""

from typing import Final

from services.cost.domain.hold import CostKind
from services.cost.storage.tables import GAUGES

#: Of an entry of the ledger: it was charged at a ceiling, for nobody knows the price. Tools have none of the table.
WITHOUT_PRICE: Final = (
    f"price_digest IS NULL AND kind NOT IN ({', '.join(str(int(kind)) for kind in CostKind if kind.flat)})"
)

#: In tenant order, so that two processes that make the same budgets never wait in a circle.
ADD_TENANT_BUDGETS: Final = """
    INSERT INTO budget (id, tenant_id, scope, limit_nano_usd, spent_nano_usd, held_nano_usd, overrun_nano_usd,
                        exhausted, created_time)
    SELECT tenant, tenant, 1, $2::bigint, 0, 0, 0, false, $3::timestamptz
    FROM unnest($1::uuid[]) AS item (tenant) ORDER BY tenant
    ON CONFLICT (id) DO NOTHING"""

#: A tenant that never had a quota is not noted, for its limit is nobody's business but its own.
TOOK_QUOTA: Final = """
    INSERT INTO tenant_quota AS known (tenant_id, max_cost_nano_usd)
    SELECT $1::uuid, $2::bigint
    WHERE $2::bigint > 0 OR EXISTS (SELECT FROM tenant_quota WHERE tenant_id = $1::uuid)
    ON CONFLICT (tenant_id) DO UPDATE SET max_cost_nano_usd = EXCLUDED.max_cost_nano_usd
        WHERE known.max_cost_nano_usd <> EXCLUDED.max_cost_nano_usd
    RETURNING true"""
QUOTAS: Final = "SELECT tenant_id FROM tenant_quota WHERE max_cost_nano_usd > 0"

RUN_BUDGET: Final = "SELECT * FROM budget WHERE tenant_id = $1 AND run_id = $2"

LOCK_BUDGETS: Final = "SELECT * FROM budget WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"

#: The budgets of a hold never change, so they can be read before its lock is taken. So can the nodes beside a call:
#: whoever makes or removes one changes the tenant's own budget, which is locked here, too.
LOCK_ALL_BUDGETS: Final = """
    SELECT * FROM budget
    WHERE id = ANY($1::uuid[] || ARRAY(
        SELECT DISTINCT unnest(budget_ids) FROM hold WHERE id = ANY($2::uuid[])
    ) || ARRAY(
        SELECT node.id FROM unnest($3::uuid[]) AS spender (tenant_id) CROSS JOIN LATERAL (
            SELECT id, scope, name FROM budget
            WHERE tenant_id = spender.tenant_id AND name <> '' AND NOT removed OFFSET 0
        ) AS node
        WHERE (spender.tenant_id, node.scope, node.name) IN (
            SELECT * FROM unnest($4::uuid[], $5::smallint[], $6::text[]))))
    ORDER BY id FOR UPDATE"""

TREES: Final = """
    SELECT id, tenant_id, scope, name FROM budget
    WHERE tenant_id = ANY($1::uuid[]) AND name <> '' AND NOT removed"""
NODES: Final = "SELECT count(*) FROM budget WHERE tenant_id = $1 AND name <> '' AND NOT removed"

_DEFINED: Final = (
    *("id", "tenant_id", "scope", "run_id", "name", "mode", "warn_at", "period", "zone", "turn_time", "exhausted"),
    *("warned", "degraded_until", "removed", "tree", "revision", "created_time"),
    *(f"{part}_{gauge}" for gauge in ("nano_usd", *GAUGES) for part in ("limit", "spent", "held", "overrun")),
)
#: Writes a whole budget. The caller has locked it, or the tenant's own if it is new.
DEFINE_BUDGET: Final = f"""
    INSERT INTO budget ({", ".join(_DEFINED)})
    VALUES ({", ".join(f"${place}" for place in range(1, len(_DEFINED) + 1))})
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _DEFINED[3:])}"""  # noqa: S608

#: Those that no other transaction has locked.
UNLOCKED_BUDGETS: Final = "SELECT id FROM budget WHERE id = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED"

LOCK_HOLDS: Final = "SELECT * FROM hold WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"

#: No lock: whoever makes or changes a hold of a tenant has locked the tenant's budget, as the asker has.
HOLDS_OF_REQUESTS: Final = """
    SELECT hold.* FROM unnest($1::uuid[], $2::uuid[]) AS item (tenant_id, request_id)
    JOIN hold USING (tenant_id, request_id)"""

DUE_HOLDS: Final = """
    SELECT id FROM hold WHERE state IN (1, 2) AND expire_time <= $1 AND tenant_id <> ALL($3::uuid[])
    ORDER BY expire_time LIMIT $2"""

LOCK_DUE_HOLDS: Final = """
    SELECT * FROM hold WHERE id = ANY($1::uuid[]) AND state IN (1, 2) AND expire_time <= $2
    ORDER BY id FOR UPDATE SKIP LOCKED"""
