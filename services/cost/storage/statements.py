"""The statements that load what is spent from, a whole frame at once in arrays."""

from typing import Final

from services.cost.domain.hold import CostKind
from services.cost.storage.tables import GAUGES
from services.meshkit.content.usage import USAGE_CLASSES

#: Of an entry of the ledger: it was charged at a ceiling, for nobody knows the price. Tools have none of the table.
WITHOUT_PRICE: Final = (
    f"price_digest IS NULL AND kind NOT IN ({', '.join(str(int(kind)) for kind in CostKind if kind.flat)})"
)

#: In tenant order, so that two processes that make the same budgets never wait in a circle.
ADD_TENANT_BUDGETS: Final = """
    INSERT INTO budget (id, tenant_id, scope, limit_nano_usd, spent_nano_usd, held_nano_usd, overrun_nano_usd,
                        exhausted, created_time, counted_from)
    SELECT tenant, tenant, 1, $2::bigint, 0, 0, 0, false, $3::timestamptz, $3::timestamptz
    FROM unnest($1::uuid[]) AS item (tenant) ORDER BY tenant
    ON CONFLICT (id) DO NOTHING"""

QUOTAS: Final = "SELECT tenant_id FROM budget WHERE quota_nano_usd > 0"

#: Whoever makes or removes nodes of a tenant takes turns before a statement looks names up: one that waits for a lock
#: of a row does not see a row that was made meanwhile. Who spends does not wait here.
CHANGE_TREE: Final = "SELECT pg_advisory_xact_lock(hashtextextended('budget tree ' || $1::uuid::text, 0))"

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
#: The last one of each name that was removed. No lock: who names nodes takes turns.
REMOVED_NODES: Final = """
    SELECT DISTINCT ON (tenant_id, scope, name) id FROM budget
    WHERE removed AND (tenant_id, scope, name) IN (
        SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::text[]))
    ORDER BY tenant_id, scope, name, created_time DESC, id DESC"""
NODES: Final = "SELECT count(*) FROM budget WHERE tenant_id = $1 AND name <> '' AND NOT removed"

_DEFINED: Final = (
    *("id", "tenant_id", "scope", "run_id", "name", "mode", "warn_at", "period", "zone", "turn_time", "exhausted"),
    *("warned", "degraded_until", "removed", "tree", "revision", "created_time", "counted_from", "quota_nano_usd"),
    *("own_limit_nano_usd", "own_mode", "own_period", "own_zone"),
    *(f"{part}_{gauge}" for gauge in ("nano_usd", *GAUGES) for part in ("limit", "spent", "held", "overrun")),
)
#: Writes a whole budget. The caller has locked it, or the tenant's own if it is new.
DEFINE_BUDGET: Final = f"""
    INSERT INTO budget ({", ".join(_DEFINED)})
    VALUES ({", ".join(f"${place}" for place in range(1, len(_DEFINED) + 1))})
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _DEFINED[3:])}"""  # noqa: S608

#: What unusual spend does to a budget ends with it.
DROP_SPIKE_RULE: Final = "DELETE FROM spike_rule WHERE tenant_id = $1 AND budget_id = $2"
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

#: What was charged to a budget ($2) since a moment ($3), as it counts it: a charge whole if it was made since then, of
#: a correction of an older one only what came on top. It is no answer when there are more than $4 entries, or one whose
#: hold is gone; those are left out where all is asked for that there is ($5).
CHARGED: Final = f"""
    WITH recent AS MATERIALIZED (
        SELECT hold_id, cost_nano_usd, {" + ".join(f"{name}_tokens" for name in USAGE_CLASSES)} AS tokens
        FROM cost_event WHERE tenant_id = $1 AND created_time >= $3 LIMIT $4 + 1
    ), changed AS (
        SELECT hold_id, sum(cost_nano_usd) AS money, sum(tokens) AS tokens FROM recent GROUP BY hold_id
    ), paid AS (
        SELECT changed.*, hold.*, state IN (3, 5) AND charged_time >= $3 AS whole,
            (SELECT sum(count) FROM unnest(CASE state WHEN 5 THEN bound ELSE usage END) AS count) AS used,
            greatest(0, floor(extract(epoch FROM expire_time - created_time) * 1000)) AS most_ms,
            greatest(0, floor(extract(epoch FROM charged_time - coalesce(dispatched_time, created_time)) * 1000))
                AS took_ms
        FROM changed LEFT JOIN hold ON hold.id = hold_id
        WHERE (SELECT count(*) FROM recent) <= $4 AND coalesce($2 = ANY(budget_ids), NOT $5::boolean)
    )
    SELECT (SELECT count(*) FROM recent) <= $4 AND bool_and(id IS NOT NULL) IS NOT FALSE AS all_counted,
        coalesce(sum(CASE WHEN whole THEN charged_nano_usd ELSE greatest(0, money) END), 0)::bigint AS money,
        coalesce(sum(CASE WHEN whole THEN used ELSE greatest(0, tokens) END) FILTER (WHERE counts), 0)::bigint
            AS tokens,
        count(*) FILTER (WHERE counts AND whole) AS calls,
        coalesce(sum(CASE state WHEN 5 THEN most_ms ELSE least(most_ms, took_ms) END)
            FILTER (WHERE counts AND whole), 0)::bigint AS wall_ms
    FROM paid"""  # noqa: S608 - names are constants
