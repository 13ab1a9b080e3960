"""Makes the budget of a run."""

from services.cost.domain.budget import Budget, BudgetId, BudgetScope
from services.cost.domain.errors import BudgetExists
from services.cost.usecases.ports import RunBudgets
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource, from_uuid
from services.meshkit.core.money import NanoUsd


class CreateBudget:
    """Gives a run a hard limit, once."""

    def __init__(self, *, budgets: RunBudgets, clock: Clock, ids: IdSource) -> None:
        self._budgets = budgets
        self._clock = clock
        self._ids = ids

    async def __call__(self, tenant: TenantId, run_id: str, limit: NanoUsd, project: str | None = None) -> Budget:
        """Makes the budget, or gives the one that the run has with the same limit and project.

        Args:
            project: of the run, empty for one of none; None: the caller does not say.
        Raises: BudgetExists: the run has one with another limit or project.
        """
        now = self._clock.now()
        wanted = Budget(
            id=BudgetId(self._ids.uuid()),
            tenant=tenant,
            scope=BudgetScope.RUN,
            run_id=run_id,
            project=project,
            limit=limit,
            counted_from=now,
            created=now,
        )
        told = {"project": project} if project else {}
        note(target=from_uuid("budget", wanted.id), details={"run_id": run_id, "limit_nano_usd": limit, **told})
        budget = await self._budgets.add_budget(wanted)
        # Releases before say no project, whether they make the budget or ask for it again.
        if budget.limit != limit or len({project, budget.project} - {None}) > 1:
            note(target=from_uuid("budget", budget.id))
            raise BudgetExists(run_id, limit=budget.limit, project=budget.project)
        return budget
