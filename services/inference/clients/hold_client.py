"""Asks the cost service. The only maker of holds: without one no provider opens a socket."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from comitia.cost.v1 import cost_pb2, cost_service_pb2
from services.inference.domain.deployment import Task
from services.inference.usecases.ports import DispatchedHold
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.content import CallContext, Usage
from services.meshkit.content.proto import context_to_proto, usage_to_proto
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd
from services.meshkit.grpc.call import current_call, enter_call

Item = cost_service_pb2.BatchSpendRequest.Item
Operations = Coalescer[cost_service_pb2.BatchSpendRequest.Item, cost_service_pb2.BatchSpendResponse.Item]

_KINDS: Final = {Task.GENERATE: cost_pb2.COST_KIND_GENERATE, Task.EMBED: cost_pb2.COST_KIND_EMBED}
_TIMEOUT_SECONDS: Final = 10.0


class CostHoldClient:
    """Holds and charges over a batch stream to cost. A `HoldClient`."""

    def __init__(self, operations: Operations, *, ids: IdSource) -> None:
        self._operations = operations
        self._ids = ids

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
    ) -> DispatchedHold:
        """See `HoldClient.hold`."""
        life = Duration()
        life.FromTimedelta(ttl)
        asked = cost_service_pb2.ReserveRequest(
            request_id=str(self._ids.uuid()),
            context=context_to_proto(context),
            kind=_KINDS[task],
            provider=provider,
            model=model,
            bound=usage_to_proto(bound),
            ttl=life,
            dispatched=True,
        )
        hold = await self._call(principal, Item(reserve=asked))
        return DispatchedHold(id=hold.hold_id, amount=NanoUsd(hold.amount_nano_usd))

    async def settle(self, principal: Principal, hold_id: str, usage: Usage) -> NanoUsd:
        """See `HoldClient.settle`. Takes its time even when the caller's is used up: the money is spent already."""
        asked = cost_service_pb2.SettleRequest(hold_id=hold_id, usage=usage_to_proto(usage))
        with _beyond_the_caller():
            settled = await self._call(principal, Item(settle=asked))
        return NanoUsd(settled.charged_nano_usd)

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        """See `HoldClient.release`. Takes its time, as `settle`."""
        asked = cost_service_pb2.ReleaseRequest(hold_id=hold_id, dispatched_unbilled=dispatched_unbilled)
        with _beyond_the_caller():
            await self._call(principal, Item(release=asked))

    async def _call(self, principal: Principal, item: Item) -> cost_pb2.Hold:
        answer = await self._operations.call(item, principal=principal, timeout_seconds=_TIMEOUT_SECONDS)
        return answer.hold


@contextmanager
def _beyond_the_caller() -> Generator[None]:
    """Lets calls of the block outlive the RPC they are made for, by their own time limit."""
    call = current_call()
    if call is None:
        yield
        return
    now = asyncio.get_running_loop().time()
    enter_call(replace(call, expires=max(call.expires, now + _TIMEOUT_SECONDS)))
    try:
        yield
    finally:
        enter_call(call)
