"""Group commit and dispatcher: nothing is lost, nothing waits when idle, poison stands alone."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meshkit.batching.dispatcher import BatchDispatcher, QueueFull
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.core.errors import Conflict, Internal, MeshError, Unavailable
from services.meshkit.sql.errors import DatabaseBusy


class Table:
    """A table whose transactions fail as a whole when one row is poison."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.commits: list[int] = []
        self.tries = 0
        self.open = asyncio.Event()
        self.open.set()
        self.down: MeshError | None = None

    async def commit(self, items: Sequence[int]) -> Sequence[int | MeshError]:
        self.tries += 1
        await self.open.wait()
        if self.down is not None:
            raise self.down
        if any(item < 0 for item in items):
            raise ValueError("poison")
        self.rows.extend(item for item in items if item % 7)
        self.commits.append(len(items))
        return [Conflict("multiples of seven are taken") if item % 7 == 0 else item * 10 for item in items]


async def test_a_write_that_comes_alone_is_committed_at_once() -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test") as group:
        assert [await group.submit(1), await group.submit(2)] == [10, 20]
    assert table.commits == [1, 1]


async def test_what_queues_during_a_commit_becomes_the_next_one() -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test") as group:
        table.open.clear()
        waiting = [asyncio.create_task(group.submit(1))]
        await asyncio.sleep(0.01)
        waiting += [asyncio.create_task(group.submit(n)) for n in range(2, 7)]
        await asyncio.sleep(0.01)
        table.open.set()
        assert await asyncio.gather(*waiting) == [10, 20, 30, 40, 50, 60]
    assert table.commits == [1, 5]


async def test_the_next_batch_is_begun_during_a_commit_once_enough_waits() -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test", ahead=3) as group:
        table.open.clear()
        waiting = [asyncio.create_task(group.submit(1))]
        await asyncio.sleep(0.01)
        assert table.tries == 1
        waiting += [asyncio.create_task(group.submit(n)) for n in (2, 3)]
        await asyncio.sleep(0.01)
        assert table.tries == 1, "two are not enough"
        waiting.append(asyncio.create_task(group.submit(4)))
        await asyncio.sleep(0.01)
        assert table.tries == 2
        waiting += [asyncio.create_task(group.submit(n)) for n in range(5, 10) if n % 7]
        await asyncio.sleep(0.01)
        assert table.tries == 2, "one batch is begun ahead, not two"
        table.open.set()
        await asyncio.gather(*waiting)
    assert sorted(table.commits) == [1, 3, 4]


@given(items=st.lists(st.integers(min_value=-3, max_value=40), min_size=1, max_size=60))
def test_poison_fails_its_own_caller_and_no_other(items: list[int]) -> None:
    async def run() -> tuple[Table, list[int | BaseException]]:
        table = Table()
        async with GroupCommit(table.commit, name="test", max_items=16) as group:
            return table, await asyncio.gather(*(group.submit(n) for n in items), return_exceptions=True)

    table, outcomes = asyncio.run(run())
    for item, outcome in zip(items, outcomes, strict=True):
        if item < 0:
            assert isinstance(outcome, ValueError)
        elif item % 7 == 0:
            assert isinstance(outcome, Conflict)
        else:
            assert outcome == item * 10
    assert sorted(table.rows) == sorted(item for item in items if item > 0 and item % 7)


@pytest.mark.parametrize("away", [Unavailable("postgres"), DatabaseBusy("try again", retry_after=timedelta(seconds=1))])
async def test_a_database_that_is_down_or_busy_is_not_asked_for_every_item(away: MeshError) -> None:
    table = Table()
    table.down = away
    async with GroupCommit(table.commit, name="test") as group:
        outcomes = await asyncio.gather(*(group.submit(n) for n in range(1, 65)), return_exceptions=True)
    assert all(outcome is away for outcome in outcomes)
    assert table.tries == 1


