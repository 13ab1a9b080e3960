"""Gathers what concurrent callers spend, so that all of it shares transactions."""

from collections.abc import Sequence
from typing import Protocol

from services.cost.domain.hold import Hold
from services.cost.usecases.spend import Operation, Outcome


class Group(Protocol):
    """A group commit of operations; `meshkit.batching.GroupCommit` is one."""

    async def submit(self, item: Operation) -> Hold:
        """Raises: MeshError: this operation was refused."""
        ...

    async def submit_many(self, items: Sequence[Operation]) -> list[Outcome]:
        """Gives one outcome each, in order."""
        ...


class SpendTogether:
    """One path for unary calls and frames: both join the transaction that is gathered next."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def one(self, operation: Operation, /) -> Hold:
        """Carries out one operation. Raises: MeshError: it was refused."""
        return await self._group.submit(operation)

    async def many(self, operations: Sequence[Operation], /) -> list[Outcome]:
        """Carries out the operations of a frame, in order; a refused one is an outcome, not an error."""
        return await self._group.submit_many(operations)
