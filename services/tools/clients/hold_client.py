"""Asks the cost service. The only maker of holds: without one no tool runs."""

from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from comitia.cost.v1 import cost_pb2, cost_service_pb2
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.content import CallContext
from services.meshkit.content.proto import context_to_proto
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd
from services.meshkit.grpc.call import beyond_the_caller
from services.tools.usecases.ports import DispatchedHold

Item = cost_service_pb2.BatchSpendRequest.Item
Operations = Coalescer[cost_service_pb2.BatchSpendRequest.Item, cost_service_pb2.BatchSpendResponse.Item]

#: Who is paid for a tool.
_PROVIDER: Final = "tools"
_TIMEOUT_SECONDS: Final = 10.0


class CostHoldClient:
    """Holds and charges over a batch stream to cost. A `HoldClient`."""

    def __init__(self, operations: Operations, *, ids: IdSource) -> None:
        self._operations = operations
        self._ids = ids

    async def hold(
        self, principal: Principal, context: CallContext, *, tool: str, cost: NanoUsd, ttl: timedelta
    ) -> DispatchedHold:
        """See `HoldClient.hold`."""
        life = Duration()
        life.FromTimedelta(ttl)
        asked = cost_service_pb2.ReserveRequest(
            request_id=str(self._ids.uuid()),
            context=context_to_proto(context),
            kind=cost_pb2.COST_KIND_TOOL,
            provider=_PROVIDER,
            model=tool,
            tool_cost_nano_usd=cost,
            ttl=life,
            dispatched=True,
        )
        hold = await self._call(principal, Item(reserve=asked))
        return DispatchedHold(id=hold.hold_id)

    async def settle(self, principal: Principal, hold_id: str) -> NanoUsd:
        """See `HoldClient.settle`. Takes its time even when the caller's is used up: the call has taken place."""
        asked = cost_service_pb2.SettleRequest(hold_id=hold_id)
        with beyond_the_caller(_TIMEOUT_SECONDS):
            settled = await self._call(principal, Item(settle=asked))
        return NanoUsd(settled.charged_nano_usd)

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        """See `HoldClient.release`. Takes its time, as `settle`."""
        asked = cost_service_pb2.ReleaseRequest(hold_id=hold_id, dispatched_unbilled=dispatched_unbilled)
        with beyond_the_caller(_TIMEOUT_SECONDS):
            await self._call(principal, Item(release=asked))

    async def _call(self, principal: Principal, item: Item) -> cost_pb2.Hold:
        answer = await self._operations.call(item, principal=principal, timeout_seconds=_TIMEOUT_SECONDS)
        return answer.hold
