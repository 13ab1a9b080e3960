"""Lets work that has begun to take effect run to its end, whatever happens to its caller."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work` in a task of its own and waits for its end even when the caller is cancelled.

    Returns: the result of `work`.
    Raises: what `work` raises; CancelledError, after `work` has ended, if the caller was cancelled meanwhile.
    """
    owner = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not owner.done():
        try:
            await asyncio.wait((owner,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return owner.result()
    failure = None if owner.cancelled() else owner.exception()
    raise cancelled from failure
