"""What estimates need from others."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from services.meshkit.core.identity import Caller, TenantId
from services.orchestrator.domain.estimator import Habits
from services.orchestrator.domain.preflight import BudgetLevel
from services.orchestrator.domain.run_shape import Prices, RunShape


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedRun:
    """What a run was estimated at before it was learnt from, and what it took."""

    run_id: str
    #: `workflow:<name>` or `session:<mode>/<strategy>`.
    name: str
    #: `name@version`; of a session its mode.
    reference: str
    project: str
    #: Low bound, median and high bound by amount; milliseconds instead of seconds.
    estimated: tuple[tuple[int, int, int], ...]
    #: By amount.
    actual: tuple[int, ...]
    #: Runs that the estimate rested on.
    calibrated_on: int
    end_time: datetime


class Lesson(Protocol):
    """A transaction in which one tenant's runs are learnt from, one replica at a time."""

    async def take(self, run_ids: Sequence[str]) -> Collection[str]:
        """Gives those that nobody has learnt from; from now on somebody has."""
        ...

    async def habits(self, shapes: Sequence[RunShape]) -> tuple[Habits, dict[str, Prices]]:
        """Gives what is known of these runs, and what their models cost as far as that is known."""
        ...

    async def keep(self, habits: Habits, prices: Mapping[str, Prices], runs: Sequence[EstimatedRun]) -> None:
        """Keeps what was learnt, and commits."""
        ...


class EstimateStore(Protocol):
    """Keeps what is learnt of runs, by tenant."""

    async def habits(self, tenant: TenantId, shape: RunShape) -> tuple[Habits, dict[str, Prices]]:
        """Gives what is known of a run, and what its models were known to cost at last."""
        ...

    async def keep_prices(self, tenant: TenantId, prices: Mapping[str, Prices]) -> None:
        """Keeps what models cost, for when nobody can say."""
        ...

    async def page(
        self, tenant: TenantId, *, name: str, before: UUID | None, most: int, run: UUID | None = None
    ) -> tuple[Sequence[EstimatedRun], bool]:
        """Gives runs newest first, those older than `before`; and whether there are more.

        Args:
            name: only runs of this name; empty for all.
            run: only this one; None for all.
        """
        ...

    async def coverage(self, tenant: TenantId, *, name: str) -> tuple[int, int]:
        """Gives how many of the estimated costs were held against what came, and how many intervals held it."""
        ...


class LessonPlan(Protocol):
    """Finds the runs that are to be learnt from."""

    async def gather(self, since: UUID, until: UUID) -> int:
        """Notes runs with ids after the one and before the other, a bounded number; says how many are new."""
        ...

    async def due(self, *, most: int, but: Collection[str]) -> Sequence[tuple[TenantId, str]]:
        """Gives noted runs that have ended, those of one tenant after one another, every tenant having its turn."""
        ...

    def lesson(self, tenant: TenantId) -> AbstractAsyncContextManager[Lesson]:
        """Opens the transaction in which a tenant's runs are learnt from."""
        ...

    async def forget_old(self) -> tuple[int, bool]:
        """Deletes what is beyond the number that is kept of each tenant, a bounded number; says how much, and whether
        there may be more.
        """
        ...


class ModelPrices(Protocol):
    """Knows what models cost."""

    async def of(self, caller: Caller, models: Collection[str]) -> dict[str, Prices]:
        """Gives the prices of those that have one. `default` is the first of the mesh's chain.

        Raises: MeshError: they are not to be had by this caller, or now.
        """
        ...

    async def by_cost(self, caller: Caller) -> Sequence[tuple[str, Prices]]:
        """Gives all models that can be asked by name and have a price, the cheapest answer first.

        Raises: MeshError: they are not to be had by this caller, or now.
        """
        ...


class BudgetLevels(Protocol):
    """Knows the budgets that a run spends from beside its own."""

    async def of(self, caller: Caller, project: str) -> Sequence[BudgetLevel]:
        """Gives them. Raises: MeshError: the caller may not see one, or nobody can say now."""
        ...
