"""Puts together what leases rates; a part of `wiring.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.gateway.v1.guard_feed_service_pb2_grpc import add_GuardFeedServiceServicer_to_server
from services.gateway.storage.rate_buckets import SqlRateBuckets
from services.gateway.transport.rate_leases import RateLeases
from services.gateway.usecases.lease_rate import ForgetFullBuckets, LeaseRate
from services.meshkit.core.clock import Clock
from services.meshkit.core.rate import LeaseSlices
from services.meshkit.grpc.server import Background, Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLeasing:
    """What the gateway serves, uses and does about rates."""

    lease: LeaseSlices
    registration: Registration
    background: Sequence[Background]


def rate_leasing(*, maintenance: AsyncEngine, clock: Clock) -> RateLeasing:
    """Gives what leases rates.

    Args:
        maintenance: engine of the role `maintenance`.
    """
    buckets = SqlRateBuckets(maintenance)
    lease = LeaseRate(buckets=buckets)
    return RateLeasing(
        lease=lease,
        registration=partial(add_GuardFeedServiceServicer_to_server, RateLeases(lease)),
        background=(ForgetFullBuckets(buckets=buckets, clock=clock),),
    )
