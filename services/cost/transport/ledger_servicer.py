"""gRPC face of the ledger: reads only."""

from typing import Any, Final

from grpc.aio import ServicerContext

from comitia.cost.v1 import cost_service_pb2 as pb
from comitia.cost.v1.cost_service_pb2_grpc import LedgerServiceServicer
from services.cost.transport import convert
from services.cost.usecases.ports import LedgerReader
from services.meshkit.core.paging import clamp_page_size, decode_time_place, one_page, time_place
from services.meshkit.grpc.call import caller_of

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC

_MOST_LINES: Final = 500


class LedgerServicer(LedgerServiceServicer):
    """Shows what was spent."""

    def __init__(self, *, ledger: LedgerReader) -> None:
        self._ledger = ledger

    async def ListCostEvents(self, request: pb.ListCostEventsRequest, context: Context) -> pb.ListCostEventsResponse:
        size = clamp_page_size(request.page_size)
        found = await self._ledger.page(
            caller_of(context).principal.tenant,
            run_id=convert.to_run_filter(request.run_id),
            size=size + 1,
            after=decode_time_place(request.page_token),
        )
        page, more = one_page(found, size, lambda event: time_place(event.created, event.id))
        return pb.ListCostEventsResponse(
            cost_events=[convert.cost_event_to_proto(event) for event in page], next_page_token=more
        )

    async def GetCostSummary(self, request: pb.GetCostSummaryRequest, context: Context) -> pb.GetCostSummaryResponse:
        query = convert.to_summary_query(request)
        summary = await self._ledger.summary(caller_of(context).principal.tenant, query, most_lines=_MOST_LINES)
        return convert.summary_to_proto(summary)
