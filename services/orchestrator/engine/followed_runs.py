"""Runs in progress as they stood when somebody last looked: who looks again reads what was recorded since, no more."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.programs.run_view import RunProjection

#: Bytes of runs that are kept, by what they were started with; the one looked at longest ago goes first.
_MOST_BYTES: Final = 32 * 1024 * 1024
#: What one takes at least.
_LEAST_BYTES: Final = 16 * 1024

#: Gives the facts of a run after a sequence, in order.
FactsAfter = Callable[[int], AsyncGenerator[tuple[int, journal_pb2.JournalEntry]]]


class _Followed:
    def __init__(self) -> None:
        self.projection = RunProjection()
        self.sequence = 0
        self.bytes = _LEAST_BYTES
        #: For one reader at a time: facts are taken once and in order.
        self.lock = asyncio.Lock()


class FollowedRuns:
    """Keeps the latest ones."""

    def __init__(self, *, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[TenantId, str], _Followed] = OrderedDict()

    def has(self, tenant: TenantId, run_id: str) -> bool:
        """Says whether somebody looked at it a while ago."""
        return (tenant, run_id) in self._kept

    def forget(self, tenant: TenantId, run_id: str) -> None:
        """Lets a run go that has ended: what was last written of it is all."""
        gone = self._kept.pop((tenant, run_id), None)
        if gone is not None:
            self._bytes -= gone.bytes

    async def run(self, tenant: TenantId, run_id: str, facts_after: FactsAfter) -> run_pb2.Run:
        """Gives a run as it stands."""
        key = tenant, run_id
        followed = self._kept.get(key)
        if followed is None:
            followed = self._kept[key] = _Followed()
            self._bytes += followed.bytes
        self._kept.move_to_end(key)
        async with followed.lock:
            async for sequence, entry in facts_after(followed.sequence):
                followed.projection.take(entry, sequence)
                followed.sequence = sequence
                if entry.HasField("run_started"):
                    self._measure(key, followed, entry.ByteSize())
            run = run_pb2.Run()
            run.CopyFrom(followed.projection.run)
        return run

    def _measure(self, key: tuple[TenantId, str], followed: _Followed, size: int) -> None:
        if self._kept.get(key) is not followed:
            return
        self._bytes += size
        followed.bytes += size
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.bytes
