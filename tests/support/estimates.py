"""What estimates ask of others, without asking anybody."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Caller, TenantId
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.errors import AgentNotFound, WorkflowNotFound
from services.orchestrator.domain.estimator import Habits
from services.orchestrator.domain.preflight import BudgetLevel, PreflightMode
from services.orchestrator.domain.run_shape import Prices, RunShape
from services.orchestrator.domain.workflow import StoredWorkflow
from services.orchestrator.usecases.estimate_ports import EstimatedRun, EstimateStore
from services.orchestrator.usecases.estimate_run import EstimateRun
from services.orchestrator.usecases.preflight import Preflight
from services.orchestrator.usecases.runs_below import RunsBelow
from services.orchestrator.workflows.definition import KnownWorkflow


class FixedPrices:
    """Implements `ModelPrices`."""

    def __init__(self) -> None:
        self.known = {
            "default": Prices(input=2_500_000_000, output=10_000_000_000),
            "large": Prices(input=2_500_000_000, output=10_000_000_000),
            "middle": Prices(input=400_000_000, output=1_600_000_000),
            "small": Prices(input=100_000_000, output=400_000_000),
        }
        self.refusal: MeshError | None = None

    async def of(self, caller: Caller, models: Collection[str]) -> dict[str, Prices]:
        """See `ModelPrices.of`."""
        if self.refusal is not None:
            raise self.refusal
        return {model: self.known[model] for model in models if model in self.known}

    async def by_cost(self, caller: Caller) -> Sequence[tuple[str, Prices]]:
        """See `ModelPrices.by_cost`."""
        if self.refusal is not None:
            raise self.refusal
        named = [(name, price) for name, price in self.known.items() if name != "default"]
        return sorted(named, key=lambda one: one[1].output)


class FixedBudgets:
    """Implements `BudgetLevels`."""

    def __init__(self, *levels: BudgetLevel) -> None:
        self.levels = list(levels)
        self.refusal: MeshError | None = None
        self.asked: list[str] = []

    async def of(self, caller: Caller, project: str) -> Sequence[BudgetLevel]:
        """See `BudgetLevels.of`."""
        self.asked.append(project)
        if self.refusal is not None:
            raise self.refusal
        return self.levels


class MemoryEstimates:
    """Implements `EstimateStore` where nothing was learnt."""

    def __init__(self) -> None:
        self.known = Habits()
        self.prices: dict[str, Prices] = {}

    async def habits(self, tenant: TenantId, shape: RunShape) -> tuple[Habits, dict[str, Prices]]:
        """See `EstimateStore.habits`."""
        return self.known, dict(self.prices)

    async def keep_prices(self, tenant: TenantId, prices: Mapping[str, Prices]) -> None:
        """See `EstimateStore.keep_prices`."""
        self.prices.update(prices)

    async def page(
        self, tenant: TenantId, *, name: str, before: UUID | None, most: int, run: UUID | None = None
    ) -> tuple[Sequence[EstimatedRun], bool]:
        """See `EstimateStore.page`."""
        return [], False

    async def coverage(self, tenant: TenantId, *, name: str) -> tuple[int, int]:
        """See `EstimateStore.coverage`."""
        return 0, 0


class NoWorkflows:
    """Implements `WorkflowStore` where there are none."""

    async def add(self, tenant: TenantId, made: StoredWorkflow, *, written_digest: str) -> StoredWorkflow:
        """See `WorkflowStore.add`."""
        return made

    async def find(self, tenant: TenantId, name: str, version: str) -> StoredWorkflow:
        """See `WorkflowStore.find`."""
        raise WorkflowNotFound(name)

    async def known(
        self, tenant: TenantId, references: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], KnownWorkflow]:
        """See `WorkflowStore.known`."""
        return {}


class NoAgents:
    """Implements `AgentStore` where there are none."""

    async def add(self, tenant: TenantId, agent: Agent) -> Agent:
        """See `AgentStore.add`."""
        return agent

    async def find(self, tenant: TenantId, name: str, version: str) -> Agent:
        """See `AgentStore.find`."""
        raise AgentNotFound(name)

    async def resolve(self, tenant: TenantId, references: Sequence[tuple[str, str]]) -> Sequence[Agent]:
        """See `AgentStore.resolve`."""
        return [await self.find(tenant, name, version) for name, version in references]


def a_preflight(
    below: RunsBelow,
    *,
    store: EstimateStore | None = None,
    prices: FixedPrices | None = None,
    budgets: FixedBudgets | None = None,
    default: PreflightMode = PreflightMode.OFF,
    own: Mapping[TenantId, PreflightMode] | None = None,
) -> Preflight:
    """Puts one together."""
    estimate_run = EstimateRun(
        store=store or MemoryEstimates(),
        prices=prices or FixedPrices(),
        budgets=budgets or FixedBudgets(),
        below=below,
    )
    return Preflight(estimate_run, default=default, own=own or {})
