"""Budgets as a tree: the tenant's own, projects and agents below it, runs, and their steps by path."""

from collections.abc import Iterable
from typing import NamedTuple

from services.cost.domain.budget import Budget, BudgetId, BudgetScope


class Place(NamedTuple):
    """Where a budget stands."""

    budget: Budget
    #: None for the tenant's own.
    parent: BudgetId | None
    #: How many are above it.
    depth: int


def as_tree(budgets: Iterable[Budget]) -> list[Place]:
    """Orders a tenant's budgets so that each comes after the one above it: projects, agents, then the newest runs.

    A step stands below the nearest step above it that has a budget, else below its run; a run below its project. Where
    these have none, it stands below the tenant's own.
    """
    found = list(budgets)
    own = [budget for budget in found if budget.scope is BudgetScope.TENANT]
    by_project = {budget.name: budget for budget in found if budget.scope is BudgetScope.PROJECT}
    by_path = {path: budget for budget in found if (path := _path_of(budget)) is not None}
    root = own[0].id if own else None
    below: dict[BudgetId | None, list[Budget]] = {}
    for budget in found:
        above = by_project.get(budget.project or "") if budget.scope is BudgetScope.RUN else _above(budget, by_path)
        parent = None if budget.scope is BudgetScope.TENANT else above.id if above else root
        below.setdefault(parent, []).append(budget)
    places: list[Place] = []
    waiting = [Place(budget, None, 0) for budget in sorted(below.get(None, ()), key=_order, reverse=True)]
    while waiting:
        place = waiting.pop()
        places.append(place)
        children = sorted(below.get(place.budget.id, ()), key=_order, reverse=True)
        waiting += [Place(child, place.budget.id, place.depth + 1) for child in children]
    return places


def run_of(step: Budget) -> str:
    """Names the run that a step lies in."""
    return step.name.partition("/")[0]


def _path_of(budget: Budget) -> str | None:
    if budget.scope is BudgetScope.RUN:
        return budget.run_id
    return budget.name if budget.scope is BudgetScope.STEP else None


def _above(budget: Budget, by_path: dict[str, Budget]) -> Budget | None:
    path = budget.name if budget.scope is BudgetScope.STEP else ""
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in by_path:
            return by_path[path]
    return None


_ORDER = (BudgetScope.TENANT, BudgetScope.PROJECT, BudgetScope.AGENT, BudgetScope.RUN, BudgetScope.STEP)


def _order(budget: Budget) -> tuple[int, float, str]:
    newest_first = -budget.created.timestamp() if budget.scope is BudgetScope.RUN else 0.0
    return _ORDER.index(budget.scope), newest_first, budget.name