async def test_a_cancelled_caller_does_not_interrupt_the_commit() -> None:
    table = Table()
    table.open.clear()
    async with GroupCommit(table.commit, name="test") as group:
        caller = asyncio.create_task(group.submit(1))
        await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        table.open.set()
    assert table.rows == [1]


async def test_closing_commits_what_is_queued() -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test") as group:
        waiting = [asyncio.create_task(group.submit(n)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == [10, 20, 30]
    with pytest.raises(Unavailable):
        await group.submit(4)


async def test_a_full_queue_refuses_at_the_door() -> None:
    table = Table()
    table.open.clear()
    async with GroupCommit(table.commit, name="test", max_items=1, max_waiting=2) as group:
        first = asyncio.create_task(group.submit(1))
        await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(group.submit(n)) for n in (2, 3)]
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull):
            await group.submit(4)
        table.open.set()
        assert await asyncio.gather(first, *waiting) == [10, 20, 30]


async def test_a_handler_that_forgets_an_item_fails_the_batch() -> None:
    async def forget(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    async with BatchDispatcher(forget, name="test") as dispatcher:
        outcomes = await asyncio.gather(*(dispatcher.call(n) for n in (1, 2)), return_exceptions=True)
    assert all(isinstance(outcome, Internal) for outcome in outcomes)


async def test_workers_handle_batches_side_by_side() -> None:
    running = most = 0

    async def handle(items: Sequence[int]) -> Sequence[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return items

    async with BatchDispatcher(handle, name="test", max_items=1, workers=3) as dispatcher:
        await asyncio.gather(*(dispatcher.call(n) for n in range(9)))
    assert most == 3


@given(
    sizes=st.lists(st.integers(min_value=0, max_value=30), min_size=1, max_size=8),
    most=st.integers(min_value=1, max_value=9),
)
async def test_what_is_submitted_together_is_committed_in_order_whatever_the_size_of_a_batch(
    sizes: list[int], most: int
) -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test", max_items=most) as group:
        frames = [list(range(100 * start, 100 * start + size)) for start, size in enumerate(sizes)]
        answers = await asyncio.gather(*(group.submit_many(frame) for frame in frames))
    for frame, outcomes in zip(frames, answers, strict=True):
        assert [type(outcome) for outcome in outcomes] == [int if item % 7 else Conflict for item in frame]
        assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [
            10 * item for item in frame if item % 7
        ]
    assert table.rows == [item for frame in frames for item in frame if item % 7]
    assert all(size <= most for size in table.commits)


async def test_those_of_a_frame_that_find_no_room_are_refused_and_the_others_are_committed() -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test", max_waiting=3) as group:
        outcomes = await group.submit_many([1, 2, 3, 4, 5])
    assert outcomes[:3] == [10, 20, 30]
    assert [type(outcome) for outcome in outcomes[3:]] == [QueueFull, QueueFull]
    assert table.rows == [1, 2, 3]


async def test_a_database_that_is_down_is_the_outcome_of_each_and_a_bug_is_that_of_its_own_item() -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test") as group:
        table.down = Unavailable("postgres")
        assert await group.submit_many([1, 2]) == [table.down, table.down]
        table.down = None
        outcomes = await group.submit_many([3, -1, 4])
        assert (outcomes[0], outcomes[2]) == (30, 40)
        assert isinstance(outcomes[1], Internal)
        assert await group.submit_many([5]) == [50]
    assert table.rows[-1] == 5
    with pytest.raises(Unavailable):
        await group.submit_many([6])


async def test_a_frame_whose_caller_left_is_committed_yet() -> None:
    table = Table()
    async with GroupCommit(table.commit, name="test", max_items=2) as group:
        table.open.clear()
        left = asyncio.create_task(group.submit_many([1, 2, 3]))
        stays = asyncio.create_task(group.submit(4))
        await asyncio.sleep(0.01)
        left.cancel()
        table.open.set()
        assert await stays == 40
        with pytest.raises(asyncio.CancelledError):
            await left
    assert table.rows == [1, 2, 3, 4]
