"""gRPC face of budgets and holds."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

from grpc.aio import ServicerContext

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceServicer
from services.cost.domain.budget import Budget, checked_limit, tenant_budget_id
from services.cost.domain.budget_tree import as_tree
from services.cost.domain.hold import Hold
from services.cost.domain.node import NodeKey
from services.cost.transport import budget_fields, convert
from services.cost.usecases.askers import Asker, Behind
from services.cost.usecases.create_budget import CreateBudget
from services.cost.usecases.detour import Detour
from services.cost.usecases.get_budget import GetBudget
from services.cost.usecases.list_budget_alerts import ListBudgetAlerts
from services.cost.usecases.ports import BudgetReader
from services.cost.usecases.remove_budget import RemoveBudget
from services.cost.usecases.set_budget import SetBudget
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.cost.usecases.spend import Operation, Outcome, Reserve
from services.cost.usecases.spend_together import SpendTogether
from services.meshkit.batching.serve_batch import BatchItem, Later, serve_batch
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.paging import clamp_page_size, decode_time_place, one_page, time_place
from services.meshkit.grpc.call import caller_of, current_call, seconds_left
from services.meshkit.grpc.once import once

#: Longest time for an item: as long as a hold may be waited for, and some to answer.
_ITEM_SECONDS: Final = 620.0

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class BudgetServicer(BudgetServiceServicer):
    """Converts, calls one use case, converts back. No decisions here.

    Args:
        together: items of a frame that wait for each other's answers, at most.
    """

    def __init__(
        self,
        *,
        spend: SpendTogether,
        together: int,
        create_budget: CreateBudget,
        get_budget: GetBudget,
        set_budget: SetBudget,
        set_budget_limit: SetBudgetLimit,
        remove_budget: RemoveBudget,
        list_alerts: ListBudgetAlerts,
        budgets: BudgetReader,
        clock: Clock,
    ) -> None:
        self._spend = spend
        self._together = together
        self._create_budget = create_budget
        self._get_budget = get_budget
        self._set_budget = set_budget
        self._set_budget_limit = set_budget_limit
        self._remove_budget = remove_budget
        self._list_alerts = list_alerts
        self._budgets = budgets
        self._clock = clock

    async def CreateBudget(self, request: pb.CreateBudgetRequest, context: Context) -> pb.CreateBudgetResponse:
        principal = caller_of(context).principal
        to_uuid(request.run_id, "run", field="run_id")
        limit = checked_limit(request.limit_nano_usd, least=1)
        project = budget_fields.to_project(request, principal)
        budget = await self._create_budget(principal.tenant, request.run_id, limit, project)
        return pb.CreateBudgetResponse(budget=convert.budget_to_proto(budget))

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Context) -> pb.SetBudgetResponse:
        tenant = caller_of(context).principal.tenant
        key, change = budget_fields.to_node(request), budget_fields.to_change(request)
        return await once(request, lambda: self._set_budget(tenant, key, change), _set, answers=pb.SetBudgetResponse)

    async def RemoveBudget(self, request: pb.RemoveBudgetRequest, context: Context) -> pb.RemoveBudgetResponse:
        tenant = caller_of(context).principal.tenant
        budget = budget_fields.to_budget(request.budget_id, tenant)
        return await once(
            request, lambda: self._remove_budget(tenant, budget), _removed, answers=pb.RemoveBudgetResponse
        )

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.GetBudgetResponse:
        budget = await self._shown(request.budget_id, context)
        return pb.GetBudgetResponse(budget=convert.budget_to_proto(budget))

    async def GetBudgetStatus(self, request: pb.GetBudgetStatusRequest, context: Context) -> pb.GetBudgetStatusResponse:
        budget = await self._shown(request.budget_id, context)
        return budget_fields.status_to_proto(budget, self._clock.now())

    async def GetBudgetTree(self, request: pb.GetBudgetTreeRequest, context: Context) -> pb.GetBudgetTreeResponse:
        tenant, most = caller_of(context).principal.tenant, budget_fields.to_most_runs(request)
        await self._get_budget(tenant, tenant_budget_id(tenant))
        now = self._clock.now()
        rows = await self._budgets.tree(tenant, most_runs=most)
        places = as_tree(budget.at(now) for budget in rows.budgets)
        return budget_fields.tree_to_proto(places, more_runs=rows.more_runs, steps_left_out=rows.steps_left_out)

    async def ListBudgets(self, request: pb.ListBudgetsRequest, context: Context) -> pb.ListBudgetsResponse:
        size = clamp_page_size(request.page_size)
        tenant, after = caller_of(context).principal.tenant, decode_time_place(request.page_token)
        scope = budget_fields.to_scope(request.scope)
        found = await self._budgets.page(tenant, size=size + 1, after=after, scope=scope)
        page, more = one_page(found, size, lambda budget: time_place(budget.created, budget.id))
        now = self._clock.now()
        return pb.ListBudgetsResponse(
            budgets=[convert.budget_to_proto(budget.at(now)) for budget in page], next_page_token=more
        )

    async def ListBudgetAlerts(
        self, request: pb.ListBudgetAlertsRequest, context: Context
    ) -> pb.ListBudgetAlertsResponse:
        caller, size = caller_of(context), clamp_page_size(request.page_size)
        tenant, after = caller.principal.tenant, decode_time_place(request.page_token)
        named = budget_fields.to_budget(request.budget_id, tenant) if request.budget_id else None
        found = await self._list_alerts(tenant, named, bound_to=caller.bound_to, size=size + 1, after=after)
        page, more = one_page(found, size, lambda alert: time_place(alert.at, alert.id))
        return pb.ListBudgetAlertsResponse(
            alerts=[convert.alert_to_proto(alert) for alert in page], next_page_token=more
        )

    async def SetBudgetLimit(self, request: pb.SetBudgetLimitRequest, context: Context) -> pb.SetBudgetLimitResponse:
        tenant = caller_of(context).principal.tenant
        limit = budget_fields.to_limit(request)
        named = budget_fields.to_budget(request.budget_id, tenant)
        budget_id = (await self._get_budget(tenant, named)).id if isinstance(named, NodeKey) else named
        return await once(
            request,
            lambda: self._set_budget_limit(tenant, budget_id, limit),
            _limited,
            answers=pb.SetBudgetLimitResponse,
        )

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        order = convert.to_reserve(request, caller_of(context).principal, left=seconds_left())
        outcome = await self._spend.reserve(order)
        hold = await _waited(outcome) if isinstance(outcome, Asker) else outcome
        return pb.ReserveResponse(hold=convert.hold_to_proto(hold))

    async def MarkDispatched(self, request: pb.MarkDispatchedRequest, context: Context) -> pb.MarkDispatchedResponse:
        hold = await self._spend.one(convert.to_dispatch(request, caller_of(context).principal))
        return pb.MarkDispatchedResponse(hold=convert.hold_to_proto(hold))

    async def Extend(self, request: pb.ExtendRequest, context: Context) -> pb.ExtendResponse:
        hold = await self._spend.one(convert.to_extend(request, caller_of(context).principal))
        return pb.ExtendResponse(hold=convert.hold_to_proto(hold))

    async def Settle(self, request: pb.SettleRequest, context: Context) -> pb.SettleResponse:
        hold = await self._spend.one(convert.to_settle(request, caller_of(context).principal))
        return pb.SettleResponse(hold=convert.hold_to_proto(hold))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        hold = await self._spend.one(convert.to_release(request, caller_of(context).principal))
        return pb.ReleaseResponse(hold=convert.hold_to_proto(hold))

    async def BatchSpend(
        self, request_iterator: AsyncIterator[pb.BatchSpendRequest], context: Context
    ) -> AsyncIterator[pb.BatchSpendResponse]:
        async for frame in serve_batch(
            request_iterator,
            self._spend_frame,
            answers=pb.BatchSpendResponse,
            together=self._together,
            item_seconds=_ITEM_SECONDS,
        ):
            yield frame

    async def _shown(self, budget_id: str, context: Context) -> Budget:
        caller = caller_of(context)
        tenant = caller.principal.tenant
        named = budget_fields.to_budget(budget_id, tenant)
        return await self._get_budget(tenant, named, bound_to=caller.bound_to)

    async def _spend_frame(
        self, items: Sequence[BatchItem[pb.BatchSpendRequest.Item]]
    ) -> Sequence[pb.BatchSpendResponse.Item | MeshError | Later[pb.BatchSpendResponse.Item]]:
        now = asyncio.get_running_loop().time()
        read = [_operation(item, now) for item in items]
        outcomes = iter(await self._spend.many([wanted for wanted in read if not isinstance(wanted, MeshError)]))
        found = [wanted if isinstance(wanted, MeshError) else next(outcomes) for wanted in read]
        for item, wanted, outcome in zip(items, read, found, strict=True):
            if item.cancelled and isinstance(wanted, Reserve) and isinstance(outcome, Hold):
                self._spend.orphan(outcome)
        return [self._answer(outcome) for outcome in found]

    def _answer(
        self, outcome: Outcome | Asker | Behind
    ) -> pb.BatchSpendResponse.Item | MeshError | Later[pb.BatchSpendResponse.Item]:
        if isinstance(outcome, Asker):
            return Later(partial(_late_answer, outcome), drop=outcome.leave)
        if isinstance(outcome, Detour):
            return Later(partial(self._answer_behind, outcome), drop=partial(self._spend.drop, outcome))
        return outcome if isinstance(outcome, MeshError) else _written(outcome)

    async def _answer_behind(self, detour: Behind) -> pb.BatchSpendResponse.Item:
        outcome = await self._spend.later(detour)
        return await _late_answer(outcome) if isinstance(outcome, Asker) else _written(outcome)


async def _waited(asker: Asker) -> Hold:
    """Waits with an asker, and ends that when the server drains."""
    call = current_call()
    if call is None:
        return await asker.answer()
    with call.drain.notify(asker.stop):
        return await asker.answer()


async def _late_answer(asker: Asker) -> pb.BatchSpendResponse.Item:
    return _written(await _waited(asker))


def _set(budget: Budget) -> pb.SetBudgetResponse:
    return pb.SetBudgetResponse(budget=convert.budget_to_proto(budget))


def _removed(budget: Budget) -> pb.RemoveBudgetResponse:
    return pb.RemoveBudgetResponse(budget=convert.budget_to_proto(budget))


def _limited(budget: Budget) -> pb.SetBudgetLimitResponse:
    return pb.SetBudgetLimitResponse(budget=convert.budget_to_proto(budget))


def _operation(item: BatchItem[pb.BatchSpendRequest.Item], now: float) -> Operation | MeshError:
    try:
        return convert.to_operation(item.message, item.principal, left=item.expires - now)
    except MeshError as refusal:
        return refusal


def _written(hold: Hold) -> pb.BatchSpendResponse.Item:
    answer = pb.BatchSpendResponse.Item()
    convert.write_hold(hold, answer.hold)
    return answer
