"""Shows a budget."""

from services.cost.domain.budget import Budget, BudgetId, tenant_budget_id
from services.cost.domain.errors import BudgetNotFound
from services.cost.domain.node import NodeKey
from services.cost.usecases.ports import BeginWork, BudgetReader, SpendNeeds
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId


class GetBudget:
    """Reads a budget as it is now. The tenant's own exists for whoever asks: it is made if nothing was spent yet."""

    def __init__(self, *, begin: BeginWork, budgets: BudgetReader, clock: Clock) -> None:
        self._begin = begin
        self._budgets = budgets
        self._clock = clock

    async def __call__(self, tenant: TenantId, budget: BudgetId | NodeKey) -> Budget:
        """Raises: BudgetNotFound, NodeNotFound."""
        found = await self._find(tenant, budget)
        return found.at(self._clock.now())

    async def _find(self, tenant: TenantId, budget: BudgetId | NodeKey) -> Budget:
        if isinstance(budget, NodeKey):
            return await self._budgets.find(tenant, budget)
        try:
            return await self._budgets.get(tenant, budget)
        except BudgetNotFound:
            if budget != tenant_budget_id(tenant):
                raise
        needs = SpendNeeds(tenants=frozenset((tenant,)), spenders=frozenset((tenant,)))
        async with self._begin((tenant,)) as work:
            await work.load(needs, now=self._clock.now())
            await work.commit()
        return await self._budgets.get(tenant, budget)
