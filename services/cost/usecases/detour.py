"""What becomes of an item later than of those that it came with."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from services.meshkit.core.errors import MeshError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Detour(Generic[Item, Result]):
    """An item that waits apart because its tenant's rows are locked. One caller waits for its outcome."""

    __slots__ = ("_future", "item", "taken")

    def __init__(self, item: Item) -> None:
        self.item = item
        #: True once its outcome is in the hands of whoever asked, or they went away.
        self.taken = False
        self._future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    async def answer(self) -> Result:
        """Waits for the outcome. Raises: MeshError: it was refused."""
        return await asyncio.shield(self._future)

    async def outcome(self) -> Result | MeshError:
        """Waits for the outcome; a refusal is one."""
        try:
            return await self.answer()
        except MeshError as refusal:
            return refusal

    def end(self, outcome: Result | MeshError) -> None:
        """Tells whoever waits, if anybody does."""
        if isinstance(outcome, MeshError):
            self._future.set_exception(outcome)
            # Looked at here, so that one whose caller has gone is not called unhandled.
            self._future.exception()
        else:
            self._future.set_result(outcome)

    def then(self, tell: Callable[[Result], None]) -> None:
        """Has `tell` told of the result instead of a caller who went away."""
        self._future.add_done_callback(lambda done: None if done.exception() else tell(done.result()))
