"""Changes the limit of a budget."""

from services.cost.domain.budget import Budget, BudgetId, tenant_budget_id
from services.cost.usecases.ports import BeginWork, LastSeen, SpendNeeds
from services.cost.usecases.report import report
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.money import NanoUsd


class SetBudgetLimit:
    """Raises or lowers a limit. A limit below what is spent and held shows as overrun, and is an alert.

    It is first decided on the budget as it was last seen, and written in one round trip if it is still so; else, and
    before anything is refused, the same rules decide it on the locked row.
    """

    def __init__(self, *, begin: BeginWork, last_seen: LastSeen, clock: Clock) -> None:
        self._begin = begin
        self._last_seen = last_seen
        self._clock = clock

    async def __call__(self, tenant: TenantId, budget: BudgetId, limit: NanoUsd) -> Budget:
        """Raises: BudgetNotFound; QuotaExceeded: the tenant's own, beyond what the tenant may spend."""
        note(target=from_uuid("budget", budget), details={"limit_nano_usd": limit})
        needs = SpendNeeds(
            tenants=frozenset((tenant,)),
            spenders=frozenset((tenant,)) if budget == tenant_budget_id(tenant) else frozenset(),
            budgets=frozenset((budget,)),
        )
        return await self._at_once(needs, tenant, budget, limit) or await self._locked(needs, tenant, budget, limit)

    async def _at_once(self, needs: SpendNeeds, tenant: TenantId, budget: BudgetId, limit: NanoUsd) -> Budget | None:
        """Decides on the row as last seen; None, and nothing is done, when that cannot be trusted."""
        book = self._last_seen.recall(needs, now=self._clock.now())
        if book is None:
            return None
        try:
            changed = book.set_limit(tenant, budget, limit)
        except MeshError:
            return None
        changes = book.changes()
        # What changes nothing proves nothing about the row; alerts and periods that turn take the longer way.
        if not changes.budgets or changes.alerts or changes.budgets[0].turn != changes.seen_budgets[0].turn:
            return None
        if not await self._last_seen.limit_if_unchanged(changes):
            return None
        report(changes)
        return changed

    async def _locked(self, needs: SpendNeeds, tenant: TenantId, budget: BudgetId, limit: NanoUsd) -> Budget:
        async with self._begin((tenant,)) as work:
            await work.claim_once()
            book = await work.load(needs, now=self._clock.now())
            changed = book.set_limit(tenant, budget, limit)
            changes = book.changes()
            await work.save(changes)
            await work.keep_once(changed)
            await work.commit()
        report(changes)
        return changed
