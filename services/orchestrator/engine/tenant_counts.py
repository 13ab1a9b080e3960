"""Counts of something by tenant, and of all."""

from services.meshkit.core.identity import TenantId


class TenantCounts:
    """How much of something each tenant has. One that has none takes no room here."""

    def __init__(self) -> None:
        self._of_tenant: dict[TenantId, int] = {}
        #: Of all tenants.
        self.total = 0

    def of(self, tenant: TenantId) -> int:
        """Gives what a tenant has."""
        return self._of_tenant.get(tenant, 0)

    def add(self, tenant: TenantId, change: int) -> None:
        """Counts more for a tenant, or less."""
        self.total += change
        left = self._of_tenant.get(tenant, 0) + change
        if left:
            self._of_tenant[tenant] = left
        else:
            self._of_tenant.pop(tenant, None)
