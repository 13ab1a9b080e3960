"""Budgets and open holds as this process last saw them, or is about to write them."""

from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from services.cost.domain.budget import Budget, BudgetId, tenant_budget_id
from services.cost.domain.changes import Changes
from services.cost.domain.hold import OPEN_STATES, Hold, HoldId
from services.cost.domain.node import Tree, nodes_beside
from services.cost.usecases.ports import SpendNeeds
from services.meshkit.core.identity import TenantId

_MOST_BUDGETS: Final = 10_000
#: Those of calls in progress; one takes about 2 KB.
_MOST_HOLDS: Final = 10_000
#: Nodes of all trees together; one takes about 300 bytes.
_MOST_NODES: Final = 100_000

Key = TypeVar("Key", bound=UUID)
Row = TypeVar("Row")


class SeenRows:
    """A bounded memory of rows. What it gives may be out of date or ahead; the database has the last word."""

    def __init__(self) -> None:
        self._budgets: dict[BudgetId, Budget] = {}
        self._holds: dict[HoldId, Hold] = {}
        self._trees: dict[TenantId, Tree] = {}
        self._nodes = 0

    def recall(self, needs: SpendNeeds) -> tuple[list[Budget], list[Hold]] | None:
        """Gives what a transaction needs, None if some of it was not seen. Requests are taken for new ones."""
        try:
            holds = [self._holds[hold] for hold in needs.moved | needs.marked]
            names = needs.budgets.union(*(hold.budgets for hold in holds))
            names |= self._beside(needs)
            return [self._budgets[name] for name in names], holds
        except KeyError:
            return None

    def learn(self, changes: Changes) -> None:
        """Takes in what a transaction saw and changes."""
        for budget in (*changes.seen_budgets, *changes.budgets, *changes.defined):
            _renew(self._budgets, budget.id, budget, most=_MOST_BUDGETS)
        for hold in (*changes.new_holds, *changes.holds):
            if hold.state in OPEN_STATES:
                _renew(self._holds, hold.id, hold, most=_MOST_HOLDS)
            else:
                self._holds.pop(hold.id, None)

    def has(self, budgets: Iterable[Budget], holds: Iterable[Hold]) -> bool:
        """True when it would give these very rows."""
        return all(self._budgets.get(budget.id) is budget for budget in budgets) and all(
            self._holds.get(hold.id) is hold for hold in holds
        )

    def know(self, budget: Budget) -> None:
        """Takes in a budget that was made."""
        _renew(self._budgets, budget.id, budget, most=_MOST_BUDGETS)

    def knows_tree(self, own: Budget) -> bool:
        """True when it has the tree of a tenant's own budget in this version."""
        known = self._trees.get(own.tenant)
        return own.tree == 0 or (known is not None and known.version == own.tree)

    def know_tree(self, tenant: TenantId, tree: Tree) -> None:
        """Takes in which nodes stand beside a tenant's calls."""
        old = self._trees.pop(tenant, None)
        self._nodes += len(tree.ids) - (0 if old is None else len(old.ids))
        if self._nodes > _MOST_NODES:
            self._trees.clear()
            self._nodes = len(tree.ids)
        self._trees[tenant] = tree

    def _beside(self, needs: SpendNeeds) -> set[BudgetId]:
        """Gives the nodes that the calls of a transaction spend from by what they are. KeyError: not known."""
        grown = {tenant for tenant in needs.spenders if self._budgets[tenant_budget_id(tenant)].tree}
        if not all(self.knows_tree(self._budgets[tenant_budget_id(tenant)]) for tenant in grown):
            raise KeyError
        found: set[BudgetId] = set()
        for tenant, context in needs.calls:
            if tenant in grown:
                ids = self._trees[tenant].ids
                found |= {ids[key] for key in nodes_beside(context) if key in ids}
        return found

    def forget(self, changes: Changes) -> None:
        """Drops rows that turned out to be different."""
        _drop(self._budgets, (budget.id for budget in changes.seen_budgets))
        _drop(self._holds, (hold.id for hold in (*changes.seen_holds, *changes.new_holds)))


def _renew(rows: dict[Key, Row], key: Key, row: Row, *, most: int) -> None:
    """Puts a row last, and drops the first ones when there are too many."""
    rows.pop(key, None)
    rows[key] = row
    if len(rows) > most:
        _drop(rows, list(islice(rows, most // 10)))


def _drop(rows: dict[Key, Row], keys: Iterable[Key]) -> None:
    for key in keys:
        rows.pop(key, None)
