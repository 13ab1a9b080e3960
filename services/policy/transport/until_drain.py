"""Ends a stream without end when its server stops, so that its client goes on elsewhere."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from services.meshkit.grpc.call import current_call
from services.policy.domain.errors import WatchInterrupted

Item = TypeVar("Item")


async def until_drain(items: AsyncGenerator[Item]) -> AsyncGenerator[Item]:
    """Gives the items until the server begins to stop.

    Raises: WatchInterrupted: it did; what was given so far is whole.
    """
    call = current_call()
    told = asyncio.Event()
    async with aclosing(items):
        if call is None:
            async for item in items:
                yield item
            return
        with call.drain.notify(told.set):
            stopping = asyncio.ensure_future(told.wait())
            following = asyncio.ensure_future(anext(items))
            try:
                while True:
                    await asyncio.wait((stopping, following), return_when=asyncio.FIRST_COMPLETED)
                    if not following.done():
                        raise WatchInterrupted
                    yield following.result()
                    following = asyncio.ensure_future(anext(items))
            except StopAsyncIteration:
                return
            finally:
                stopping.cancel()
                following.cancel()
                await asyncio.gather(stopping, following, return_exceptions=True)
