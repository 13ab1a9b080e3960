"""The ledger in memory: behaves as the database does, transactions and tenants included."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from services.cost.domain.amounts import Amounts
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.budget_alert import BudgetAlert
from services.cost.domain.budget_tree import run_of
from services.cost.domain.changes import Changes
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.errors import BudgetNotFound, NodeNotFound
from services.cost.domain.hold import CHARGED_STATES, OPEN_STATES, Hold, HoldId
from services.cost.domain.node import BESIDE, NodeKey, key_of, nodes_beside
from services.cost.domain.spend_book import Recount, SpendBook
from services.cost.transport.convert import alert_to_message
from services.cost.usecases.ports import KeptAlert, SpendNeeds, Sweep, TreeRows, UnitOfWork
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd


@dataclass(slots=True)
class _Rows:
    budgets: dict[BudgetId, Budget] = field(default_factory=dict[BudgetId, Budget])
    holds: dict[HoldId, Hold] = field(default_factory=dict[HoldId, Hold])
    entries: list[CostEvent] = field(default_factory=list[CostEvent])
    alerts: list[BudgetAlert] = field(default_factory=list[BudgetAlert])

    def beside(self, needs: SpendNeeds) -> set[BudgetId]:
        keys = {(tenant, key) for tenant, context in needs.calls for key in nodes_beside(context)} | needs.nodes
        return {budget.id for budget in self.nodes() if (budget.tenant, key_of(budget)) in keys}

    def nodes(self) -> list[Budget]:
        return [budget for budget in self.budgets.values() if budget.scope in BESIDE and not budget.removed]

    def copy(self) -> "_Rows":
        return _Rows(dict(self.budgets), dict(self.holds), list(self.entries), list(self.alerts))


class MemorySpendStore:
    """Opens transactions one after the other, as if each locked everything."""

    def __init__(
        self, *, tenant_limit: int = 1000, moved: Callable[[Iterable[Budget]], None] = lambda budgets: None
    ) -> None:
        self.rows = _Rows()
        self.tenant_limit = NanoUsd(tenant_limit)
        self.moved = moved
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def begin(self, tenants: Iterable[TenantId], /) -> AsyncGenerator[UnitOfWork]:
        async with self._lock:
            yield _Work(self, _listed(tenants))

    @asynccontextmanager
    async def sweep(self) -> AsyncGenerator[Sweep]:
        async with self._lock:
            yield _Work(self, None)

    def recall(self, needs: SpendNeeds, *, now: datetime) -> SpendBook | None:
        holds = [self.rows.holds.get(name) for name in needs.moved | needs.marked]
        opened = [hold for hold in holds if hold is not None and hold.state in OPEN_STATES]
        budgets = {name: self.rows.budgets.get(name) for name in needs.budgets}
        for hold in opened:
            budgets |= {name: self.rows.budgets.get(name) for name in hold.budgets}
        budgets |= {name: self.rows.budgets[name] for name in self.rows.beside(needs)}
        known = [budget for budget in budgets.values() if budget is not None]
        if len(opened) < len(holds) or len(known) < len(budgets):
            return None
        return SpendBook(known, opened, now=now, new_id=uuid4)

    def stands(self, changes: Changes) -> bool:
        budgets, holds = self.rows.budgets, self.rows.holds
        return all(budgets.get(seen.id) == seen for seen in changes.seen_budgets) and all(
            holds.get(seen.id) == seen for seen in changes.seen_holds
        )

    async def write_if_unchanged(self, tenants: Iterable[TenantId], changes: Changes) -> bool:
        async with self._lock:
            rows, mine = self.rows, _listed(tenants)
            requests = {(hold.tenant, hold.request_id) for hold in rows.holds.values()}
            if (
                not self.stands(changes)
                or any(seen.tenant not in mine for seen in (*changes.seen_budgets, *changes.seen_holds))
                or any((hold.tenant, hold.request_id) in requests for hold in changes.new_holds)
            ):
                return False
            work = _Work(self, mine)
            await work.save(changes)
            await work.commit()
        return True

    async def limit_if_unchanged(self, changes: Changes) -> bool:
        (changed,) = changes.budgets
        return await self.write_if_unchanged((changed.tenant,), changes)

    async def add_budget(self, budget: Budget) -> Budget:
        async with self._lock:
            for known in self.rows.budgets.values():
                if known.tenant == budget.tenant and known.run_id == budget.run_id is not None:
                    return known
            self.rows.budgets[budget.id] = budget
        return budget

    async def get(self, tenant: TenantId, budget: BudgetId) -> Budget:
        found = self.rows.budgets.get(budget)
        if found is None or found.tenant != tenant or found.removed:
            raise BudgetNotFound(budget)
        return found

    async def find(self, tenant: TenantId, key: NodeKey) -> Budget:
        for budget in self.rows.budgets.values():
            name = budget.run_id if key.scope is BudgetScope.RUN else budget.name
            if (budget.tenant, budget.scope, name, budget.removed) == (tenant, key.scope, key.name, False):
                return budget
        raise NodeNotFound(key.full_name)

    async def tree(self, tenant: TenantId, *, most_runs: int) -> TreeRows:
        runs = await self.page(tenant, size=10**6, after=None, scope=BudgetScope.RUN)
        older = {run.run_id for run in runs[most_runs:]}
        mine = [budget for budget in self.rows.budgets.values() if budget.tenant == tenant and not budget.removed]
        nodes = [budget for budget in mine if budget.scope is not BudgetScope.RUN]
        kept = [node for node in nodes if node.scope is not BudgetScope.STEP or run_of(node) not in older]
        return TreeRows([*kept, *runs[:most_runs]], bool(older), len(nodes) - len(kept))

    async def page(
        self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None, scope: BudgetScope | None = None
    ) -> list[Budget]:
        mine = [budget for budget in self.rows.budgets.values() if budget.tenant == tenant and not budget.removed]
        mine = [budget for budget in mine if scope is None or budget.scope is scope]
        mine.sort(key=lambda budget: (budget.created, budget.id), reverse=True)
        return [budget for budget in mine if after is None or (budget.created, budget.id) < after][:size]

    async def entries(self, tenant: TenantId) -> list[CostEvent]:
        return [entry for entry in self.rows.entries if entry.tenant == tenant]

    @property
    def alerts(self) -> "MemoryBudgetAlerts":
        return MemoryBudgetAlerts(self)


@dataclass(frozen=True, slots=True)
class MemoryBudgetAlerts:
    """Reads the alerts of a store: a `BudgetAlerts`."""

    store: MemorySpendStore

    async def page(
        self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None, budget: BudgetId | None = None
    ) -> list[KeptAlert]:
        mine = [alert for alert in self.store.rows.alerts if alert.budget.tenant == tenant]
        mine = [alert for alert in mine if budget in (None, alert.budget.id)]
        kept = sorted((KeptAlert(one.id, one.at, alert_to_message(one)[1]) for one in mine), reverse=True, key=_place)
        return [one for one in kept if after is None or _place(one) < after][:size]


def _place(alert: KeptAlert) -> tuple[datetime, UUID]:
    return alert.at, alert.id


def _listed(tenants: Iterable[TenantId]) -> frozenset[TenantId]:
    mine = frozenset(tenants)
    assert mine, "a scope is for one tenant at least"
    return mine


class _Work:
    def __init__(self, store: MemorySpendStore, tenants: frozenset[TenantId] | None) -> None:
        self._store = store
        self._tenants = tenants
        self._rows = store.rows.copy()

    async def load(self, needs: SpendNeeds, *, now: datetime) -> SpendBook:
        for tenant in needs.spenders:
            own = Budget(
                id=tenant_budget_id(tenant),
                tenant=tenant,
                scope=BudgetScope.TENANT,
                run_id=None,
                limit=self._store.tenant_limit,
                counted_from=now,
                created=now,
            )
            self._rows.budgets.setdefault(own.id, own)
        holds = [
            hold
            for hold in self._rows.holds.values()
            if self._sees(hold.tenant)
            and (hold.id in needs.moved | needs.marked or (hold.tenant, hold.request_id) in needs.requests)
        ]
        wanted = set(needs.budgets) | {name for hold in holds if hold.id in needs.moved for name in hold.budgets}
        wanted |= self._rows.beside(needs)
        wanted |= {
            one.id for one in self._rows.budgets.values() if one.removed and (one.tenant, key_of(one)) in needs.nodes
        }
        budgets = [self._rows.budgets[name] for name in wanted if name in self._rows.budgets]
        return SpendBook([one for one in budgets if self._sees(one.tenant)], holds, now=now, new_id=uuid4)

    async def load_due(self, *, now: datetime, most: int, without: Collection[TenantId] = ()) -> SpendBook | None:
        open_holds = [hold for hold in self._rows.holds.values() if hold.state in OPEN_STATES]
        due = [hold for hold in open_holds if hold.expires <= now and hold.tenant not in without]
        if not due:
            return None
        due = sorted(due, key=lambda hold: hold.expires)[:most]
        budgets = {name for hold in due for name in hold.budgets}
        return SpendBook([self._rows.budgets[name] for name in budgets], due, now=now, new_id=uuid4)

    async def nodes(self, tenant: TenantId) -> int:
        """See `UnitOfWork.nodes`."""
        return sum(node.tenant == tenant for node in self._rows.nodes())

    async def charged(self, tenant: TenantId, recount: Recount) -> Amounts | None:
        """See `UnitOfWork.charged`."""
        budget, since, _ = recount
        entries = [entry for entry in self._rows.entries if entry.tenant == tenant and entry.created >= since]
        total = [0, 0, 0, 0]
        for name in {entry.hold for entry in entries}:
            hold = self._rows.holds[name]
            mine = [entry for entry in entries if entry.hold == name]
            whole = hold.state in CHARGED_STATES and hold.charged_at is not None and hold.charged_at >= since
            money, tokens = sum(entry.cost for entry in mine), sum(entry.usage.total for entry in mine)
            took = hold.took if whole else Amounts(money, tokens if hold.counts else 0).risen()
            if budget in hold.budgets:
                total = [before + part for before, part in zip(total, took, strict=True)]
        return Amounts(*total)

    async def claim_once(self) -> None:
        """See `UnitOfWork.claim_once`; no request comes twice here."""

    async def keep_once(self, budget: Budget) -> None:
        """See `UnitOfWork.keep_once`."""

    async def save(self, changes: Changes) -> None:
        for budget in (*changes.budgets, *changes.defined):
            for _, gauge in budget.gauges if budget.hard else ():
                assert gauge.limit is None or gauge.spent + gauge.held <= gauge.limit + gauge.overrun
            self._rows.budgets[budget.id] = budget
        for hold in (*changes.new_holds, *changes.holds):
            self._rows.holds[hold.id] = hold
        self._rows.entries += changes.entries
        self._rows.alerts += changes.alerts

    async def commit(self) -> None:
        self._store.rows = self._rows
        self._store.moved(self._rows.budgets.values())

    def _sees(self, tenant: TenantId) -> bool:
        return self._tenants is None or tenant in self._tenants
