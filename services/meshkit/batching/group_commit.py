"""Commits what concurrent callers write in one transaction."""

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from services.meshkit.batching.dispatcher import BatchDispatcher, is_poison
from services.meshkit.core.errors import MeshError

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """One flusher that commits everything queued, then everything that queued meanwhile.

    It never waits for more when idle: a write that comes alone is committed alone. A batch that fails is split until
    the poison item stands alone, and only its caller sees the error. A caller that is cancelled does not interrupt the
    commit.

    Args:
        commit: writes a batch in one transaction, one result per item; leaves nothing behind when it raises.
        ahead: items that have to wait before `commit` is called for them while it is busy with others, to do what it
            can do before those are written; it takes turns itself. None: it is called for one batch after the other.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result | MeshError]]],
        *,
        name: str,
        max_items: int = 512,
        max_waiting: int = 8192,
        ahead: int | None = None,
        poison: Callable[[Exception], bool] = is_poison,
    ) -> None:
        self._dispatcher = BatchDispatcher(
            commit,
            name=name,
            max_items=max_items,
            max_waiting=max_waiting,
            workers=1 if ahead is None else 2,
            ahead=ahead or 1,
            poison=poison,
        )

    async def __aenter__(self) -> Self:
        await self._dispatcher.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits what is queued, then stops."""
        await self._dispatcher.__aexit__(kind, error, trace)

    async def submit(self, item: Item) -> Result:
        """Has `item` committed and gives its result once it is durable.

        Raises: QueueFull; Unavailable: closed; what `commit` raised or returned for this item.
        """
        return await self._dispatcher.call(item)

    async def submit_many(self, items: Sequence[Item]) -> list[Result | MeshError]:
        """Has `items` committed, in order, and gives what became of each once it is durable.

        What `commit` raised for an item, if it is none of the mesh's errors, becomes `Internal` for that item.

        Raises: Unavailable: closed.
        """
        return await self._dispatcher.call_many(items)
