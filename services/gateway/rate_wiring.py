"""Puts together what leases rates; a part of `wiring.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.storage.rate_buckets import SqlRateBuckets
from services.gateway.usecases.lease_rate import ForgetFullBuckets, LeaseRate
from services.meshkit.core.clock import Clock
from services.meshkit.core.rate import LeaseSlices
from services.meshkit.grpc.server import Background


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLeasing:
    """What the gateway serves, uses and does about rates."""

    lease: LeaseSlices
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
        background=(ForgetFullBuckets(buckets=buckets, clock=clock),),
    )
