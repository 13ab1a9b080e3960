"""Asks the cost service to hold what a call of a model may cost."""

from datetime import timedelta
from typing import Final

from comitia.cost.v1 import budget_service_pb2, cost_pb2
from services.inference.domain.deployment import Task
from services.meshkit.calls.cost_holds import CostHolds
from services.meshkit.calls.ports import DispatchedHold
from services.meshkit.content import CallContext, Usage
from services.meshkit.content.proto import usage_to_proto
from services.meshkit.core.identity import Principal

_KINDS: Final = {Task.GENERATE: cost_pb2.COST_KIND_GENERATE, Task.EMBED: cost_pb2.COST_KIND_EMBED}
#: What waiting for money leaves of the caller's time: a model answers within that, nearly always.
_NEEDS: Final = {Task.GENERATE: timedelta(seconds=60), Task.EMBED: timedelta(seconds=10)}


class CostHoldClient(CostHolds):
    """Holds the bounds of calls of models. A `HoldClient`."""

    async def hold(
        self,
        principal: Principal,
        context: CallContext,
        *,
        task: Task,
        provider: str,
        model: str,
        bound: Usage,
        ttl: timedelta,
        cheapest: bool = False,
    ) -> DispatchedHold:
        """See `HoldClient.hold`."""
        order = budget_service_pb2.ReserveRequest(
            kind=_KINDS[task], provider=provider, model=model, bound=usage_to_proto(bound), cheapest=cheapest
        )
        return await self.dispatch(principal, context, order, ttl=ttl, needs=_NEEDS[task])
