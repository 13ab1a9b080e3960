"""What becomes of a tenant's rows when the tenant is erased. A test asks for each table with a tenant."""

from typing import Final

from services.meshkit.sql.tenant_data import AUDIT_ENTRY, DATA_KEY, REQUEST_ID, deleted

TENANT_DATA: Final = (DATA_KEY, deleted("memory"), deleted("storage_used"), REQUEST_ID, AUDIT_ENTRY)
