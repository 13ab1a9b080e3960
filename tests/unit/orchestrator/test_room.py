"""Room for runs: shares of tenants, the reserve for what wakes, and sub-runs, which need none."""

from contextlib import ExitStack

import pytest

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import RunsAtLimit
from services.orchestrator.domain.sub_run_id import depth_of, sub_run_id
from services.orchestrator.engine.room import Room
from services.orchestrator.engine.run import OwnedRun, shard_of

IDS = SystemIds()
OTHER = TenantId(IDS.uuid())


def a_run(run_id: str = "", tenant: TenantId = TENANT) -> OwnedRun:
    run_id = run_id or IDS.new("run")
    return OwnedRun(tenant=tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))


def started(room: Room, tenant: TenantId) -> int:
    """Starts runs of a tenant until one is refused; says how many there were."""
    count = 0
    while True:
        try:
            with room.start(tenant):
                room.take(a_run(tenant=tenant))
        except RunsAtLimit:
            return count
        count += 1


def test_a_tenant_alone_gets_two_thirds_and_the_next_one_finds_room() -> None:
    room = Room(100)
    assert started(room, TENANT) == 60
    assert started(room, OTHER) == 20
    assert room.open_for_starts


def test_whoever_is_refused_for_its_share_is_told_so() -> None:
    room = Room(100)
    started(room, TENANT)
    with pytest.raises(RunsAtLimit, match="60 runs of your tenant, its share"), room.start(TENANT):
        pass


def test_starts_leave_a_tenth_to_runs_that_wake() -> None:
    room = Room(20)
    with ExitStack() as starts:
        for _ in range(18):
            starts.enter_context(room.start(TenantId(IDS.uuid())))
        assert (room.open_for_starts, room.open) == (False, True)
        with pytest.raises(RunsAtLimit), room.start(OTHER):
            pass
        room.take(a_run())
        room.take(a_run())
        assert not room.open
    assert room.open_for_starts


def test_a_run_has_one_place_and_gives_it_back_once() -> None:
    room, run = Room(2), a_run()
    room.take(run)
    room.take(run)
    assert room.open
    room.leave(run.run_id)
    room.leave(run.run_id)
    room.take(a_run())
    assert room.open
    room.take(a_run())
    assert not room.open


def test_sub_runs_take_no_place_of_those_that_wait_for_them() -> None:
    room, parent = Room(1), a_run()
    room.take(parent)
    room.take(a_run(sub_run_id(parent.run_id, "nodes/inner#1.1")))
    room.leave(parent.run_id)
    assert room.open


def test_the_id_of_a_sub_run_says_its_place_and_how_deep_it_lies() -> None:
    root = IDS.new("run")
    inner = sub_run_id(root, "nodes/a#1.1")
    assert inner == sub_run_id(root, "nodes/a#1.1")
    assert inner != sub_run_id(root, "nodes/a#1.2")
    assert (depth_of(root), depth_of(inner), depth_of(sub_run_id(inner, "nodes/b#1.1"))) == (0, 1, 2)
    below = inner
    for _ in range(20):
        below = sub_run_id(below, "nodes/c#1.1")
    assert depth_of(below) == 15
