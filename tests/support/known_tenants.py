"""What the guard feed would say of tenants."""

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import GuardedTenantState, Quotas, SecurityPolicy, TenantState


class KnownTenants:
    """Implements `KnowsTenants`, `KnowsRules` of the orchestrator and `HearsOfTenants` of inference.

    A tenant that is not set has no rules.
    """

    def __init__(self) -> None:
        self._known: dict[TenantId, GuardedTenantState] = {}
        #: Seconds since the gateway's last word.
        self.silent = 0.0
        #: See `HearsOfTenants.knows`.
        self.knows = True
        #: See `KnowsRules.is_cut`.
        self.is_cut = False

    def ruled(self) -> tuple[TenantId, ...]:
        """See `KnowsRules.ruled`."""
        return tuple(self._known)

    def age(self) -> float:
        """See `KnowsRules.age`."""
        return self.silent

    def tenant(self, tenant: TenantId) -> GuardedTenantState | None:
        """See `KnowsTenants.tenant`."""
        return self._known.get(tenant)

    def set(
        self,
        tenant: TenantId,
        *,
        state: TenantState = TenantState.ACTIVE,
        quotas: Quotas | None = None,
        security_policy: SecurityPolicy | None = None,
        residency_region: str = "",
    ) -> None:
        """Says what holds for a tenant from now on."""
        self._known[tenant] = GuardedTenantState(
            state=state,
            quotas=quotas or Quotas(),
            security_policy=security_policy or SecurityPolicy(),
            residency_region=residency_region,
        )
