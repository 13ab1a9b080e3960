"""gRPC face of budgets and holds."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc.aio import ServicerContext

from comitia.cost.v1 import cost_service_pb2 as pb
from comitia.cost.v1.cost_service_pb2_grpc import BudgetServiceServicer
from services.cost.domain.budget import Budget, checked_limit
from services.cost.transport import convert
from services.cost.usecases.create_budget import CreateBudget
from services.cost.usecases.get_budget import GetBudget
from services.cost.usecases.ports import BudgetReader
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.cost.usecases.spend import Operation, Outcome
from services.cost.usecases.spend_together import SpendTogether
from services.meshkit.batching.serve_batch import BatchItem, serve_batch
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.paging import clamp_page_size, decode_time_place, one_page, time_place
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class BudgetServicer(BudgetServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(
        self,
        *,
        spend: SpendTogether,
        create_budget: CreateBudget,
        get_budget: GetBudget,
        set_budget_limit: SetBudgetLimit,
        budgets: BudgetReader,
    ) -> None:
        self._spend = spend
        self._create_budget = create_budget
        self._get_budget = get_budget
        self._set_budget_limit = set_budget_limit
        self._budgets = budgets

    async def CreateBudget(self, request: pb.CreateBudgetRequest, context: Context) -> pb.CreateBudgetResponse:
        tenant = caller_of(context).principal.tenant
        to_uuid(request.run_id, "run", field="run_id")
        limit = checked_limit(request.limit_nano_usd, least=1)
        budget = await self._create_budget(tenant, request.run_id, limit)
        return pb.CreateBudgetResponse(budget=convert.budget_to_proto(budget))

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.GetBudgetResponse:
        tenant = caller_of(context).principal.tenant
        budget = await self._get_budget(tenant, convert.to_budget_id(request.budget_id, tenant))
        return pb.GetBudgetResponse(budget=convert.budget_to_proto(budget))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, context: Context) -> pb.ListBudgetsResponse:
        size = clamp_page_size(request.page_size)
        after = decode_time_place(request.page_token)
        found = await self._budgets.page(caller_of(context).principal.tenant, size=size + 1, after=after)
        page, more = one_page(found, size, lambda budget: time_place(budget.created, budget.id))
        return pb.ListBudgetsResponse(
            budgets=[convert.budget_to_proto(budget) for budget in page], next_page_token=more
        )

    async def SetBudgetLimit(self, request: pb.SetBudgetLimitRequest, context: Context) -> pb.SetBudgetLimitResponse:
        tenant = caller_of(context).principal.tenant
        limit = checked_limit(request.limit_nano_usd, least=0)
        budget_id = convert.to_budget_id(request.budget_id, tenant)
        return await once(
            request,
            lambda: self._set_budget_limit(tenant, budget_id, limit),
            _limited,
            answers=pb.SetBudgetLimitResponse,
        )

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        hold = await self._spend.one(convert.to_reserve(request, caller_of(context).principal))
        return pb.ReserveResponse(hold=convert.hold_to_proto(hold))

    async def MarkDispatched(self, request: pb.MarkDispatchedRequest, context: Context) -> pb.MarkDispatchedResponse:
        hold = await self._spend.one(convert.to_dispatch(request, caller_of(context).principal))
        return pb.MarkDispatchedResponse(hold=convert.hold_to_proto(hold))

    async def Settle(self, request: pb.SettleRequest, context: Context) -> pb.SettleResponse:
        hold = await self._spend.one(convert.to_settle(request, caller_of(context).principal))
        return pb.SettleResponse(hold=convert.hold_to_proto(hold))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        hold = await self._spend.one(convert.to_release(request, caller_of(context).principal))
        return pb.ReleaseResponse(hold=convert.hold_to_proto(hold))

    async def BatchSpend(
        self, request_iterator: AsyncIterator[pb.BatchSpendRequest], context: Context
    ) -> AsyncIterator[pb.BatchSpendResponse]:
        async for frame in serve_batch(request_iterator, self._spend_frame, answers=pb.BatchSpendResponse):
            yield frame

    async def _spend_frame(
        self, items: Sequence[BatchItem[pb.BatchSpendRequest.Item]]
    ) -> Sequence[pb.BatchSpendResponse.Item | MeshError]:
        read = [_operation(item) for item in items]
        outcomes = iter(await self._spend.many([wanted for wanted in read if not isinstance(wanted, MeshError)]))
        return [_answer(wanted if isinstance(wanted, MeshError) else next(outcomes)) for wanted in read]


def _limited(budget: Budget) -> pb.SetBudgetLimitResponse:
    return pb.SetBudgetLimitResponse(budget=convert.budget_to_proto(budget))


def _operation(item: BatchItem[pb.BatchSpendRequest.Item]) -> Operation | MeshError:
    try:
        return convert.to_operation(item.message, item.principal)
    except MeshError as refusal:
        return refusal


def _answer(outcome: Outcome) -> pb.BatchSpendResponse.Item | MeshError:
    if isinstance(outcome, MeshError):
        return outcome
    return pb.BatchSpendResponse.Item(hold=convert.hold_to_proto(outcome))
