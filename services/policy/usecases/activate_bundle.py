"""Makes a stored bundle the tenant's law."""

from dataclasses import replace

from services.meshkit.core.audit import note
from services.meshkit.core.identity import Principal, TenantId
from services.policy.domain.bundle import Bundle
from services.policy.rules.shipped import ShippedBundles
from services.policy.usecases.laws import Laws
from services.policy.usecases.ports import ActiveLaw, BundleStore, Wakes


class ActivateBundle:
    """Changes the law here at once, and on the other replicas by a wake or their next look."""

    def __init__(self, *, store: BundleStore, shipped: ShippedBundles, laws: Laws, wakes: Wakes) -> None:
        self._store = store
        self._shipped = shipped
        self._laws = laws
        self._wakes = wakes

    async def __call__(self, principal: Principal, name: str, version: str) -> Bundle:
        """Raises: BundleNotFound."""
        note(target=f"{name}@{version}")
        shipped = self._shipped.find(name, version)
        if shipped is not None:
            bundle = shipped.bundle
        else:
            bundle = await self._store.find(principal.tenant, name, version)
        active = replace(bundle, active=True)
        await self._store.activate(principal.tenant, ActiveLaw(name, version), by=principal.subject, bundle=active)
        await self.tell(principal.tenant)
        return active

    async def tell(self, tenant: TenantId) -> None:
        """Tells this replica and the others that the tenant has another law. Call it after the commit."""
        self._laws.forget(tenant)
        await self._wakes.law_changed()
