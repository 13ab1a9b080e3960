"""Lists what happened to budgets."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.cost.domain.budget import BudgetId, BudgetScope
from services.cost.domain.errors import NodeNotFound
from services.cost.domain.node import NodeKey
from services.cost.usecases.get_budget import GetBudget
from services.cost.usecases.ports import BudgetAlerts, KeptAlert
from services.meshkit.core.identity import TenantId


class ListBudgetAlerts:
    """Lists alerts of a tenant's budgets, or of one. A budget that was removed is found by its id."""

    def __init__(self, *, get_budget: GetBudget, alerts: BudgetAlerts) -> None:
        self._get_budget = get_budget
        self._alerts = alerts

    async def __call__(
        self,
        tenant: TenantId,
        budget: BudgetId | NodeKey | None,
        *,
        bound_to: str | None,
        size: int,
        after: tuple[datetime, UUID] | None,
    ) -> Sequence[KeptAlert]:
        """Gives up to `size` of them, newest first, from the one after `after` on.

        Args:
            budget: whose alerts; None: of all.
            bound_to: project that the caller is bound to; then the alerts of its budget are all there are.
        Raises: BudgetNotFound, NodeNotFound.
        """
        if bound_to is not None:
            return await self._of_project(tenant, budget, bound_to, size=size, after=after)
        named = (await self._get_budget(tenant, budget)).id if isinstance(budget, NodeKey) else budget
        found = await self._alerts.page(tenant, size=size, after=after, budget=named)
        if not found and named is not None:
            await self._get_budget(tenant, named)
        return found

    async def _of_project(
        self,
        tenant: TenantId,
        budget: BudgetId | NodeKey | None,
        project: str,
        *,
        size: int,
        after: tuple[datetime, UUID] | None,
    ) -> Sequence[KeptAlert]:
        try:
            own = await self._get_budget(tenant, budget or NodeKey(BudgetScope.PROJECT, project), bound_to=project)
        except NodeNotFound:
            if budget is not None:
                raise
            return ()
        return await self._alerts.page(tenant, size=size, after=after, budget=own.id)
