"""What becomes of a tenant's rows when the tenant is erased. A test asks for each table with a tenant."""

from typing import Final

from services.meshkit.sql.tenant_data import AUDIT_ENTRY, REQUEST_ID, deleted

TENANT_DATA: Final = (
    deleted("law"),
    deleted("bundle"),
    deleted("violation"),
    deleted("violation_head"),
    REQUEST_ID,
    AUDIT_ENTRY,
)
