"""Puts together what leases rates; a part of the wiring."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.usecases.lease_rate import ForgetFullBuckets, LeaseRate
from services.gateway.usecases.rate_ports import RateBuckets
from services.meshkit.core.clock import Clock
from services.meshkit.core.rate import LeaseSlices
from services.meshkit.grpc.server import Background


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLeasing:
    """What the gateway serves, uses and does about rates."""

    lease: LeaseSlices
    background: Sequence[Background]


def rate_leasing(buckets: RateBuckets, *, clock: Clock) -> RateLeasing:
    """Gives what leases rates from these buckets."""
    return RateLeasing(lease=LeaseRate(buckets=buckets), background=(ForgetFullBuckets(buckets=buckets, clock=clock),))
