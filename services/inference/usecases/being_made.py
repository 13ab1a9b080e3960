"""A call that is being made, and that others wait for, which may be given its answer."""

import asyncio

from services.meshkit.core.clock import Clock


class BeingMade:
    """Ends with the call, whatever came of it."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        #: True once it has an answer that others do not get.
        self.of_no_use = False

    async def wait(self, seconds: float, *, clock: Clock) -> None:
        """Waits for the end of the call, so long at most."""
        waits = (asyncio.create_task(self.over.wait()), asyncio.create_task(clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
