"""What becomes of a tenant's rows when the tenant is erased. A test asks for each table with a tenant."""

from typing import Final

from services.meshkit.sql.tenant_data import AUDIT_ENTRY, OUTBOX, REQUEST_ID, deleted, kept

_LEDGER: Final = "ledger: kept for accounting; it holds no content, and names that the tenant gave are blanked"
_NAMES: Final = {"path": "''", "agent_name": "''", "project": "''"}

TENANT_DATA: Final = (
    kept("hold", _LEDGER, **_NAMES),
    kept("cost_event", _LEDGER, **_NAMES),
    kept("budget", _LEDGER, name="''"),
    deleted("tenant_quota"),
    OUTBOX,
    REQUEST_ID,
    AUDIT_ENTRY,
)
