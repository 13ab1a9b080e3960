"""Places for sub-runs: bounded, shared by tenants, and never all held by those that wait for deeper ones."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.workflow import MAX_DEPTH
from services.orchestrator.engine.sub_run_places import SubRunPlaces
from tests.support.sub_runs import HeardWaiting

OTHER = TenantId(SystemIds().uuid())


@dataclass(slots=True)
class SubRun:
    """One that holds a place from when there is one until it is told to end."""

    places: SubRunPlaces
    tenant: TenantId = TENANT
    depth: int = 1
    begun: bool = False
    heard: HeardWaiting = field(default_factory=HeardWaiting)
    runs: bool = False
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        self.task = asyncio.create_task(self.live())

    async def live(self) -> None:
        async with self.places.place(self.tenant, self.depth, self.heard, begun=self.begun):
            self.runs = True
            await self.may_end.wait()
        self.runs = False

    async def end(self) -> None:
        """Lets it end."""
        self.may_end.set()
        await self.task
        await turns()


async def turns() -> None:
    """Lets everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def many(count: int, made: Callable[[], SubRun]) -> list[SubRun]:
    found = [made() for _ in range(count)]
    await turns()
    return found


async def test_as_many_as_there_are_places_go_on_and_the_others_wait_in_turn() -> None:
    places = SubRunPlaces(160)
    sub_runs = await many(70, lambda: SubRun(places))
    going = [one for one in sub_runs if one.runs]
    assert (len(going), places.taken) == (60, 60)
    assert [one.heard.waiting for one in sub_runs] == [False] * 60 + [True] * 10
    await sub_runs[0].end()
    assert sub_runs[60].runs
    assert not sub_runs[61].runs
    for one in sub_runs:
        await one.end()
    assert places.taken == 0


async def test_a_tenant_that_has_its_share_leaves_places_to_others() -> None:
    places = SubRunPlaces(160)
    mine = await many(90, lambda: SubRun(places))
    others = await many(10, lambda: SubRun(places, OTHER))
    assert all(one.runs for one in others)
    for one in [*mine, *others]:
        await one.end()


@pytest.mark.parametrize("most", [1, 2, 16, 50])
async def test_trees_as_deep_as_may_be_all_end(most: int) -> None:
    places = SubRunPlaces(most)

    async def tree(tenant: TenantId, depth: int) -> None:
        if depth > MAX_DEPTH:
            return
        async with places.place(tenant, depth, HeardWaiting(), begun=False):
            await asyncio.sleep(0)
            await asyncio.gather(*(tree(tenant, depth + 1) for _ in range(2)))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for tenant in (TENANT, OTHER):
            for _ in range(6):
                group.create_task(tree(tenant, 1))
    assert places.taken == 0


async def test_one_that_is_there_already_has_its_place_and_is_counted() -> None:
    places = SubRunPlaces(2)
    found = await many(5, lambda: SubRun(places, begun=True))
    assert all(one.runs for one in found)
    late = SubRun(places)
    await turns()
    assert (late.heard.waiting, places.taken) == (True, 5)
    for one in found:
        await one.end()
    assert late.runs
    await late.end()


async def test_one_that_is_waited_for_no_longer_leaves_the_queue_and_loses_no_place() -> None:
    places = SubRunPlaces(1)
    first, second, third = await many(3, lambda: SubRun(places))
    second.task.cancel()
    await turns()
    assert not second.heard.waiting
    # Given its place, and given up at the same moment.
    first.may_end.set()
    await first.task
    third.task.cancel()
    await turns()
    assert places.taken == 0


async def test_one_that_is_given_up_at_the_moment_another_ends_is_passed_over() -> None:
    places = SubRunPlaces(1)
    first, given_up, last = await many(3, lambda: SubRun(places))
    first.may_end.set()
    given_up.task.cancel()
    await turns()
    assert (first.runs, given_up.runs, last.runs, places.taken) == (False, False, True, 1)
    await last.end()
    assert places.taken == 0
