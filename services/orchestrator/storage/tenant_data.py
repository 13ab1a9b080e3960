"""What becomes of a tenant's rows when the tenant is erased. A test asks for each table with a tenant."""

from typing import Final

from services.meshkit.sql.tenant_data import AUDIT_ENTRY, DATA_KEY, REQUEST_ID, deleted, unreadable

#: In this order: a run without its row has no lease, so whoever drives it can write nothing more.
TENANT_DATA: Final = (
    DATA_KEY,
    deleted("run"),
    deleted("run_command"),
    deleted("turn_place"),
    deleted("journal_blob"),
    deleted("storage_used"),
    deleted("run_estimate"),
    deleted("estimate_pending"),
    deleted("estimate_place"),
    deleted("run_habits"),
    unreadable("journal", "sealed facts stay as proof of their order; their key is destroyed"),
    deleted("agent"),
    deleted("workflow"),
    REQUEST_ID,
    AUDIT_ENTRY,
)
