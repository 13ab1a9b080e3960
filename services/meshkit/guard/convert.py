"""Reads what the guard feed sends, and writes what is kept of it. Pure functions."""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1 import identity_pb2, tenant_pb2
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.tenant import AuditLevel, GuardedTenantState, Quotas, SecurityPolicy, TenantState

_TENANT: Final = "tenant"
#: Roles that this release knows; an unknown one grants nothing.
ROLES: Final = {
    identity_pb2.ROLE_ADMIN: Role.ADMIN,
    identity_pb2.ROLE_OPERATOR: Role.OPERATOR,
    identity_pb2.ROLE_AUDITOR: Role.AUDITOR,
    identity_pb2.ROLE_TENANT_USER: Role.TENANT_USER,
}
#: A state that this release does not know is none in which a tenant may work.
TENANT_STATES: Final = {
    tenant_pb2.TENANT_STATE_ACTIVE: TenantState.ACTIVE,
    tenant_pb2.TENANT_STATE_SUSPENDED: TenantState.SUSPENDED,
    tenant_pb2.TENANT_STATE_DELETING: TenantState.DELETING,
    tenant_pb2.TENANT_STATE_DELETED: TenantState.DELETED,
}


def tenant_id(written: str) -> TenantId:
    """Reads `tenant_…`. Raises: Invalid."""
    return TenantId(to_uuid(written, _TENANT))


def tenant_text(tenant: TenantId) -> str:
    """Writes `tenant_…`."""
    return from_uuid(_TENANT, tenant)


def key_id(written: str) -> UUID:
    """Reads `key_…`. Raises: Invalid."""
    return to_uuid(written, "key")


def moment(written: Timestamp) -> datetime:
    """Reads a time."""
    return written.ToDatetime(tzinfo=UTC)


def timestamp(unix: float) -> Timestamp:
    """Writes a time, to the microsecond."""
    written = Timestamp()
    written.FromMicroseconds(round(unix * 1_000_000))
    return written


def tenant_state(tenant: pb.GuardedTenant) -> GuardedTenantState:
    """Reads a tenant."""
    quotas, policy = tenant.quotas, tenant.security_policy
    return GuardedTenantState(
        state=TENANT_STATES.get(tenant.state, TenantState.SUSPENDED),
        quotas=Quotas(
            max_agents=quotas.max_agents,
            max_workflows=quotas.max_workflows,
            max_concurrent_runs=quotas.max_concurrent_runs,
            max_storage_bytes=quotas.max_storage_bytes,
            max_cost_nano_usd=quotas.max_cost_nano_usd,
            rate_factor=quotas.rate_factor or 1.0,
        ),
        security_policy=SecurityPolicy(
            allowed_tools=frozenset(policy.allowed_tools),
            tools_forbidden=policy.tools_forbidden,
            allowed_hosts=tuple(policy.allowed_hosts),
            allowed_networks=tuple(policy.allowed_networks),
            audit_level=AuditLevel.REFUSALS
            if policy.audit_level == tenant_pb2.AUDIT_LEVEL_REFUSALS
            else AuditLevel.MUTATIONS,
            archive_after_days=policy.archive_after_days,
            delete_runs_after_days=policy.delete_runs_after_days,
        ),
        residency_region=tenant.residency_region,
    )
