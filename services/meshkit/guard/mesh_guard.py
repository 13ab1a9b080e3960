"""Puts together what guards the doors of one service. Every wiring calls it once."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Protocol

from services.meshkit.core.clock import Clock
from services.meshkit.core.rate import LeaseSlices
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.guard import Admission, Guard
from services.meshkit.grpc.identity import TokenVerifier, WorkloadSigner, WorkloadVerifier
from services.meshkit.grpc.server import Background, Readiness, Registration
from services.meshkit.grpc.signed_token import KeySetFile
from services.meshkit.guard.call_limits import CallLimits
from services.meshkit.guard.concurrency import SeatGate
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.follow import FollowGuard, GuardSource, remote_source
from services.meshkit.guard.kept import KeptGuard
from services.meshkit.guard.key_set_mirror import KeySetMirror
from services.meshkit.guard.lessee import remote_leases
from services.meshkit.guard.rate import RateGate
from services.meshkit.settings import ServiceSettings


class GuardPart(Protocol):
    """Something that every service serves to the gateway beside its own contract."""

    @property
    def registrations(self) -> Sequence[Registration]: ...
    @property
    def background(self) -> Sequence[Background]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshGuard:
    """What a server needs to guard its doors."""

    admission: Admission
    feed: GuardFeed
    #: Counts calls; in force through `admission`.
    rates: RateGate
    registrations: Sequence[Registration]
    background: Sequence[Background]
    #: Waits for the first word of the gateway; only a moment if an earlier process kept one.
    ready: Readiness


@asynccontextmanager
async def mesh_guard(
    settings: ServiceSettings,
    guards: Mapping[str, Guard],
    *,
    service: str,
    clock: Clock,
    workload: WorkloadSigner,
    audit: GuardPart | None = None,
    source: GuardSource | None = None,
    leases: LeaseSlices | None = None,
) -> AsyncGenerator[MeshGuard]:
    """Gives the guard of a service; leaving the block closes what it opened.

    Args:
        guards: the generated table.
        service: name, such as `tools`.
        workload: proves the service to the gateway.
        audit: serves the rows of the audit trail.
        source: says what changed, for the gateway itself; every other service asks the gateway.
        leases: leases slices of rate limits, likewise.
    Raises: KeyUnreadable: a key set file is missing or broken. Unavailable: it is the gateway's, which does not answer.
    """
    feed, addresses = GuardFeed(clock=clock), ClientAddresses(settings.edge_networks)
    feed.show(service)
    kept: list[Background] = []
    if settings.guard_path is not None:
        keeping = KeptGuard(feed, settings.guard_path, clock=clock)
        keeping.recall()
        kept.append(keeping)
    parts = [part for part in (audit,) if part is not None]
    async with channel(settings.gateway_target, identity=workload) as to_gateway:
        mirrors: list[Background] = []
        if settings.jwks_from_gateway:
            mirror = KeySetMirror(to_gateway, settings.jwks_path, clock=clock)
            await mirror.first()
            mirrors.append(mirror)
        follow = FollowGuard(feed, source or remote_source(to_gateway), clock=clock, dice=Random())
        rates = RateGate(
            leases or remote_leases(to_gateway),
            tenants=feed,
            addresses=addresses,
            service=service,
            clock=clock,
            dice=Random(),
            factor=settings.rate_factor,
        )
        yield MeshGuard(
            admission=Admission(
                guards,
                tokens=TokenVerifier(KeySetFile(settings.jwks_path, clock=clock), clock=clock),
                workloads=WorkloadVerifier(KeySetFile(settings.workload_jwks_path, clock=clock), clock=clock),
                standing=feed,
                addresses=addresses,
                limits=CallLimits(rates, SeatGate(settings.max_concurrent_calls, service=service)),
            ),
            feed=feed,
            rates=rates,
            registrations=tuple(registration for part in parts for registration in part.registrations),
            background=(
                follow,
                *kept,
                *mirrors,
                *rates.background,
                *(background for part in parts for background in part.background),
            ),
            ready=_heard(feed, clock=clock, within_seconds=settings.guard_wait_seconds),
        )


def _heard(feed: GuardFeed, *, clock: Clock, within_seconds: float) -> Readiness:
    started = clock.monotonic()

    async def ready() -> str | None:
        if feed.version or (feed.knows and clock.monotonic() - started >= within_seconds):
            return None
        return "the gateway has not said yet who was revoked and what tenants allow"

    return ready
