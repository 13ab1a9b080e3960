"""Keeps a guard feed fed: one stream from the gateway, opened again whenever it breaks."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from random import Random
from typing import Any, Final, cast

import grpc
import grpc.aio

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from comitia.gateway.v1.guard_feed_service_pb2_grpc import GuardFeedServiceStub
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.telemetry.logs import logger

#: Gives what changed after a version, without end.
GuardSource = Callable[[int], AsyncGenerator[pb.WatchGuardResponse]]

#: Without a word for this long the service counts as cut off, seconds; the gateway speaks every 2 s.
SILENT_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

log = logger(__name__)


def remote_source(channel: grpc.aio.Channel) -> GuardSource:
    """Reads the feed of a gateway at the other end of a channel."""
    # The package of the stubs types them as those of a blocking channel.
    stub = cast(Any, GuardFeedServiceStub(channel))

    async def source(after_version: int) -> AsyncGenerator[pb.WatchGuardResponse]:
        call = stub.WatchGuard(pb.WatchGuardRequest(after_version=after_version))
        try:
            async for news in call:
                yield news
        finally:
            call.cancel()

    return source


class FollowGuard:
    """Background work: reads the feed until cancelled. A gateway that is away costs freshness, never a call.

    Args:
        dice: spreads the attempts of many services.
    """

    def __init__(
        self,
        feed: GuardFeed,
        source: GuardSource,
        *,
        clock: Clock,
        dice: Random,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._feed = feed
        self._source = source
        self._clock = clock
        self._dice = dice
        self._silent_seconds = silent_seconds
        self._pause = _FIRST_PAUSE
        self._told = False

    async def __call__(self) -> None:
        """Follows, and opens the stream again after a pause when it ends."""
        while True:
            try:
                await self._follow()
            except (MeshError, grpc.aio.AioRpcError, TimeoutError) as error:
                self._say(error)
            self._feed.restart()
            await self._clock.sleep(self._pause * self._dice.uniform(0.5, 1.0))
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    async def _follow(self) -> None:
        async with aclosing(self._source(self._feed.version)) as messages:
            while True:
                async with asyncio.timeout(self._silent_seconds):
                    news = await anext(messages, None)
                if news is None:
                    return
                self._feed.take(news)
                if news.complete:
                    self._pause = _FIRST_PAUSE
                    if self._told:
                        self._told = False
                        log.info("the gateway speaks again", version=self._feed.version)

    def _say(self, error: Exception) -> None:
        if self._told:
            return
        # An hour's stream that ends is opened again at once; that is no news.
        if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        self._told = True
        log.warning(
            "the gateway does not say who was revoked; what is known goes on to hold",
            version=self._feed.version,
            error=repr(error),
        )
