"""Which arms are kept, by what they stand on: those that are gone are found without a look at each."""

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

from services.inference.domain.routing.lesson import ArmName
from services.meshkit.core.identity import TenantId

#: Says whether a tenant has a route, or a version by its full name.
Has = Callable[[TenantId, str], bool]


def has_all(_tenant: TenantId, _name: str) -> bool:
    """Says that everything is there, while nobody knows better."""
    return True


class _OfTenant:
    def __init__(self) -> None:
        self.by_route: Final = defaultdict[str, set[ArmName]](set)
        self.by_version: Final = defaultdict[str, set[ArmName]](set)


class ArmIndex:
    """Names of arms, by tenant, then by route and by version."""

    def __init__(self) -> None:
        self._tenants: defaultdict[TenantId, _OfTenant] = defaultdict(_OfTenant)

    def add(self, name: ArmName) -> None:
        """Takes one in."""
        found = self._tenants[name.tenant]
        found.by_route[name.route].add(name)
        found.by_version[name.arm].add(name)

    def remove(self, name: ArmName) -> None:
        """Takes one out that is in."""
        found = self._tenants[name.tenant]
        for names, key in ((found.by_route, name.route), (found.by_version, name.arm)):
            names[key].remove(name)
            if not names[key]:
                del names[key]
        if not found.by_route:
            del self._tenants[name.tenant]

    def gone(self, tenants: Collection[TenantId] | None, *, has_route: Has, has_version: Has) -> set[ArmName]:
        """Gives those whose route or version is gone; asks once for each route and each version.

        Args:
            tenants: whose may be; None: anybody's.
        """
        gone: set[ArmName] = set()
        for tenant in list(self._tenants) if tenants is None else self._tenants.keys() & set(tenants):
            for names, has in (
                (self._tenants[tenant].by_route, has_route),
                (self._tenants[tenant].by_version, has_version),
            ):
                gone.update(*(arms for key, arms in names.items() if not has(tenant, key)))
        return gone
