"""What budgets still let be spent, asked of cost."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import grpc.aio

from comitia.cost.v1 import budget_service_pb2, budget_service_pb2_grpc, cost_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Caller
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors
from services.orchestrator.domain.preflight import BudgetLevel

_SECONDS: Final = 2.0
_TENANT: Final = "tenant"


class CostBudgetLevels:
    """Implements `BudgetLevels`."""

    def __init__(self, cost: grpc.aio.Channel, *, clock: Clock) -> None:
        self._clock = clock
        self._budgets = budget_service_pb2_grpc.BudgetServiceStub(cost)

    async def of(self, caller: Caller, project: str) -> Sequence[BudgetLevel]:
        """See `BudgetLevels.of`."""
        levels: list[BudgetLevel] = []
        for name in (_TENANT, *((f"project:{project}",) if project else ())):
            request = budget_service_pb2.GetBudgetRequest(budget_id=name)
            try:
                with remote_errors():
                    answer = await self._budgets.GetBudget(
                        request, timeout=_SECONDS, metadata=call_metadata(caller.principal)
                    )
            except MeshError as error:
                # A project need not have one; who may not see it is stopped by it all the same, once the run spends.
                if error.kind in (ErrorKind.NOT_FOUND, ErrorKind.DENIED, ErrorKind.INVALID):
                    continue
                raise
            levels.append(_level(name, answer.budget, self._clock.now()))
        return levels


def _level(name: str, budget: cost_pb2.Budget, now: datetime) -> BudgetLevel:
    taken = budget.spent_nano_usd + budget.held_nano_usd
    degrades: int | None = None
    if budget.mode == cost_pb2.BUDGET_MODE_DEGRADE:
        degrades = max(budget.limit_nano_usd * budget.warn_at_percent // 100 - taken, 0)
    if budget.HasField("degraded_until_time") and budget.degraded_until_time.ToDatetime(tzinfo=UTC) > now:
        degrades = 0
    return BudgetLevel(
        name=name,
        left=max(budget.limit_nano_usd - taken, 0),
        left_before_degrading=degrades,
        refuses=budget.mode != cost_pb2.BUDGET_MODE_SOFT,
    )
