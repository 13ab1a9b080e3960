"""gRPC face of prices: reads only."""

from typing import Any

from grpc.aio import ServicerContext

from comitia.cost.v1 import cost_service_pb2 as pb
from comitia.cost.v1.cost_service_pb2_grpc import PricingServiceServicer
from services.cost.transport import convert, fields
from services.cost.usecases.prices import CurrentPrices
from services.meshkit.core.clock import Clock
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class PricingServicer(PricingServiceServicer):
    """Shows the prices that hold now. They are the same for every tenant."""

    def __init__(self, *, prices: CurrentPrices, clock: Clock) -> None:
        self._prices = prices
        self._clock = clock

    async def ListPrices(self, request: pb.ListPricesRequest, context: Context) -> pb.ListPricesResponse:
        size = clamp_page_size(request.page_size)
        provider = fields.text_of(request.provider, "provider", most=200)
        position = decode_page_token(request.page_token, str, str, int)
        rows = [
            row
            for price in self._prices.at(self._clock.now())
            if not provider or price.provider == provider
            for row in convert.prices_to_proto(price)
            if position is None or (row.provider, row.model, row.min_prompt_tokens) > position
        ]
        page, more = one_page(rows, size, lambda row: (row.provider, row.model, row.min_prompt_tokens))
        return pb.ListPricesResponse(prices=page, next_page_token=more)
