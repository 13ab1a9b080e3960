"""Changes the limit of a budget."""

from services.cost.domain.budget import Budget, BudgetId, tenant_budget_id
from services.cost.usecases.ports import BeginWork, SpendNeeds
from services.cost.usecases.report import report
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.tenant import KnowsTenants, QuotaExceeded, rules_of


class SetBudgetLimit:
    """Raises or lowers a limit. A limit below what is spent and held shows as overrun, and is an alert."""

    def __init__(self, *, begin: BeginWork, tenants: KnowsTenants, clock: Clock) -> None:
        self._begin = begin
        self._tenants = tenants
        self._clock = clock

    async def __call__(self, tenant: TenantId, budget: BudgetId, limit: NanoUsd) -> Budget:
        """Raises: BudgetNotFound; QuotaExceeded: the tenant's own, beyond what the tenant may spend."""
        note(target=from_uuid("budget", budget), details={"limit_nano_usd": limit})
        own = budget == tenant_budget_id(tenant)
        needs = SpendNeeds(
            tenants=frozenset((tenant,)),
            spenders=frozenset((tenant,)) if own else frozenset(),
            budgets=frozenset((budget,)),
        )
        async with self._begin((tenant,)) as work:
            await work.claim_once()
            book = await work.load(needs, now=self._clock.now())
            changed = book.set_limit(tenant, budget, limit)
            quota = rules_of(self._tenants, tenant).quotas.max_cost_nano_usd
            if own and quota and limit > quota:
                raise QuotaExceeded("max_cost_nano_usd", limit=quota, used=changed.spent + changed.held)
            changes = book.changes()
            await work.save(changes)
            await work.keep_once(changed)
            await work.commit()
        report(changes)
        return changed
