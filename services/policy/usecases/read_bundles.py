"""Reads bundles: those that ship with the mesh and the tenant's own, as one list."""

from collections.abc import Sequence
from dataclasses import replace

from services.meshkit.core.identity import TenantId
from services.policy.domain.bundle import Bundle
from services.policy.domain.errors import BundleNotFound
from services.policy.rules.shipped import SHIPPED_NAME, Shipped, ShippedBundles
from services.policy.usecases.ports import ActiveLaw, BundleStore


class ReadBundles:
    """Gets and lists."""

    def __init__(self, *, store: BundleStore, shipped: ShippedBundles) -> None:
        self._store = store
        self._shipped = shipped

    async def get(self, tenant: TenantId, name: str, version: str) -> Bundle:
        """Gives one version; without one, the active one of that name, else the highest.

        Raises: BundleNotFound.
        """
        if name != SHIPPED_NAME:
            return await self._store.find(tenant, name, version)
        active = await self._store.active(tenant)
        if not version:
            version = active.version if active is not None and active.name == name else self._newest.version
        found = self._shipped.find(name, version)
        if found is None:
            raise BundleNotFound(f"{name}@{version}")
        return self._marked(found, active)

    async def page(self, tenant: TenantId, *, after: tuple[str, str] | None, most: int) -> Sequence[Bundle]:
        """Lists shipped bundles, oldest first, then the tenant's by name and version, without their source."""
        first: list[Bundle] = []
        if after is None or after[0] == SHIPPED_NAME:
            active = await self._store.active(tenant)
            shown = [self._marked(shipped, active) for shipped in self._shipped.all()]
            places = [(bundle.name, bundle.version) for bundle in shown]
            passed = places.index(after) + 1 if after in places else 0
            first = [replace(bundle, source="") for bundle in shown[passed:]][:most]
            after = None
        if len(first) == most:
            return first
        return [*first, *await self._store.page(tenant, after=after, most=most - len(first))]

    @property
    def _newest(self) -> Bundle:
        return self._shipped.default.bundle

    def _marked(self, shipped: Shipped, active: ActiveLaw | None) -> Bundle:
        bundle = shipped.bundle
        law = self._newest.reference if active is None else f"{active.name}@{active.version}"
        return replace(bundle, active=bundle.reference == law)
