"""What becomes of a tenant's rows when the tenant is erased. A test asks for each table with a tenant."""

from typing import Final

from services.meshkit.sql.tenant_data import AUDIT_ENTRY, REQUEST_ID, deleted, kept

_AUDIT: Final = "the audit trail stays, without content"

TENANT_DATA: Final = (
    deleted("api_key"),
    deleted("run_grant"),
    deleted("service_account"),
    deleted("person_at_issuer"),
    deleted("person"),
    deleted("oidc_issuer"),
    deleted("revoked_subject"),
    deleted("relation_tuple"),
    deleted("relation_change"),
    deleted("access_model"),
    REQUEST_ID,
    kept(
        "tenant",
        "the name stays taken, so that nobody is taken for the tenant that was",
        residency_region="''",
        quotas="'{}'::jsonb",
        security_policy="'{}'::jsonb",
    ),
    kept("erasure", "says what was erased, and when"),
    kept("audit_chain", _AUDIT),
    kept("audit_tree", _AUDIT),
    kept("audit_head", _AUDIT),
    kept("audit_archive", _AUDIT),
    AUDIT_ENTRY,
)
