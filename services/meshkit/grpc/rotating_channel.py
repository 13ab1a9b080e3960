"""A channel that proves its service by a certificate, and takes a new one up without failing a call.

When the files change, a second channel is opened beside the first. Once it is connected, new calls go there; calls in
flight end where they began.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from services.meshkit.grpc.tls import LOOK_SECONDS, MeshTls, Way
from services.meshkit.telemetry.logs import logger

#: A new connection has this long to come about before it is given up until the next look, seconds.
_CONNECT_SECONDS: Final = 5.0
#: Calls on a channel that was replaced have this long to end. Servers end connections after about as long themselves.
_FINISH_SECONDS: Final = 60 * 60.0

#: How gRPC names its options.
Options = Sequence[tuple[str, Any]]

log = logger(__name__)


@asynccontextmanager
async def rotating_channel(way: Way, tls: MeshTls, *, address: str, options: Options) -> AsyncGenerator[Any]:
    """Opens a channel with certificates on both ends, and closes it after the block.

    Args:
        address: the target of the way in gRPC's words.
    """
    channel = _RotatingChannel(tls, address=address, options=(*options, *_proven_by(way)))
    renewing = asyncio.create_task(channel.renew(), name=f"certificate of channel to {way.handed_to or way.target}")
    try:
        yield channel
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await channel.close()


def _proven_by(way: Way) -> Options:
    proven: Options = (("grpc.ssl_target_name_override", way.shows),)
    return (*proven, ("grpc.default_authority", way.handed_to)) if way.handed_to else proven


class _RotatingChannel(grpc.aio.Channel):
    """Makes calls on the channel whose certificate is in use."""

    def __init__(self, tls: MeshTls, *, address: str, options: Options) -> None:
        self._tls = tls
        self._address = address
        self._options = options
        self._shown = tls.refresh()
        #: Calls go here; replaced as a whole.
        self.raw: Any = self._open()
        self._ending: set[asyncio.Task[None]] = set()

    def _open(self) -> Any:
        return grpc.aio.secure_channel(self._address, self._tls.channel_credentials(), options=list(self._options))

    async def renew(self) -> None:
        """Follows the certificate for as long as it runs."""
        while True:
            await self._tls.sleep(LOOK_SECONDS)
            generation = self._tls.refresh()
            if generation != self._shown and await self._replace():
                self._shown = generation

    async def _replace(self) -> bool:
        fresh = self._open()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await fresh.channel_ready()
        except TimeoutError:
            # Nobody is there, or nobody believes the new certificate: calls do as they did.
            log.warning("no connection with the new certificate yet", channel=self._address)
            await fresh.close()
            return False
        except asyncio.CancelledError:
            await fresh.close()
            raise
        old, self.raw = self.raw, fresh
        ending = asyncio.create_task(old.close(_FINISH_SECONDS), name=f"end of a channel to {self._address}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return True

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._callable("unary_unary", method, arguments, options)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._callable("unary_stream", method, arguments, options)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._callable("stream_unary", method, arguments, options)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._callable("stream_stream", method, arguments, options)

    def _callable(self, kind: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Gives what stubs keep for years: it makes its own call anew when the channel was replaced."""
        made_on: Any = None
        call: Any = None

        def start(*request: Any, **how: Any) -> Any:
            nonlocal made_on, call
            if made_on is not self.raw:
                made_on = self.raw
                call = getattr(made_on, kind)(method, *arguments, **options)
            return call(*request, **how)

        return start

    async def close(self, grace: float | None = None) -> None:
        for ending in tuple(self._ending):
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self.raw.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.raw.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.raw.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.raw.channel_ready()

    async def __aenter__(self) -> "_RotatingChannel":
        return self

    async def __aexit__(self, *_unused: object) -> None:
        await self.close()
