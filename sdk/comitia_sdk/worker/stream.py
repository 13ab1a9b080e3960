"""One stream to the mesh: what it is told, and the frames that tell it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from comitia_sdk.worker.job import Job

_MAX_OUTCOMES: Final = 1_000
#: Of the outcomes of one frame, which may have 4 MB.
_MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
_MAX_HEARTBEATS: Final = 10_000


class WorkStream:
    """Frames for one stream; iterating begins it with its hello. What is left when it ends is said on the next."""

    def __init__(self, hello: pb.WorkerHello) -> None:
        self._hello = hello
        self._news = asyncio.Event()
        self._outcomes: deque[pb.StepOutcome] = deque()
        self._heartbeats: list[int] = []
        self._credits = 0
        self._tell_draining = False
        self._ended = False
        #: Credits that it has, spent or not.
        self.given = hello.credits
        #: Leases that are to be answered here.
        self.jobs: dict[int, Job] = {}
        #: True once it gives no more leases.
        self.draining = asyncio.Event()
        #: True once the mesh has taken it.
        self.well = False

    def answer(self, lease_id: int, outcome: pb.StepOutcome) -> None:
        """Answers a lease."""
        self.jobs.pop(lease_id, None)
        said = pb.StepOutcome()
        said.CopyFrom(outcome)
        said.lease_id = lease_id
        self._outcomes.append(said)
        self._news.set()

    def beat(self, lease_ids: list[int]) -> None:
        """Says that leases are still worked on."""
        self._heartbeats += lease_ids
        self._news.set()

    def add_credit(self) -> None:
        """Says that there is room for one more lease."""
        self.given += 1
        self._credits += 1
        self._news.set()

    def drain(self) -> None:
        """Says that no more leases are wanted."""
        self._tell_draining = True
        self.draining.set()
        self._news.set()

    def end(self) -> None:
        """Says nothing any more; whoever iterates comes to the end."""
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[pb.WorkRequest]:
        yield pb.WorkRequest(hello=self._hello)
        while True:
            while self._outcomes:
                yield pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=self._frame()))
            if self._credits:
                count, self._credits = self._credits, 0
                yield pb.WorkRequest(credits=pb.WorkerCredits(count=count))
            while self._heartbeats:
                beats, self._heartbeats = self._heartbeats[:_MAX_HEARTBEATS], self._heartbeats[_MAX_HEARTBEATS:]
                yield pb.WorkRequest(heartbeats=pb.Heartbeats(lease_ids=beats))
            if self._tell_draining:
                self._tell_draining = False
                yield pb.WorkRequest(draining=pb.WorkerDraining())
            if self._ended and not self._outcomes:
                return
            await self._news.wait()
            self._news.clear()

    def _frame(self) -> list[pb.StepOutcome]:
        frame: list[pb.StepOutcome] = []
        size = 0
        while self._outcomes and len(frame) < _MAX_OUTCOMES:
            size += self._outcomes[0].ByteSize()
            if frame and size > _MAX_FRAME_BYTES:
                break
            frame.append(self._outcomes.popleft())
        return frame
