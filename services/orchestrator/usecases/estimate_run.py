"""Estimates a run, and holds the estimate against the budgets that the run would spend from."""

from collections.abc import Mapping, Sequence

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Caller
from services.meshkit.core.money import NanoUsd
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.estimator import estimate
from services.orchestrator.domain.preflight import Assessment, BudgetLevel, assess
from services.orchestrator.domain.run_shape import Prices, RunShape
from services.orchestrator.record.run_shapes import shape_of
from services.orchestrator.usecases.estimate_ports import BudgetLevels, EstimateStore, ModelPrices
from services.orchestrator.usecases.run_access import PROJECT
from services.orchestrator.usecases.runs_below import RunsBelow

log = logger(__name__)


class EstimateRun:
    """What a neighbour cannot say now, or not to this caller, is left out, and said to be."""

    def __init__(self, *, store: EstimateStore, prices: ModelPrices, budgets: BudgetLevels, below: RunsBelow) -> None:
        self._store = store
        self._prices = prices
        self._budgets = budgets
        self._below = below

    async def __call__(
        self, caller: Caller, started: journal_pb2.RunStarted, *, max_cost: NanoUsd, metadata: Mapping[str, str]
    ) -> Assessment:
        """Estimates a run.

        Args:
            started: its first fact, as far as it decides what is asked for.
            max_cost: limit of the run's own budget.
        """
        tenant = caller.principal.tenant
        shape = shape_of(started, await self._below.of(tenant, started))
        habits, kept = await self._store.habits(tenant, shape)
        found, prices_known = await self._known_prices(caller, shape, kept)
        levels, budgets_known = await self._levels(caller, metadata.get(PROJECT, ""))
        return assess(
            estimate(shape, habits, {**kept, **found}),
            [BudgetLevel(name="run", left=max_cost), *levels],
            budgets_known=budgets_known,
            prices_known=prices_known,
        )

    async def cheaper(self, caller: Caller, started: journal_pb2.RunStarted) -> list[str]:
        """Gives models that cost less than the dearest one that a run asks, the dearest of them first.

        Raises: MeshError: nobody can say now, or not to this caller.
        """
        tenant = caller.principal.tenant
        asked = {turn.model for turn in shape_of(started, await self._below.of(tenant, started)).turns()}
        known = await self._prices.of(caller, asked)
        dearest = max(((one.output, one.input) for one in known.values()), default=None)
        if dearest is None:
            return []
        by_cost = await self._prices.by_cost(caller)
        return [name for name, one in reversed(by_cost) if (one.output, one.input) < dearest and name not in asked]

    async def _known_prices(
        self, caller: Caller, shape: RunShape, kept: Mapping[str, Prices]
    ) -> tuple[dict[str, Prices], bool]:
        """Gives the prices of now, and whether those are all that this caller will ever be told."""
        try:
            found = await self._prices.of(caller, {turn.model for turn in shape.turns()})
        except MeshError as error:
            log.info("prices are taken from before", cause=error.message)
            return {}, error.kind is ErrorKind.DENIED
        changed = {model: price for model, price in found.items() if kept.get(model) != price}
        if changed:
            # Whoever learns from runs asks nobody: it knows of prices what is kept here.
            await self._store.keep_prices(caller.principal.tenant, changed)
        return found, True

    async def _levels(self, caller: Caller, project: str) -> tuple[Sequence[BudgetLevel], bool]:
        """Gives the budgets beside the run's own that this caller may see, and whether cost has said which."""
        try:
            return await self._budgets.of(caller, project), True
        except MeshError as error:
            log.info("an estimate is held against the run's own budget alone", cause=error.message)
            return (), False
