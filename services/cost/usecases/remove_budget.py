"""Removes a budget."""

from services.cost.domain.budget import Budget, BudgetId, tenant_budget_id
from services.cost.domain.errors import NodeNotFound
from services.cost.domain.node import NodeKey
from services.cost.usecases.ports import BeginWork, SpendNeeds
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid


class RemoveBudget:
    """Takes the budget of a project, an agent or a step out of the tree. What it paid stays."""

    def __init__(self, *, begin: BeginWork, clock: Clock) -> None:
        self._begin = begin
        self._clock = clock

    async def __call__(self, tenant: TenantId, budget: BudgetId | NodeKey) -> Budget:
        """Raises: BudgetNotFound, NodeNotFound, BudgetStays, BudgetInUse."""
        own = tenant_budget_id(tenant)
        needs = SpendNeeds(
            tenants=frozenset((tenant,)),
            spenders=frozenset((tenant,)),
            budgets=frozenset((own,)) if isinstance(budget, NodeKey) else frozenset((own, budget)),
            nodes=frozenset(((tenant, budget),)) if isinstance(budget, NodeKey) else frozenset(),
        )
        shown = budget.full_name if isinstance(budget, NodeKey) else from_uuid("budget", budget)
        note(target=shown, details={})
        async with self._begin((tenant,)) as work:
            await work.claim_once()
            book = await work.load(needs, now=self._clock.now())
            found = book.named(tenant, budget) if isinstance(budget, NodeKey) else budget
            if found is None:
                raise NodeNotFound(shown)
            removed = book.remove(tenant, found)
            await work.save(book.changes())
            await work.keep_once(removed)
            await work.commit()
        return removed
