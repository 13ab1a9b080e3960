"""The suite of `engine.ports.RunFinder`: what an owner finds."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.sub_run_id import sub_run_id
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.run import (
    SHARDS,
    OwnedRun,
    RunWrite,
    session_of,
    shard_of,
)
from tests.support.run_places import Store, a_run, an_owner, cancel, join
from tests.support.workflows import a_node, a_workflow
from tests.support.workflows import a_run as workflow_run

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_runs_that_rest_or_have_ended_are_not_looked_up(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    running, cancelled = [await a_run(store, tenant, lease) for _ in range(2)]
    manual = await a_run(store, tenant, lease, manual_advance=True)
    while manual.calls:
        await store.journal.commit([lease], [manual.on()])
    await cancel(store, lease, cancelled)
    assert (await store.journal.view(tenant, manual.run.run_id)).state == session_pb2.SESSION_STATE_WAITING
    mine = {driven.run.run_id for driven in (running, cancelled, manual)}
    found = list[OwnedRun]()
    while batch := await store.finder.open_runs(lease.shard, after=found[-1].run_id if found else None):
        found += batch
    assert [run for run in found if run.run_id in mine] == [running.run]
    assert sorted(run.run_id for run in found) == [run.run_id for run in found]
    assert await store.finder.owned_run(manual.run.run_id) == manual.run
    assert await store.finder.owned_run(cancelled.run.run_id) is None


async def test_the_open_runs_of_a_tree_are_found_page_by_page(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    parent = await a_run(store, tenant, lease)
    below = list[OwnedRun]()
    for number in range(70):
        run_id = sub_run_id(parent.run.run_id, f"nodes/inner#{number}")
        run = OwnedRun(tenant=tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
        started = workflow_run(a_workflow(a_node("only")))
        started.run.run_id, started.run.parent_run_id = run_id, parent.run.run_id
        await store.starts.create(LiveRun(run).begin(started, Timestamp(seconds=1)), None, None)
        below.append(run)
    found = list[OwnedRun]()
    while page := await store.finder.open_in_tree(parent.run, after=found[-1].run_id if found else None):
        found += page
    assert found == sorted(below, key=lambda run: run.run_id)


async def test_a_paused_run_rests_and_wakes_for_its_moment_alone(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    moment = datetime(2040, 1, 1, tzinfo=UTC)
    late, soon = [await a_run(store, tenant, lease) for _ in range(2)]
    for driven, minutes in ((late, 9), (soon, 1)):
        paused = session_pb2.Session()
        paused.CopyFrom(session_of(driven.first.view or paused))
        paused.state = session_pb2.SESSION_STATE_PAUSED
        nothing = RunWrite(
            run=driven.run,
            first_sequence=99,
            entries=(),
            view=paused,
            wake_time=moment + timedelta(minutes=minutes),
        )
        assert list(await store.journal.commit([lease], [nothing])) == []
    mine = {late.run.run_id, soon.run.run_id}
    assert mine.isdisjoint(run.run_id for run in await store.finder.open_runs(lease.shard, after=None))

    async def waking(minutes: int, shard: int, *but: str) -> list[OwnedRun]:
        found = await store.finder.waking_runs([shard], before=moment + timedelta(minutes=minutes), but=but)
        return [run for run in found if run.run_id in mine]

    assert await waking(0, lease.shard) == []
    assert await waking(1, lease.shard) == [soon.run]
    assert await waking(20, lease.shard) == [soon.run, late.run]
    assert await waking(20, lease.shard, soon.run.run_id) == [late.run]
    assert await waking(20, (lease.shard + 1) % SHARDS) == []
    await cancel(store, lease, late)
    assert await waking(20, lease.shard) == [soon.run]
