"""Asks the cost service to hold the price of a call of a tool."""

from datetime import timedelta
from typing import Final

from comitia.cost.v1 import budget_service_pb2, cost_pb2
from services.meshkit.calls.cost_holds import CostHolds
from services.meshkit.calls.ports import DispatchedHold
from services.meshkit.content import CallContext
from services.meshkit.core.identity import Principal
from services.meshkit.core.money import NanoUsd

#: Who is paid for a tool.
_PROVIDER: Final = "tools"


class CostHoldClient(CostHolds):
    """Holds the prices of calls of tools. A `HoldClient`."""

    async def hold(
        self,
        principal: Principal,
        context: CallContext,
        *,
        tool: str,
        cost: NanoUsd,
        ttl: timedelta,
        needs: timedelta,
    ) -> DispatchedHold:
        """See `HoldClient.hold`."""
        order = budget_service_pb2.ReserveRequest(
            kind=cost_pb2.COST_KIND_TOOL, provider=_PROVIDER, model=tool, tool_cost_nano_usd=cost
        )
        return await self.dispatch(principal, context, order, ttl=ttl, needs=needs)
