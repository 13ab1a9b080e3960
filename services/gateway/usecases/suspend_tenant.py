"""Stops a tenant, and lets it work again."""

from services.gateway.domain.tenant import Tenant
from services.gateway.domain.tenant_errors import OwnTenant, TenantEnded
from services.gateway.usecases.tenant_ports import BeginTenantWork
from services.meshkit.core.audit import note
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.tenant import TenantState

_MAX_REASON = 200


class SuspendTenant:
    """Has every call of a tenant refused. Nothing is lost."""

    def __init__(self, *, begin: BeginTenantWork) -> None:
        self._begin = begin

    async def __call__(self, caller: Caller, tenant: TenantId, *, reason: str) -> Tenant:
        """Raises: NotFound, Invalid, OwnTenant, TenantEnded, AnsweredBefore and its kin for a repeat."""
        if len(reason) > _MAX_REASON:
            raise Invalid("reason", f"must have at most {_MAX_REASON} characters")
        if tenant == caller.principal.tenant:
            raise OwnTenant
        details = {"reason": reason} if reason else {}
        return await _move(self._begin, caller, tenant, TenantState.SUSPENDED, details)


class ResumeTenant:
    """Lets a suspended tenant work again."""

    def __init__(self, *, begin: BeginTenantWork) -> None:
        self._begin = begin

    async def __call__(self, caller: Caller, tenant: TenantId) -> Tenant:
        """Raises: NotFound, TenantEnded, AnsweredBefore and its kin for a repeat."""
        return await _move(self._begin, caller, tenant, TenantState.ACTIVE, {})


async def _move(
    begin: BeginTenantWork,
    caller: Caller,
    tenant_id: TenantId,
    state: TenantState,
    details: dict[str, str],
) -> Tenant:
    home = caller.principal.tenant
    async with begin(home, tenant_id) as work:
        await work.claim_once()
        tenant = await work.tenants.lock(tenant_id)
        if tenant.ended:
            raise TenantEnded(tenant.id)
        note(target=tenant.subject, details={"before": tenant.state.value, **details})
        if tenant.state is not state:
            tenant = tenant.changed(state=state)
            await work.tenants.replace(tenant)
        await work.keep_once(tenant)
        await work.commit()
    return tenant
