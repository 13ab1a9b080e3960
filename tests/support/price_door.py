"""A price service whose only open door is `ListPrices`, for tests of what stands before every door."""

from typing import Any

from comitia.cost.v1 import pricing_service_pb2 as pb
from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceServicer


class PriceDoor(PricingServiceServicer):
    """Answers `ListPrices` with nothing; nobody comes through the other doors."""

    async def ListPrices(self, request: pb.ListPricesRequest, context: Any) -> pb.ListPricesResponse:
        return pb.ListPricesResponse()

    async def ImportPrices(self, request: pb.ImportPricesRequest, context: Any) -> pb.ImportPricesResponse:
        raise NotImplementedError

    async def GetUnknownPrice(self, request: pb.GetUnknownPriceRequest, context: Any) -> pb.GetUnknownPriceResponse:
        raise NotImplementedError

    async def SetUnknownPrice(self, request: pb.SetUnknownPriceRequest, context: Any) -> pb.SetUnknownPriceResponse:
        raise NotImplementedError
