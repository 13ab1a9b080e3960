"""The part of `GuardFeedService` that leases rates."""

from typing import Any

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1.guard_feed_service_pb2_grpc import GuardFeedServiceServicer
from services.meshkit.core.rate import Ask, LeaseSlices


class RateLeases(GuardFeedServiceServicer):
    """Answers `LeaseRate`; the servicer of the service takes it over."""

    def __init__(self, lease: LeaseSlices) -> None:
        self._lease = lease

    async def LeaseRate(self, request: pb.LeaseRateRequest, context: Any) -> pb.LeaseRateResponse:
        """See `GuardFeedService.LeaseRate`."""
        slices = await self._lease([_to_ask(ask) for ask in request.asks])
        return pb.LeaseRateResponse(
            slices=[
                pb.LeaseRateResponse.Slice(
                    tokens=got.tokens, seconds=got.seconds, remaining=got.remaining, wait_seconds=got.wait_seconds
                )
                for got in slices
            ]
        )


def _to_ask(ask: pb.LeaseRateRequest.Ask) -> Ask:
    return Ask(
        bucket=ask.bucket,
        per_second=ask.per_second,
        burst=ask.burst,
        tokens=ask.tokens,
        spent=ask.spent,
        unused=ask.unused,
    )
