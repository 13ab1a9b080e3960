"""Marks a tenant for erasure, or says what that would do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.gateway.domain.erasure import missing
from services.gateway.domain.tenant import Tenant
from services.gateway.domain.tenant_errors import OwnTenant
from services.gateway.usecases.tenant_ports import BeginTenantWork, TenantLookup, TenantStores
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.once import nothing_to_repeat
from services.meshkit.core.tenant import ErasureStep, TenantState


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteWish:
    """What somebody wants to delete."""

    tenant: TenantId
    confirm_name: str
    plan_only: bool


@dataclass(frozen=True, slots=True)
class Deletion:
    """What will happen, or would."""

    tenant: Tenant
    plan: Sequence[ErasureStep]


class DeleteTenant:
    """Marks a tenant; `EraseTenants` does the rest. The mark stands even when a service cannot say its plan."""

    def __init__(
        self,
        *,
        begin: BeginTenantWork,
        tenants: TenantLookup,
        stores: TenantStores,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._begin = begin
        self._tenants = tenants
        self._stores = stores
        self._clock = clock
        self._wake = wake

    async def __call__(self, caller: Caller, wish: DeleteWish) -> Deletion:
        """Raises: NotFound, Invalid, OwnTenant; Unavailable: a plan alone, and a service is away; as `once`."""
        home = caller.principal.tenant
        tenant = await self._tenants.get(wish.tenant)
        if tenant.id == home:
            raise OwnTenant
        if not wish.plan_only and wish.confirm_name != tenant.name:
            raise Invalid("confirm_name", "must be the name of the tenant, typed again")
        plan = await self._stores.plan(tenant.id)
        silent = missing(plan)
        if wish.plan_only:
            nothing_to_repeat()
            if silent:
                raise Unavailable(", ".join(silent))
            return Deletion(await self._planned(home, tenant), _flat(plan))
        deletion = await self._mark(home, tenant.id, _flat(plan))
        self._wake()
        return deletion

    async def _planned(self, home: TenantId, tenant: Tenant) -> Tenant:
        """Notes in the audit trail that somebody asked."""
        async with self._begin(home) as work:
            note(target=tenant.subject, details={"plan_only": True})
            await work.commit()
        return tenant

    async def _mark(self, home: TenantId, tenant_id: TenantId, plan: Sequence[ErasureStep]) -> Deletion:
        async with self._begin(home, tenant_id) as work:
            await work.claim_once()
            tenant = await work.tenants.lock(tenant_id)
            note(target=tenant.subject, details={"name": tenant.name, "before": tenant.state.value})
            if not tenant.ended:
                tenant = tenant.changed(state=TenantState.DELETING)
                await work.tenants.replace(tenant)
                await work.erasures.begin(tenant_id, self._clock.now(), self._stores.services)
            deletion = Deletion(tenant, plan)
            await work.keep_once(deletion)
            await work.commit()
        return deletion


def _flat(plan: Mapping[str, Sequence[ErasureStep] | None]) -> list[ErasureStep]:
    return [step for service in sorted(plan) for step in plan[service] or ()]
