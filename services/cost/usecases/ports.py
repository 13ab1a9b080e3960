"""What cost needs from outside."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from services.cost.domain.amounts import Amounts
from services.cost.domain.budget import Budget, BudgetId, BudgetScope
from services.cost.domain.budget_alert import BudgetAlertId
from services.cost.domain.changes import Changes
from services.cost.domain.hold import HoldId
from services.cost.domain.node import NodeKey
from services.cost.domain.price import Price
from services.cost.domain.price_table import ShippedPrices
from services.cost.domain.spend_book import Recount, SpendBook
from services.meshkit.content import CallContext
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendNeeds:
    """Which rows a transaction is about."""

    #: Tenants of the transaction; it sees no row of another.
    tenants: frozenset[TenantId]
    #: Tenants whose own budget is made if it is missing.
    spenders: frozenset[TenantId] = frozenset()
    #: Budgets to lock.
    budgets: frozenset[BudgetId] = frozenset()
    #: Requests that may have made their hold before.
    requests: frozenset[tuple[TenantId, UUID]] = frozenset()
    #: Holds whose money moves; their budgets are locked too.
    moved: frozenset[HoldId] = frozenset()
    #: Holds that only change their state.
    marked: frozenset[HoldId] = frozenset()
    #: Calls whose project, agent and steps may have budgets; these are locked too.
    calls: tuple[tuple[TenantId, CallContext], ...] = ()
    #: Nodes to lock by name, if they exist.
    nodes: frozenset[tuple[TenantId, NodeKey]] = frozenset()


class UnitOfWork(Protocol):
    """One transaction. Leaving it without `commit` rolls everything back."""

    async def load(self, needs: SpendNeeds, *, now: datetime) -> SpendBook:
        """Locks the rows, budgets first and each kind in id order, and gives them as a book. Call it once.

        Whoever names nodes waits for others who do, so that a node is made once.
        """
        ...

    async def save(self, changes: Changes) -> None:
        """Writes what the book changed, alerts included."""
        ...

    async def nodes(self, tenant: TenantId) -> int:
        """Counts the tenant's nodes that stand beside calls. Exact once the tenant's own budget is loaded."""
        ...

    async def charged(self, tenant: TenantId, recount: Recount) -> Amounts | None:
        """Counts in the ledger what was charged to a budget since a moment; None: too much to count. Exact once the
        budget is loaded.
        """
        ...

    async def claim_once(self) -> None:
        """Claims the running request before the work, if it has an id; a repeat of it leaves by `AnsweredBefore`."""
        ...

    async def keep_once(self, budget: Budget, /) -> None:
        """Keeps the answer to the running request, if it has an id."""
        ...

    async def commit(self) -> None:
        """Makes it durable."""
        ...


class BeginWork(Protocol):
    """Opens a transaction for some tenants."""

    def __call__(self, tenants: Iterable[TenantId], /) -> AbstractAsyncContextManager[UnitOfWork]: ...


class RunBudgets(Protocol):
    """The budgets of runs, as they are made."""

    async def add_budget(self, budget: Budget) -> Budget:
        """Adds a run's budget, with the audit entry; gives the one that the run has already, if it has one."""
        ...


class LastSeen(Protocol):
    """Budgets and open holds as this process last saw them, to decide on without locks what is checked when written."""

    def recall(self, needs: SpendNeeds, *, now: datetime) -> SpendBook | None:
        """Gives the rows as a book that may be out of date; None when some of them were not seen.

        Requests are taken for new ones. What the book refuses, and what it leaves as it is, may be wrong.
        """
        ...

    def stands(self, changes: Changes) -> bool:
        """True when the rows that changes rest on are still those that were last seen."""
        ...

    async def write_if_unchanged(self, tenants: Iterable[TenantId], changes: Changes) -> bool:
        """Writes and commits changes if every row that they rest on is as it was seen, and their requests are new.

        Until they are committed, or found to be impossible, their rows are recalled as if they were.

        Returns: False when nothing was written: decide again, on locked rows.
        """
        ...

    async def limit_if_unchanged(self, changes: Changes) -> bool:
        """Writes the limit of one budget if that is as it was seen, with the audit entry and the kept answer.

        Args:
            changes: of one budget, without alerts.
        Returns: False when nothing was written, also because the request came before: decide again, on the locked row.
        """
        ...


class Sweep(Protocol):
    """One transaction of background work over all tenants."""

    async def load_due(self, *, now: datetime, most: int, without: Collection[TenantId] = ()) -> SpendBook | None:
        """Locks open holds past their time and their budgets, oldest first; None when there are none.

        Holds that another transaction is working on are left to it, and those of tenants `without` are left alone.
        """
        ...

    async def save(self, changes: Changes) -> None:
        """Writes what the book changed, alerts included."""
        ...

    async def commit(self) -> None:
        """Makes it durable."""
        ...


class BeginSweep(Protocol):
    """Opens a transaction of background work."""

    def __call__(self) -> AbstractAsyncContextManager[Sweep]: ...


class TreeRows(NamedTuple):
    """The budgets of a tree, and what is not among them."""

    budgets: list[Budget]
    #: True when there are older runs.
    more_runs: bool
    #: Budgets of steps of older runs.
    steps_left_out: int


class BudgetReader(Protocol):
    """Reads budgets of one tenant."""

    async def get(self, tenant: TenantId, budget: BudgetId) -> Budget:
        """Raises: BudgetNotFound."""
        ...

    async def find(self, tenant: TenantId, key: NodeKey) -> Budget:
        """Gives the node, or the budget of a run, of this name. Raises: NodeNotFound."""
        ...

    async def page(
        self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None, scope: BudgetScope | None = None
    ) -> list[Budget]:
        """Lists budgets, newest first, from the one after `after` on; of one scope or of all."""
        ...

    async def tree(self, tenant: TenantId, *, most_runs: int) -> TreeRows:
        """Lists the tenant's own budget, all its nodes, and the budgets of its newest runs, in no order.

        Steps of runs that have a budget and are not among these are left out with them.
        """
        ...


class KeptAlert(NamedTuple):
    """Something that people should know about a budget, as it was told."""

    id: BudgetAlertId
    at: datetime
    #: Body of the message that told of it.
    body: bytes


class BudgetAlerts(Protocol):
    """Reads alerts of one tenant's budgets. They are written with what they are about."""

    async def page(
        self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None, budget: BudgetId | None = None
    ) -> list[KeptAlert]:
        """Lists alerts, newest first, from the one after `after` on; of one budget or of all."""
        ...


class PriceStore(Protocol):
    """Keeps the price table, which belongs to no tenant."""

    async def all(self) -> list[Price]:
        """Reads every price, past ones too."""
        ...

    async def replace_current(self, shipped: ShippedPrices, free: Sequence[Price], *, now: datetime) -> tuple[int, int]:
        """Adds prices that are not there yet and ends those they replace.

        A shipped list is left out when one of a later edition came before: what a later release knows stays.

        Returns: how many it added, and the edition that the table is of.
        """
        ...
