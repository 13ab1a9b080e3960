"""Bundles in memory, for tests of what uses them. Earns trust by the suite that the real one passes."""

from collections.abc import Sequence
from dataclasses import replace

from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fault_queue import FaultQueue
from services.policy.domain.bundle import Bundle, parse_version
from services.policy.domain.errors import BundleNotFound, BundleVersionExists, TooManyBundles
from services.policy.usecases.ports import ActiveLaw, LawChange, NewBundle


class MemoryBundleStore:
    """Implements `usecases.ports.BundleStore`."""

    def __init__(self) -> None:
        self.faults = FaultQueue()
        #: How often a law was looked up.
        self.lookups = 0
        self._bundles: dict[tuple[TenantId, str, str], Bundle] = {}
        self._laws: dict[TenantId, tuple[int, ActiveLaw]] = {}
        self._change = 0

    async def add(self, tenant: TenantId, new: NewBundle, *, activate: bool, most: int) -> Bundle:
        self.faults.hit()
        bundle = new.bundle
        key = (tenant, bundle.name, bundle.version)
        known = self._bundles.get(key)
        if known is not None and known.digest != bundle.digest:
            raise BundleVersionExists(bundle.reference)
        if known is None:
            if len([1 for owner, _, _ in self._bundles if owner == tenant]) >= most:
                raise TooManyBundles(most)
            self._bundles[key] = bundle
        if activate:
            self._activate(tenant, ActiveLaw(bundle.name, bundle.version))
        return self._marked(tenant, self._bundles[key])

    async def activate(self, tenant: TenantId, law: ActiveLaw, *, by: str, bundle: Bundle) -> None:
        self.faults.hit()
        self._activate(tenant, law)

    async def find(self, tenant: TenantId, name: str, version: str) -> Bundle:
        self.faults.hit()
        found = [
            self._marked(tenant, bundle)
            for (owner, own_name, own_version), bundle in self._bundles.items()
            if (owner, own_name) == (tenant, name) and version in ("", own_version)
        ]
        if not found:
            raise BundleNotFound(f"{name}@{version}" if version else name)
        return max(found, key=lambda bundle: (bundle.active, _place(bundle)))

    async def page(self, tenant: TenantId, *, after: tuple[str, str] | None, most: int) -> Sequence[Bundle]:
        mine = sorted((bundle for (owner, _, _), bundle in self._bundles.items() if owner == tenant), key=_place)
        if after is not None:
            place = (after[0], parse_version(after[1], field="page_token"))
            mine = [bundle for bundle in mine if _place(bundle) > place]
        return [replace(self._marked(tenant, bundle), source="") for bundle in mine[:most]]

    async def active(self, tenant: TenantId) -> ActiveLaw | None:
        self.faults.hit()
        self.lookups += 1
        known = self._laws.get(tenant)
        return None if known is None else known[1]

    async def newest_change(self) -> int:
        self.faults.hit()
        return self._change

    async def changes_since(self, change: int, *, most: int) -> Sequence[LawChange]:
        self.faults.hit()
        laws = self._laws.items()
        return sorted(LawChange(number, of, law.reference) for of, (number, law) in laws if number > change)[:most]

    def _activate(self, tenant: TenantId, law: ActiveLaw) -> None:
        self._change += 1
        self._laws[tenant] = (self._change, law)

    def _marked(self, tenant: TenantId, bundle: Bundle) -> Bundle:
        known = self._laws.get(tenant)
        return replace(bundle, active=known is not None and known[1] == ActiveLaw(bundle.name, bundle.version))


def _place(bundle: Bundle) -> tuple[str, tuple[int, int, int]]:
    return bundle.name, parse_version(bundle.version, field="version")
