"""Limits of calls per second, shared by all replicas: a token bucket per tenant, caller or address and RPC.

Every call is decided here, from slices that were leased from the gateway ahead of need, so that deciding costs no
round trip. docs/decisions/0004-rate-limits.md says what that admits at most.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from random import Random
from typing import Final, Literal, Protocol

from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.rate import DEFAULT_PER_SECOND, LeaseSlices
from services.meshkit.core.tenant import GuardedTenantState
from services.meshkit.grpc.client_address import ClientAddresses, Connection, block_of
from services.meshkit.grpc.guard import Guard
from services.meshkit.grpc.limits import Allowance, RateLimited, Whose
from services.meshkit.grpc.server import Background
from services.meshkit.guard.bucket import LocalBucket
from services.meshkit.guard.lessee import Lessee
from services.meshkit.telemetry import metrics

#: Longest name of a bucket.
_MOST_CHARACTERS: Final = 300

#: What a bucket counts: calls, by whose they are, or something of the service's own.
Kind = Literal["tenant", "caller", "address", "own"]
_Key = tuple[object, ...]
#: A bucket and whose calls it counts.
_Counted = tuple[Whose, LocalBucket]


class Tenants(Protocol):
    """What is known of tenants; the guard feed."""

    def tenant(self, tenant: TenantId) -> GuardedTenantState | None:
        """None for a tenant without quotas."""
        ...


class RateGate:
    """Counts the calls of one server.

    Args:
        lease: leases slices at the gateway.
        service: label of the metrics.
        factor: of every limit, for benchmarks and tests.
        most_buckets: kept of each kind; the one that was used longest ago is forgotten, and begins anew.
    """

    def __init__(
        self,
        lease: LeaseSlices,
        *,
        tenants: Tenants,
        addresses: ClientAddresses,
        service: str,
        clock: Clock,
        dice: Random,
        factor: float = 1.0,
        most_buckets: int = 20_000,
    ) -> None:
        self.lessee = Lessee(lease, service=service, clock=clock, jitter=dice.random)
        self.addresses = addresses
        self.tenants = tenants
        self.clock = clock
        self.factor = factor
        self._most_buckets = most_buckets
        self._buckets: dict[Kind, OrderedDict[_Key, LocalBucket]] = {
            kind: OrderedDict() for kind in ("tenant", "caller", "address", "own")
        }
        for kind, kept in self._buckets.items():
            metrics.show_size(f"{service}.rate_{kind}", kept)
        decided = metrics.RATE_DECISIONS
        #: By whether a call was let in and whether the gateway was away.
        self.decisions = {
            (True, False): decided.labels(service, "admitted"),
            (False, False): decided.labels(service, "refused"),
            (True, True): decided.labels(service, "admitted_alone"),
            (False, True): decided.labels(service, "refused_alone"),
        }

    @property
    def background(self) -> tuple[Background, ...]:
        """What the server has to run."""
        return (self.lessee.lease, self.lessee.hand_back)

    def route(self, method: str, guard: Guard) -> "RouteRates":
        """Gives the limits of an RPC."""
        return RouteRates(self, method, guard)

    async def take(self, key: _Key, *, per_second: float, burst: float) -> float:
        """Takes a token of a limit that the service itself knows, such as of one tool; all replicas share it.

        Args:
            key: names the bucket among all of the mesh: what is limited, then for whom.
            per_second: tokens that flow in, > 0; as it stands, without factors.
            burst: the most tokens that the bucket holds, >= 1.
        Returns: 0, or the seconds to wait when there is none to take.
        """
        bucket = self.bucket("own", key, per_second, burst=burst)
        lessee = self.lessee
        while True:
            now, outage = self.clock.monotonic(), lessee.outage
            seconds = bucket.wait_for(now, outage=outage)
            if seconds is None:
                await lessee.hear(bucket)
                continue
            if seconds == 0 and bucket.spend(now, outage=outage):
                lessee.ask(bucket)
            return seconds

    def bucket(self, kind: Kind, key: _Key, per_second: float, *, burst: float | None = None) -> LocalBucket:
        """Gives a bucket, made when it is new here."""
        kept = self._buckets[kind]
        bucket = kept.get(key)
        if bucket is None:
            if len(kept) >= self._most_buckets:
                kept.popitem(last=False)
            bucket = kept[key] = LocalBucket(_name(kind, key), per_second, burst=burst)
            return bucket
        kept.move_to_end(key)
        if bucket.per_second != per_second:
            bucket.set_rate(per_second, burst=burst)
        return bucket


class RouteRates:
    """The limits of one RPC."""

    def __init__(self, gate: RateGate, method: str, guard: Guard) -> None:
        self._gate = gate
        self._method = method
        self._route = method.lstrip("/")
        self._per_tenant = gate.factor * (guard.per_tenant_per_second or DEFAULT_PER_SECOND)
        self._per_subject = gate.factor * guard.per_subject_per_second
        self._per_address = gate.factor * guard.per_address_per_second

    async def count(self, principal: Principal | None, connection: Connection | None) -> Allowance | None:
        """See `RouteLimits.count`. Waits for the gateway only when nobody here knows whether there is a token."""
        buckets = self._buckets(principal, connection)
        if not buckets:
            return None
        while True:
            unknown = self.decide(buckets)
            if not isinstance(unknown, LocalBucket):
                return unknown
            await self._gate.lessee.hear(unknown)

    def decide(self, buckets: Sequence[_Counted]) -> Allowance | LocalBucket:
        """Takes a token from each bucket, or from none; gives the bucket that only the gateway knows about.

        What is allowed is said of the bucket that leaves fewest calls, and a refusal of the one that lasts longest.
        Raises: RateLimited.
        """
        gate = self._gate
        lessee, now = gate.lessee, gate.clock.monotonic()
        outage = lessee.outage
        longest, unknown, refusing = 0.0, None, None
        for counted in buckets:
            seconds = counted[1].wait_for(now, outage=outage)
            if seconds is None:
                unknown = counted[1]
            elif seconds > longest:
                longest, refusing = seconds, counted
        if refusing is not None:
            gate.decisions[False, bool(outage)].inc()
            whose, bucket = refusing
            raise RateLimited(whose=whose, method=self._method, allowance=_allowance(bucket, 0.0), seconds=longest)
        if unknown is not None:
            return unknown
        fewest, tightest = math.inf, None
        for _, bucket in buckets:
            if bucket.spend(now, outage=outage):
                lessee.ask(bucket)
            left = bucket.left(now)
            # Of those that leave as many calls, the one that fills more slowly.
            if tightest is None or (left, bucket.per_second) < (fewest, tightest.per_second):
                fewest, tightest = left, bucket
        assert tightest is not None
        gate.decisions[True, bool(outage)].inc()
        return _allowance(tightest, fewest)

    def _buckets(self, principal: Principal | None, connection: Connection | None) -> Sequence[_Counted]:
        gate, route = self._gate, self._route
        if principal is None:
            if not self._per_address or connection is None:
                return ()
            block = block_of(gate.addresses.of(connection))
            bucket = gate.bucket("address", (block, route), self._per_address)
            return (("address", bucket),)
        tenant = principal.tenant
        known = gate.tenants.tenant(tenant)
        factor = 1.0 if known is None else known.quotas.rate_factor
        of_tenant = gate.bucket("tenant", (tenant, route), self._per_tenant * factor)
        if not self._per_subject:
            return (("tenant", of_tenant),)
        key = (tenant, principal.subject, route)
        of_caller = gate.bucket("caller", key, self._per_subject * factor)
        return (("tenant", of_tenant), ("caller", of_caller))


def _name(kind: Kind, key: _Key) -> str:
    """Gives the name of a bucket at the gateway."""
    name = "/".join(map(str, ("subject" if kind == "caller" else kind, *key)))
    return name if len(name) <= _MOST_CHARACTERS else f"hashed/{sha256(name.encode()).hexdigest()}"


def _allowance(bucket: LocalBucket, left: float) -> Allowance:
    rate = bucket.per_second
    limit = max(1, round(rate))
    remaining = min(limit, int(left))
    return Allowance(limit, remaining, math.ceil((min(limit, bucket.burst) - remaining) / rate))
