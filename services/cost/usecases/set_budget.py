"""Sets all that people decide about a budget."""

from services.cost.domain.budget import Budget, BudgetScope, Terms, tenant_budget_id
from services.cost.domain.errors import TooManyBudgets
from services.cost.domain.node import MOST_NODES, NodeKey
from services.cost.domain.period import Period
from services.cost.usecases.ports import BeginWork, SpendNeeds
from services.cost.usecases.report import report
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.tenant import KnowsTenants, QuotaExceeded, rules_of


class SetBudget:
    """Makes the budget of a project, an agent or a step, or changes it or the tenant's own.

    Calls that are decided meanwhile on what was seen of the tenant's tree are decided again: its version has grown.
    """

    def __init__(self, *, begin: BeginWork, tenants: KnowsTenants, clock: Clock) -> None:
        self._begin = begin
        self._tenants = tenants
        self._clock = clock

    async def __call__(self, tenant: TenantId, key: NodeKey, terms: Terms) -> Budget:
        """Raises: TooManyBudgets; QuotaExceeded and Invalid: the tenant's own, beyond what the operator allows."""
        note(target=_named(tenant, key), details=_noted(terms))
        own = key.scope is BudgetScope.TENANT
        needs = SpendNeeds(
            tenants=frozenset((tenant,)),
            spenders=frozenset((tenant,)),
            budgets=frozenset((tenant_budget_id(tenant),)),
            nodes=frozenset() if own else frozenset(((tenant, key),)),
        )
        async with self._begin((tenant,)) as work:
            await work.claim_once()
            book = await work.load(needs, now=self._clock.now())
            if not own and book.named(tenant, key) is None and await work.nodes(tenant) >= MOST_NODES:
                raise TooManyBudgets(most=MOST_NODES)
            budget = book.define(tenant, key, terms)
            if own:
                self._refuse_beyond_quota(tenant, budget)
            changes = book.changes()
            await work.save(changes)
            await work.keep_once(budget)
            await work.commit()
        report(changes)
        return budget

    def _refuse_beyond_quota(self, tenant: TenantId, budget: Budget) -> None:
        quota = rules_of(self._tenants, tenant).quotas.max_cost_nano_usd
        if not quota:
            return
        if budget.limit > quota:
            raise QuotaExceeded("max_cost_nano_usd", limit=quota, used=budget.spent + budget.held)
        if not budget.hard:
            raise Invalid("mode", "must be HARD or DEGRADE while the operator limits what the tenant may spend")
        if budget.period is not Period.NONE:
            raise Invalid("period", "must be absent while the operator limits what the tenant may spend")


def _named(tenant: TenantId, key: NodeKey) -> str:
    own = key.scope is BudgetScope.TENANT
    return from_uuid("budget", tenant) if own else key.full_name


def _noted(terms: Terms) -> dict[str, object]:
    limits = {"limit_nano_usd": terms.limit, "limit_tokens": terms.tokens, "limit_calls": terms.calls}
    limits["limit_wall_ms"] = terms.wall_ms
    rules = {"mode": terms.mode.name.lower(), "warn_at_percent": terms.warn_at, "period": terms.period.name.lower()}
    return {**{name: limit for name, limit in limits.items() if limit is not None}, **rules, "zone": terms.zone}
