"""gRPC face of prices."""

from typing import Any

from grpc.aio import ServicerContext

from comitia.cost.v1 import price_list_pb2
from comitia.cost.v1 import pricing_service_pb2 as pb
from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceServicer
from services.cost.domain.unknown_price import UnknownPrice
from services.cost.transport import convert, fields, pricing_convert
from services.cost.usecases.import_prices import ImportPrices
from services.cost.usecases.prices import CurrentPrices
from services.cost.usecases.unknown_prices import UnknownPrices
from services.meshkit.core.clock import Clock
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class PricingServicer(PricingServiceServicer):
    """Shows the prices that hold now, which are the same for every tenant, and takes new ones."""

    def __init__(
        self, *, prices: CurrentPrices, import_prices: ImportPrices, unknown: UnknownPrices, clock: Clock
    ) -> None:
        self._prices = prices
        self._import_prices = import_prices
        self._unknown = unknown
        self._clock = clock

    async def ListPrices(self, request: pb.ListPricesRequest, context: Context) -> pb.ListPricesResponse:
        size = clamp_page_size(request.page_size)
        provider = fields.text_of(request.provider, "provider", most=200).lower()
        position = decode_page_token(request.page_token, str, str, int)
        rows = [
            row
            for price in self._prices.at(self._clock.now())
            if not provider or price.provider.lower() == provider
            for row in convert.prices_to_proto(price)
            if position is None or (row.provider, row.model, row.min_prompt_tokens) > position
        ]
        page, more = one_page(rows, size, lambda row: (row.provider, row.model, row.min_prompt_tokens))
        return pb.ListPricesResponse(prices=page, next_page_token=more)

    async def ImportPrices(self, request: pb.ImportPricesRequest, context: Context) -> pb.ImportPricesResponse:
        tenant, order = caller_of(context).principal.tenant, pricing_convert.to_import_order(request)
        if not request.apply:
            return pricing_convert.imported_to_proto(await self._import_prices.show(order))
        return await once(
            request,
            lambda: self._import_prices(tenant, order),
            pricing_convert.imported_to_proto,
            answers=pb.ImportPricesResponse,
        )

    async def GetUnknownPrice(self, request: pb.GetUnknownPriceRequest, context: Context) -> pb.GetUnknownPriceResponse:
        rule = await self._unknown.of(caller_of(context).principal.tenant)
        return pb.GetUnknownPriceResponse(unknown_price=self._shown(rule))

    async def SetUnknownPrice(self, request: pb.SetUnknownPriceRequest, context: Context) -> pb.SetUnknownPriceResponse:
        tenant, wanted = caller_of(context).principal.tenant, pricing_convert.to_unknown_price(request)
        return await once(
            request,
            lambda: self._unknown.set(tenant, wanted),
            lambda rule: pb.SetUnknownPriceResponse(unknown_price=self._shown(rule)),
            answers=pb.SetUnknownPriceResponse,
        )

    def _shown(self, rule: UnknownPrice) -> price_list_pb2.UnknownPrice:
        return pricing_convert.unknown_price_to_proto(rule, least=self._unknown.least)
