"""Carries what buckets ask to the gateway and the slices back: all of one loop tick in one call, one call at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import grpc.aio

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1.guard_feed_service_pb2_grpc import GuardFeedServiceStub
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.rate import Ask, LeaseSlices, Slice
from services.meshkit.grpc.errors import remote_errors
from services.meshkit.guard.bucket import LocalBucket
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: The gateway counts as away when it has not answered for this long, seconds.
ANSWER_SECONDS: Final = 1.0
#: While it is away it is tried this often, seconds.
TRY_SECONDS: Final = 1.0
_MOST_ASKS: Final = 1_000
#: Buckets that may wait for their turn; beyond it looking ahead is left out.
_MOST_DUE: Final = 20_000
_QUEUE: Final = "rate.leases"

log = logger(__name__)


def remote_leases(channel: grpc.aio.Channel) -> LeaseSlices:
    """Leases at a gateway at the other end of a channel."""
    # The package of the stubs types them as those of a blocking channel.
    stub = cast(Any, GuardFeedServiceStub(channel))

    async def lease(asks: "list[Ask] | tuple[Ask, ...]") -> list[Slice]:
        request = pb.LeaseRateRequest(
            asks=[
                pb.LeaseRateRequest.Ask(
                    bucket=ask.bucket,
                    per_second=ask.per_second,
                    burst=ask.burst,
                    tokens=ask.tokens,
                    spent=ask.spent,
                    unused=ask.unused,
                )
                for ask in asks
            ]
        )
        with remote_errors():
            answer = await stub.LeaseRate(request, timeout=ANSWER_SECONDS)
        return [
            Slice(tokens=got.tokens, seconds=got.seconds, remaining=got.remaining, wait_seconds=got.wait_seconds)
            for got in answer.slices
        ]

    return cast(LeaseSlices, lease)


class Lessee:
    """Background work of a replica that spends slices.

    Args:
        service: label of the metrics.
        jitter: gives 0 to 1; spreads the attempts of many replicas while the gateway is away.
    """

    def __init__(
        self, lease: LeaseSlices, *, service: str, clock: Clock, jitter: Callable[[], float] = lambda: 0.5
    ) -> None:
        self._lease = lease
        self._clock = clock
        self._jitter = jitter
        self._due: dict[int, LocalBucket] = {}
        self._work = asyncio.Event()
        self._held: deque[tuple[float, LocalBucket]] = deque()
        self._holding = asyncio.Event()
        self._outages = 0
        #: Number of the outage that goes on; 0 while the gateway answers.
        self.outage = 0
        self._away = metrics.RATE_LEASES_AWAY.labels(service)
        self._away.set(0)
        self._sizes = metrics.BATCH_ITEMS.labels(_QUEUE)

    def ask(self, bucket: LocalBucket) -> None:
        """Puts a bucket down for the next call to the gateway."""
        if bucket.asking:
            return
        if len(self._due) >= _MOST_DUE:
            metrics.QUEUE_REFUSED.labels(_QUEUE).inc()
            return
        bucket.asking = True
        self._due[id(bucket)] = bucket
        self._work.set()

    async def hear(self, bucket: LocalBucket) -> None:
        """Returns once the gateway has spoken about a bucket, or is known to be away."""
        waiter = bucket.wait()
        self.ask(bucket)
        try:
            await waiter
        finally:
            bucket.leave(waiter)

    async def lease(self) -> None:
        """Background work: asks whenever there is something to ask, until cancelled."""
        while True:
            if self.outage:
                await self._clock.sleep(TRY_SECONDS * (0.5 + self._jitter()))
            else:
                await self._work.wait()
                # What else this tick asks comes along.
                await asyncio.sleep(0)
            await self.once()

    async def hand_back(self) -> None:
        """Background work: gives back what was not used in time, until cancelled."""
        while True:
            if not self._held:
                self._holding.clear()
                await self._holding.wait()
            await self._clock.sleep(max(0.05, self._held[0][0] - self._clock.monotonic()))
            self.return_void()

    async def once(self) -> None:
        """Makes one call to the gateway for everything that is due, at most 1,000 buckets."""
        asking = self._next()
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                slices = await self._lease([bucket.ask(asked_at) for bucket in asking])
        except (MeshError, TimeoutError) as error:
            self._lost(asking, error)
            return
        except BaseException:
            self._release(asking)
            raise
        if len(slices) != len(asking):
            self._lost(asking, TimeoutError(f"{len(slices)} slices for {len(asking)} asks"))
            return
        self._found()
        self._sizes.observe(len(asking))
        now = self._clock.monotonic()
        for bucket, got in zip(asking, slices, strict=True):
            bucket.take(got, asked_at=asked_at, now=now)
            if got.tokens:
                self._held.append((bucket.void_at, bucket))
                self._holding.set()
            if not bucket.settled:
                self.ask(bucket)

    def return_void(self) -> None:
        """Puts down what became void to be handed back."""
        now = self._clock.monotonic()
        while self._held and self._held[0][0] <= now:
            _, bucket = self._held.popleft()
            if bucket.expire(now):
                self.ask(bucket)

    def _next(self) -> list[LocalBucket]:
        """Takes out what is asked next, each name once: the gateway refuses to be asked twice for one bucket.

        There are two of a name while one that was forgotten here still has something to book.
        """
        chosen: dict[str, LocalBucket] = {}
        for bucket in self._due.values():
            chosen.setdefault(bucket.name, bucket)
            if len(chosen) == _MOST_ASKS:
                break
        for bucket in chosen.values():
            del self._due[id(bucket)]
        if not self._due:
            self._work.clear()
        return list(chosen.values())

    def _lost(self, asking: list[LocalBucket], error: Exception) -> None:
        if not self.outage:
            self._outages += 1
            self.outage = self._outages
            self._away.set(1)
            log.warning("rate limits are counted alone, a quarter of each here", error=repr(error))
        self._release(asking)

    def _found(self) -> None:
        if self.outage:
            self.outage = 0
            self._away.set(0)
            log.info("rate limits are counted together again")

    def _release(self, asking: list[LocalBucket]) -> None:
        for bucket in asking:
            bucket.fail()
            if not bucket.settled:
                self.ask(bucket)
