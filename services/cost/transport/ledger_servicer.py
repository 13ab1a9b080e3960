"""gRPC face of the ledger: what was spent, by whom and when."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext

from comitia.cost.v1 import ledger_service_pb2 as pb
from comitia.cost.v1.ledger_service_pb2_grpc import LedgerServiceServicer
from services.cost.transport import ledger_convert as convert
from services.cost.transport import pricing_convert
from services.cost.usecases.export_costs import ExportCosts
from services.cost.usecases.ledger_ports import LedgerReader
from services.cost.usecases.reprice_events import RepriceEvents
from services.meshkit.core.clock import Clock
from services.meshkit.core.paging import clamp_page_size, decode_time_place, one_page, time_place
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class LedgerServicer(LedgerServiceServicer):
    """Shows what was spent."""

    def __init__(
        self, *, ledger: LedgerReader, export_costs: ExportCosts, reprice_events: RepriceEvents, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._export_costs = export_costs
        self._reprice_events = reprice_events
        self._clock = clock

    async def ListCostEvents(self, request: pb.ListCostEventsRequest, context: Context) -> pb.ListCostEventsResponse:
        size = clamp_page_size(request.page_size)
        caller = caller_of(context)
        only = convert.to_events_filter(request, bound_to=caller.bound_to)
        after = decode_time_place(request.page_token)
        found = await self._ledger.page(caller.principal.tenant, only, size=size + 1, after=after)
        page, more = one_page(found, size, lambda event: time_place(event.created, event.id))
        return pb.ListCostEventsResponse(
            cost_events=[convert.cost_event_to_proto(event) for event in page], next_page_token=more
        )

    async def GetCostSummary(self, request: pb.GetCostSummaryRequest, context: Context) -> pb.GetCostSummaryResponse:
        caller = caller_of(context)
        query, most = convert.to_summary_query(request, bound_to=caller.bound_to)
        return convert.summary_to_proto(await self._ledger.summary(caller.principal.tenant, query, most_lines=most))

    async def GetCostSeries(self, request: pb.GetCostSeriesRequest, context: Context) -> pb.GetCostSeriesResponse:
        caller = caller_of(context)
        query, most = convert.to_series_query(request, now=self._clock.now(), bound_to=caller.bound_to)
        lines = await self._ledger.series(caller.principal.tenant, query, most_lines=most)
        return convert.series_to_proto(lines, query)

    async def ExportCosts(
        self, request: pb.ExportCostsRequest, context: Context
    ) -> AsyncGenerator[pb.ExportCostsResponse]:
        caller = caller_of(context)
        order = convert.to_export_order(request, bound_to=caller.bound_to)
        pieces = self._export_costs(caller.principal.tenant, order)
        async with aclosing(pieces):
            async for piece in pieces:
                yield pb.ExportCostsResponse(data=piece)

    async def RepriceEvents(self, request: pb.RepriceEventsRequest, context: Context) -> pb.RepriceEventsResponse:
        tenant, order = caller_of(context).principal.tenant, pricing_convert.to_reprice_order(request)
        if not request.apply:
            return pricing_convert.repriced_to_proto(await self._reprice_events.show(tenant, order))
        return await once(
            request,
            lambda: self._reprice_events(tenant, order),
            pricing_convert.repriced_to_proto,
            answers=pb.RepriceEventsResponse,
        )
