"""Names of the nodes of a tenant's budget tree, and which of them a call spends from."""

from collections.abc import Collection
from dataclasses import replace
from operator import attrgetter
from typing import Final, NamedTuple

from services.cost.domain.budget import Budget, BudgetId, BudgetScope, full_name
from services.cost.domain.hold import Hold
from services.meshkit.content import CallContext
from services.meshkit.core.identity import TenantId

#: Levels of a step's path that may have a budget; what lies deeper spends from those.
MOST_LEVELS: Final = 16
#: Nodes besides the tenant's own and those of runs that one tenant may have.
MOST_NODES: Final = 1000


#: Scopes whose nodes stand beside a call: it spends from them because of what it is, without naming them.
BESIDE: Final = frozenset({BudgetScope.PROJECT, BudgetScope.STEP, BudgetScope.AGENT})


class NodeKey(NamedTuple):
    """Names a node that stands beside calls."""

    scope: BudgetScope
    #: The project, the agent, or for a step its run and path, `run_…/rounds/2`.
    name: str

    @property
    def full_name(self) -> str:
        """The name as people give it, such as `project:atlas`."""
        return full_name(self.scope, self.name)


def key_of(budget: Budget) -> NodeKey:
    """Gives a budget's name among the nodes that stand beside calls."""
    return NodeKey(budget.scope, budget.name)


def nodes_beside(context: CallContext) -> list[NodeKey]:
    """Lists the nodes that a call would spend from, if they exist: its project, its agent, and the steps it lies in.

    Those are steps of its own run, and of the runs above it that had it started.
    """
    keys: list[NodeKey] = []
    if context.project:
        keys.append(NodeKey(BudgetScope.PROJECT, context.project))
    if context.agent_name:
        keys.append(NodeKey(BudgetScope.AGENT, context.agent_name))
    _add_levels(keys, context.call_id.run_id, context.call_id.path)
    for step in context.parent_steps:
        run_id, _, path = step.partition("/")
        _add_levels(keys, run_id, path)
    return keys


def _add_levels(keys: list[NodeKey], run_id: str, path: str) -> None:
    """Adds a step and the steps above it."""
    name = run_id
    if path:
        for part in path.split("/", MOST_LEVELS)[:MOST_LEVELS]:
            name = f"{name}/{part}"
            keys.append(NodeKey(BudgetScope.STEP, name))


class Nodes:
    """The nodes beside calls among some budgets, by tenant and name: those that stand, and the last one removed."""

    __slots__ = ("_removed", "_standing")

    def __init__(self, budgets: Collection[Budget]) -> None:
        self._standing: dict[tuple[TenantId, NodeKey], BudgetId] = {
            (budget.tenant, key_of(budget)): budget.id
            for budget in budgets
            if budget.scope in BESIDE and not budget.removed
        }
        # A node that comes back is the last one of its name.
        removed = sorted((budget for budget in budgets if budget.removed), key=attrgetter("created", "id"))
        self._removed: dict[tuple[TenantId, NodeKey], BudgetId] = {
            (budget.tenant, key_of(budget)): budget.id for budget in removed
        }

    def standing(self, tenant: TenantId, key: NodeKey) -> BudgetId | None:
        """Gives the node of this name that calls spend from, None if there is none."""
        return self._standing.get((tenant, key))

    def removed(self, tenant: TenantId, key: NodeKey) -> BudgetId | None:
        """Gives the last node of this name that was removed, None if there is none."""
        return self._removed.get((tenant, key))

    def with_those_beside(self, wanted: Hold) -> Hold:
        """Has a hold name the nodes that stand beside its call, too."""
        if not self._standing:
            return wanted
        found = [self._standing.get((wanted.tenant, key)) for key in nodes_beside(wanted.purpose.context)]
        names = {name for name in found if name is not None}
        return replace(wanted, budgets=tuple(sorted(names.union(wanted.budgets)))) if names else wanted

    def put_up(self, node: Budget) -> None:
        """Notes that a node was made, or came back."""
        self._standing[node.tenant, key_of(node)] = node.id

    def take_down(self, node: Budget) -> None:
        """Notes that a node was removed."""
        key = node.tenant, key_of(node)
        del self._standing[key]
        self._removed[key] = node.id


class Tree(NamedTuple):
    """Which nodes of a tenant stand beside calls, at one version."""

    version: int
    ids: dict[NodeKey, BudgetId]
