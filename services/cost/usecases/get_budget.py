"""Shows a budget."""

from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.errors import BudgetNotFound, NodeNotFound
from services.cost.domain.node import NodeKey, key_of
from services.cost.usecases.ports import BeginWork, BudgetReader, SpendNeeds
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId


class GetBudget:
    """Reads a budget as it is now. The tenant's own exists for whoever asks: it is made if nothing was spent yet."""

    def __init__(self, *, begin: BeginWork, budgets: BudgetReader, clock: Clock) -> None:
        self._begin = begin
        self._budgets = budgets
        self._clock = clock

    async def __call__(self, tenant: TenantId, budget: BudgetId | NodeKey, *, bound_to: str | None = None) -> Budget:
        """Shows a budget.

        Args:
            bound_to: project that the caller is bound to; then that project's budget is all there is.
        Raises: BudgetNotFound, NodeNotFound.
        """
        find = self._find(tenant, budget) if bound_to is None else self._find_own(tenant, budget, bound_to)
        return (await find).at(self._clock.now())

    async def _find_own(self, tenant: TenantId, budget: BudgetId | NodeKey, project: str) -> Budget:
        """Finds the budget of a project by its name or its id, and takes any other for one that is not there."""
        own = NodeKey(BudgetScope.PROJECT, project)
        if isinstance(budget, NodeKey):
            if budget != own:
                raise NodeNotFound(budget.full_name)
            return await self._budgets.find(tenant, budget)
        found = await self._budgets.get(tenant, budget)
        if key_of(found) != own:
            raise BudgetNotFound(budget)
        return found

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
