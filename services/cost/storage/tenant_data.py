"""What becomes of a tenant's rows when the tenant is erased. A test asks for each table with a tenant."""

from typing import Final

from services.meshkit.sql.tenant_data import AUDIT_ENTRY, OUTBOX, REQUEST_ID, deleted, kept

_LEDGER: Final = "ledger: kept for accounting; it holds no content, and names that the tenant gave are blanked"
_NAMES: Final = {"path": "''", "agent_name": "''", "project": "''"}
#: A digest of names is replaced by chance, once: 16 bytes for 32.
_ANY_KEY: Final = "CASE length(group_key) WHEN 16 THEN group_key ELSE uuid_send(gen_random_uuid()) END"
_SUMS: Final = {"agent_name": "''", "project": "''", "group_key": _ANY_KEY}

TENANT_DATA: Final = (
    kept("hold", _LEDGER, **_NAMES),
    kept("cost_event", _LEDGER, note="''", **_NAMES),
    kept("cost_hour", _LEDGER, **_SUMS),
    kept("cost_day", _LEDGER, **_SUMS),
    kept("cost_run_hour", "sums of the ledger: kept for accounting; they hold no content"),
    deleted("cost_use_day"),
    kept("budget", _LEDGER, name="''", project="''"),
    deleted("budget_alert"),
    deleted("unknown_price"),
    deleted("spend_alert"),
    deleted("spike_rule"),
    OUTBOX,
    REQUEST_ID,
    AUDIT_ENTRY,
)
