"""Names of the nodes of a tenant's budget tree, and which of them a call spends from."""

from typing import Final, NamedTuple

from services.cost.domain.budget import Budget, BudgetId, BudgetScope, full_name
from services.meshkit.content import CallContext

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


class Tree(NamedTuple):
    """Which nodes of a tenant stand beside calls, at one version."""

    version: int
    ids: dict[NodeKey, BudgetId]
