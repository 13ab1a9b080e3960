"""Between messages about tenants and the domain. Pure functions."""

from typing import Final

from comitia.gateway.v1 import tenant_pb2
from comitia.gateway.v1 import tenant_service_pb2 as pb
from services.gateway.domain.erasure import Erasure
from services.gateway.domain.tenant import TENANT_PREFIX, Tenant
from services.gateway.domain.tenant_rules import COUNTED, QuotaChange, checked_policy
from services.gateway.transport.convert import timestamp
from services.gateway.usecases.update_tenant import TenantChange
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.tenant import AuditLevel, Quotas, SecurityPolicy, TenantState
from services.meshkit.tenant_data.convert import steps_to_proto

_STATES: Final = {
    TenantState.ACTIVE: tenant_pb2.TENANT_STATE_ACTIVE,
    TenantState.SUSPENDED: tenant_pb2.TENANT_STATE_SUSPENDED,
    TenantState.DELETING: tenant_pb2.TENANT_STATE_DELETING,
    TenantState.DELETED: tenant_pb2.TENANT_STATE_DELETED,
}
_LEVELS: Final = {
    AuditLevel.MUTATIONS: tenant_pb2.AUDIT_LEVEL_MUTATIONS,
    AuditLevel.REFUSALS: tenant_pb2.AUDIT_LEVEL_REFUSALS,
}
_READ_LEVELS: Final[dict[int, AuditLevel]] = {
    tenant_pb2.AUDIT_LEVEL_UNSPECIFIED: AuditLevel.MUTATIONS,
    **{number: level for level, number in _LEVELS.items()},
}
_QUOTAS: Final = "quotas"
_FACTOR: Final = "rate_factor"
_REGION: Final = "residency_region"
_PATHS: Final = (_REGION, _QUOTAS, *(f"{_QUOTAS}.{name}" for name in (*COUNTED, _FACTOR)))


def to_tenant_id(written: str, *, field: str = "tenant_id") -> TenantId:
    """Reads `tenant_…`. Raises: Invalid."""
    try:
        return TenantId(to_uuid(written, TENANT_PREFIX))
    except Invalid as wrong:
        raise Invalid(field, wrong.sentence) from wrong


def to_change(request: pb.UpdateTenantRequest) -> TenantChange:
    """Reads what to change.

    Without a mask that is what is set; fields that only we write are left alone then, so that what was read can be sent
    back. Raises: Invalid: a path of the mask is unknown or fixed.
    """
    tenant = request.tenant
    paths = set(request.update_mask.paths) if request.HasField("update_mask") else _set_paths(tenant)
    for path in sorted(paths):
        if path not in _PATHS:
            raise Invalid("update_mask", f"{path[:100]!r} cannot be changed; what can be is " + ", ".join(_PATHS))
    counted = COUNTED if _QUOTAS in paths else [name for name in COUNTED if f"{_QUOTAS}.{name}" in paths]
    factor = tenant.quotas.rate_factor if paths & {_QUOTAS, f"{_QUOTAS}.{_FACTOR}"} else None
    counts = {name: int(getattr(tenant.quotas, name)) for name in counted}
    return TenantChange(
        tenant=to_tenant_id(tenant.tenant_id, field="tenant.tenant_id"),
        etag=tenant.etag,
        residency_region=tenant.residency_region if _REGION in paths else None,
        quotas=QuotaChange(counts=counts, rate_factor=factor) if counts or factor is not None else None,
    )


def to_policy(policy: tenant_pb2.SecurityPolicy) -> SecurityPolicy:
    """Reads rules. Raises: Invalid."""
    level = _READ_LEVELS.get(policy.audit_level)
    if level is None:
        raise Invalid("security_policy.audit_level", "is no audit level that this release knows")
    return checked_policy(
        SecurityPolicy(
            allowed_tools=frozenset(policy.allowed_tools),
            tools_forbidden=policy.tools_forbidden,
            allowed_hosts=tuple(policy.allowed_hosts),
            audit_level=level,
            archive_after_days=policy.archive_after_days,
            delete_runs_after_days=policy.delete_runs_after_days,
        ),
        networks=policy.allowed_networks,
    )


def tenant_to_proto(tenant: Tenant) -> tenant_pb2.Tenant:
    """Writes a tenant."""
    return tenant_pb2.Tenant(
        tenant_id=from_uuid(TENANT_PREFIX, tenant.id),
        name=tenant.name,
        create_time=timestamp(tenant.create_time),
        residency_region=tenant.residency_region,
        state=state_to_proto(tenant.state),
        quotas=quotas_to_proto(tenant.quotas),
        security_policy=policy_to_proto(tenant.security_policy),
        etag=tenant.etag,
    )


def state_to_proto(state: TenantState) -> tenant_pb2.TenantState.ValueType:
    """Writes a state."""
    return _STATES[state]


def quotas_to_proto(quotas: Quotas) -> tenant_pb2.TenantQuotas:
    """Writes quotas."""
    return tenant_pb2.TenantQuotas(
        max_agents=quotas.max_agents,
        max_workflows=quotas.max_workflows,
        max_concurrent_runs=quotas.max_concurrent_runs,
        max_storage_bytes=quotas.max_storage_bytes,
        max_cost_nano_usd=quotas.max_cost_nano_usd,
        rate_factor=quotas.rate_factor,
    )


def policy_to_proto(policy: SecurityPolicy) -> tenant_pb2.SecurityPolicy:
    """Writes rules."""
    return tenant_pb2.SecurityPolicy(
        allowed_tools=sorted(policy.allowed_tools),
        tools_forbidden=policy.tools_forbidden,
        allowed_hosts=policy.allowed_hosts,
        allowed_networks=policy.allowed_networks,
        audit_level=_LEVELS[policy.audit_level],
        archive_after_days=policy.archive_after_days,
        delete_runs_after_days=policy.delete_runs_after_days,
    )


def erasure_to_proto(erasure: Erasure) -> pb.GetErasureResponse:
    """Writes how far an erasure is."""
    return pb.GetErasureResponse(
        done_services=sorted(erasure.done),
        pending_services=sorted(erasure.pending),
        steps=steps_to_proto(erasure.steps),
        start_time=timestamp(erasure.start_time),
        end_time=None if erasure.end_time is None else timestamp(erasure.end_time),
    )


def _set_paths(tenant: tenant_pb2.Tenant) -> set[str]:
    paths = {_REGION} if tenant.residency_region else set[str]()
    return paths | {f"{_QUOTAS}.{name}" for name in (*COUNTED, _FACTOR) if getattr(tenant.quotas, name)}
