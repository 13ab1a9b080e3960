"""Ends a stream without end when its server stops, so that its client goes on elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.call import current_call

Item = TypeVar("Item")


async def until_drain(
    items: AsyncGenerator[Item], *, interrupted: Callable[[], MeshError] | None = None
) -> AsyncGenerator[Item]:
    """Gives the items until the server begins to stop. What was given until then is whole.

    Args:
        interrupted: what is raised then; None: the items just end.
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
                        if interrupted is not None:
                            raise interrupted()
                        return
                    yield following.result()
                    following = asyncio.ensure_future(anext(items))
            except StopAsyncIteration:
                return
            finally:
                stopping.cancel()
                following.cancel()
                await asyncio.gather(stopping, following, return_exceptions=True)
