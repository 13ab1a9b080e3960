"""Asks the cost service. The only maker of holds: without one nothing opens a socket to the outside."""

from datetime import timedelta
from random import Random
from typing import Final
from uuid import UUID

import grpc.aio

from comitia.cost.v1 import budget_service_pb2, cost_pb2
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.calls.ports import DispatchedHold
from services.meshkit.calls.unanswered import Unanswered
from services.meshkit.content import CallContext, Usage
from services.meshkit.content.proto import context_to_proto, usage_to_proto
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd
from services.meshkit.grpc.call import beyond_the_caller, seconds_left

Item = budget_service_pb2.BatchSpendRequest.Item
Operations = Coalescer[budget_service_pb2.BatchSpendRequest.Item, budget_service_pb2.BatchSpendResponse.Item]

_TIMEOUT_SECONDS: Final = 10.0
#: Longest wait that cost takes.
_MOST_WAIT: Final = timedelta(seconds=600)
#: Errors that are no answer: the hold may have been made.
_UNANSWERED: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.CANCELLED, ErrorKind.INTERNAL})


def operations(to_cost: grpc.aio.Channel, *, clock: Clock) -> Operations:
    """Gives the batch stream that `CostHolds` ask over, to be opened with `async with`."""
    stub = BudgetServiceStub(to_cost)
    frame = budget_service_pb2.BatchSpendRequest
    return Operations(stub.BatchSpend, frame=frame, name="cost", clock=clock, random=Random())


class CostHolds:
    """Holds and charges over a batch stream to cost. A `Holds`; a service derives its hold client from it."""

    def __init__(self, operations: Operations, *, ids: IdSource) -> None:
        self._operations = operations
        self._ids = ids
        self._unanswered = Unanswered()

    async def dispatch(
        self,
        principal: Principal,
        context: CallContext,
        order: budget_service_pb2.ReserveRequest,
        *,
        ttl: timedelta,
        needs: timedelta,
    ) -> DispatchedHold:
        """Holds money for a call that leaves now, in one commit: from here on, a crash charges it as assumed.

        Where the money is only held by others it waits, as long as the caller's time allows.

        Args:
            order: who is paid for what, and its price or bound; the rest is filled in here.
            needs: time that is kept for the call itself, but never more than half of what is left.
        """
        order.context.CopyFrom(context_to_proto(context))
        order.dispatched = True
        # Cost may have made the hold and died before it said so. The call was not sent then, so a repeat takes that
        # hold over; one that was answered is never taken over, for its call may have left.
        question = (principal.tenant, principal.project, order.SerializeToString(deterministic=True))
        request_id = self._unanswered.take(question)
        order.ttl.FromTimedelta(ttl)
        try:
            if request_id is not None:
                hold = await self._reserve(principal, order, request_id, needs)
                if hold.state == cost_pb2.HOLD_STATE_DISPATCHED:
                    return DispatchedHold(id=hold.hold_id, amount=NanoUsd(hold.amount_nano_usd))
                # It was freed, or has expired into a charge: nothing is held for this call, and none was ever sent.
                if hold.state == cost_pb2.HOLD_STATE_ASSUMED:
                    await self.release(principal, hold.hold_id, dispatched_unbilled=True)
            request_id = self._ids.uuid()
            hold = await self._reserve(principal, order, request_id, needs)
        except BaseException as error:
            answered = isinstance(error, MeshError) and error.kind not in _UNANSWERED
            if request_id is not None and not answered:
                self._unanswered.add(question, request_id)
            raise
        return DispatchedHold(id=hold.hold_id, amount=NanoUsd(hold.amount_nano_usd))

    async def dispatch_reserved(self, principal: Principal, hold_id: str, *, life: timedelta) -> DispatchedHold:
        """Has what was held before leave now: from here on, a crash charges it as assumed.

        Args:
            life: how long it is held from now on, if nobody settles it.
        """
        longer = budget_service_pb2.ExtendRequest(hold_id=hold_id)
        longer.ttl.FromTimedelta(life)
        await self._call(principal, Item(extend=longer))
        leaving = budget_service_pb2.MarkDispatchedRequest(hold_id=hold_id)
        hold = await self._call(principal, Item(mark_dispatched=leaving))
        return DispatchedHold(id=hold.hold_id, amount=NanoUsd(hold.amount_nano_usd))

    async def _reserve(
        self, principal: Principal, order: budget_service_pb2.ReserveRequest, request_id: UUID, needs: timedelta
    ) -> cost_pb2.Hold:
        wait = longest_wait(seconds_left(), needs)
        order.request_id = str(request_id)
        order.wait.FromTimedelta(wait)
        return await self._call(principal, Item(reserve=order), seconds=_TIMEOUT_SECONDS + wait.total_seconds())

    async def settle(self, principal: Principal, hold_id: str, usage: Usage | None = None, /) -> NanoUsd:
        """See `Holds.settle`. Takes its time even when the caller's is used up: the money is spent already."""
        used = None if usage is None else usage_to_proto(usage)
        asked = budget_service_pb2.SettleRequest(hold_id=hold_id, usage=used)
        with beyond_the_caller(_TIMEOUT_SECONDS):
            settled = await self._call(principal, Item(settle=asked))
        return NanoUsd(settled.charged_nano_usd)

    async def release(self, principal: Principal, hold_id: str, *, dispatched_unbilled: bool) -> None:
        """See `Holds.release`. Takes its time, as `settle`."""
        asked = budget_service_pb2.ReleaseRequest(hold_id=hold_id, dispatched_unbilled=dispatched_unbilled)
        with beyond_the_caller(_TIMEOUT_SECONDS):
            await self._call(principal, Item(release=asked))

    async def _call(self, principal: Principal, item: Item, *, seconds: float = _TIMEOUT_SECONDS) -> cost_pb2.Hold:
        answer = await self._operations.call(item, principal=principal, timeout_seconds=seconds)
        return answer.hold


def longest_wait(left: float | None, needs: timedelta) -> timedelta:
    """Says how long a call may wait for money: the time that its caller has left, less what the call itself needs.

    A call that may take all of its caller's time, and more, still waits half of it: an answer that would have come
    later than usual is better than none. Where nobody waits, in background work, nothing does.
    """
    if left is None:
        return timedelta()
    return min(_MOST_WAIT, timedelta(seconds=left) - min(needs, timedelta(seconds=left / 2)))
