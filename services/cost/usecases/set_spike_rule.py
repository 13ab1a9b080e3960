"""Has unusual spend degrade a budget, or no longer."""

from services.cost.domain.budget import BudgetId, BudgetScope
from services.cost.domain.node import NodeKey
from services.cost.usecases.forecast_ports import SpikeRule, SpikeRules
from services.cost.usecases.get_budget import GetBudget
from services.meshkit.core.audit import note
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid


class SetSpikeRule:
    """Sets the rule of one budget."""

    def __init__(self, *, get_budget: GetBudget, rules: SpikeRules) -> None:
        self._get_budget = get_budget
        self._rules = rules

    async def __call__(self, tenant: TenantId, wanted: BudgetId | NodeKey, degrade_seconds: int) -> SpikeRule:
        """Raises: BudgetNotFound, NodeNotFound, TooManySpikeRules, Invalid: the budget is that of a step."""
        budget = await self._get_budget(tenant, wanted)
        if budget.scope is BudgetScope.STEP:
            raise Invalid("budget_id", "must not be that of a step: no alert names the step behind it; take its run")
        note(target=from_uuid("budget", budget.id), details={"degrade_seconds": degrade_seconds})
        return await self._rules.put(tenant, SpikeRule(budget=budget.id, degrade_seconds=degrade_seconds))
