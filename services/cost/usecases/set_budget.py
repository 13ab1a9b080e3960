"""Sets what people decide about a budget."""

from services.cost.domain.budget import Budget, BudgetScope, tenant_budget_id
from services.cost.domain.errors import TooManyBudgets
from services.cost.domain.node import MOST_NODES, NodeKey
from services.cost.domain.terms import TermsChange
from services.cost.usecases.ports import BeginWork, SpendNeeds
from services.cost.usecases.report import report
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid


class SetBudget:
    """Makes the budget of a project, an agent or a step, or changes it or the tenant's own.

    Calls that are decided meanwhile on what was seen of the tenant's tree are decided again: its version has grown.
    When another period is to be counted, what is spent in it is counted in the ledger under the lock of the budget.
    """

    def __init__(self, *, begin: BeginWork, clock: Clock) -> None:
        self._begin = begin
        self._clock = clock

    async def __call__(self, tenant: TenantId, key: NodeKey, change: TermsChange) -> Budget:
        """Raises: TooManyBudgets; QuotaExceeded and Invalid: the tenant's own, beyond what the operator allows."""
        note(target=_named(tenant, key), details=_noted(change))
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
            recount = book.recounts(tenant, key, change)
            charged = None if recount is None else await work.charged(tenant, recount)
            budget = book.define(tenant, key, change, charged=charged)
            changes = book.changes()
            await work.save(changes)
            await work.keep_once(budget)
            await work.commit()
        report(changes)
        return budget


def _named(tenant: TenantId, key: NodeKey) -> str:
    own = key.scope is BudgetScope.TENANT
    return from_uuid("budget", tenant) if own else key.full_name


def _noted(change: TermsChange) -> dict[str, object]:
    terms = change.to
    said: dict[str, tuple[str, object]] = {
        "limit": ("limit_nano_usd", terms.limit),
        "tokens": ("limit_tokens", terms.tokens),
        "calls": ("limit_calls", terms.calls),
        "wall_ms": ("limit_wall_ms", terms.wall_ms),
        "mode": ("mode", terms.mode.name.lower()),
        "warn_at": ("warn_at_percent", terms.warn_at),
        "period": ("period", terms.period.name.lower()),
        "zone": ("zone", terms.zone),
    }
    named = [said[name] for name in sorted(change.named)]
    return {name: "none" if value is None else value for name, value in named}
