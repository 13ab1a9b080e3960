"""Asks the cost service to hold money for what leaves later. A `BatchHolds`."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from comitia.cost.v1 import budget_service_pb2, cost_pb2
from services.inference.usecases.batch_ports import NamedHold
from services.meshkit.calls.cost_holds import CostHolds, Item
from services.meshkit.content import CallContext, Usage
from services.meshkit.content.proto import context_to_proto, usage_to_proto
from services.meshkit.core.identity import Principal

_OPEN: Final = (cost_pb2.HOLD_STATE_RESERVED, cost_pb2.HOLD_STATE_DISPATCHED)


class CostBatchHolds(CostHolds):
    """Holds the bounds of prompts that a provider answers within a day."""

    async def reserve(
        self,
        principal: Principal,
        context: CallContext,
        request_id: UUID,
        *,
        provider: str,
        model: str,
        bound: Usage,
        ttl: timedelta,
    ) -> NamedHold:
        """See `BatchHolds.reserve`."""
        order = budget_service_pb2.ReserveRequest(
            request_id=str(request_id),
            context=context_to_proto(context),
            kind=cost_pb2.COST_KIND_GENERATE,
            provider=provider,
            model=model,
            bound=usage_to_proto(bound),
        )
        order.ttl.FromTimedelta(ttl)
        hold = await self._call(principal, Item(reserve=order))
        return NamedHold(id=hold.hold_id, open=hold.state in _OPEN)
