"""A frame that cannot be made, or written, is the fault of its own items and of nobody else's."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from comitia.common.v1.batch_pb2 import ItemStatus
from comitia.cost.v1 import budget_service_pb2 as pb
from services.meshkit.batching.client_stream import Waiting
from services.meshkit.batching.lane import Lane
from services.meshkit.core.errors import Internal
from services.meshkit.core.retry import Backoff
from services.meshkit.testing.fake_clock import FakeClock

Answered = pb.BatchSpendResponse


@dataclass(eq=False)
class Wire:
    """A stream that answers what it is told to, once it is told to, and reads no item of the hold `unwritable`."""

    frames: list[pb.BatchSpendRequest] = field(default_factory=list)
    answers: asyncio.Queue[Answered | None] = field(default_factory=asyncio.Queue)
    finished: bool = False

    async def write(self, frame: pb.BatchSpendRequest) -> None:
        if any(item.release.hold_id == "unwritable" for item in frame.items):
            raise ValueError("the frame cannot be written")
        self.frames.append(frame)

    async def done_writing(self) -> None:
        self.finished = True

    def cancel(self) -> None:
        self.answers.put_nowait(None)

    async def __aiter__(self) -> AsyncGenerator[Answered]:
        while (frame := await self.answers.get()) is not None:
            yield frame

    def answer_all(self) -> None:
        for frame in self.frames:
            statuses = [Answered.Item(status=ItemStatus(item_id=item.header.item_id)) for item in frame.items]
            self.answers.put_nowait(Answered(items=statuses))


def made(*, items: Iterable[Any]) -> pb.BatchSpendRequest:
    frame = pb.BatchSpendRequest(items=items)
    if any(item.release.hold_id == "unmakable" for item in frame.items):
        raise ValueError("the frame cannot be made")
    return frame


def asked(hold_id: str, token: str) -> Waiting:
    loop = asyncio.get_running_loop()
    item = pb.BatchSpendRequest.Item(release=pb.ReleaseRequest(hold_id=hold_id))
    return Waiting(item=item, token=token, size_bytes=64, expires=loop.time() + 30, future=loop.create_future())


@asynccontextmanager
async def working(wires: list[Wire]) -> AsyncIterator[Lane]:
    def opened() -> Wire:
        wires.append(Wire())
        return wires[-1]

    lane = Lane(
        opened,
        name="test",
        make_frame=made,
        clock=FakeClock(),
        random=Random(1),
        backoff=Backoff(first_seconds=0.05, most_seconds=1.0),
        stream_seconds=240.0,
    )
    task = asyncio.create_task(lane.run())
    try:
        yield lane
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("fault", ["unmakable", "unwritable"])
async def test_a_frame_that_fails_takes_its_own_items_along_only(fault: str) -> None:
    wires: list[Wire] = []
    async with working(wires) as lane:
        before, broken, after = asked("before", "Anna"), asked(fault, "Ben"), asked("after", "Ben")
        lane.send(before)
        await settled()
        lane.send(broken)
        await settled()
        assert isinstance(broken.future.exception(), Internal)
        assert not before.future.done()
        lane.send(after)
        await settled()
        for wire in wires:
            wire.answer_all()
        await asyncio.wait_for(asyncio.gather(before.future, after.future), timeout=5)
        # The token of the frame that never left is told again, to a stream of its own.
        assert [list(wire.frames[0].identities.access_tokens) for wire in wires] == [["Anna"], ["Ben"]]
        assert wires[0].finished
        assert lane.load == 0
