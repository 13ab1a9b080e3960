"""The suite of `engine.ports.Starts`: how runs begin."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.meshkit.core.errors import RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.core.once import RequestInProgress
from services.orchestrator.domain.sub_run_id import sub_run_id
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.run import OwnedRun, RunKind, ShardLease, StartKey, shard_of
from tests.support.run_places import Driven, Place, Store, a_command, a_run, an_owner, asked, join
from tests.support.workflows import a_node, a_workflow
from tests.support.workflows import a_run as workflow_run

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_run_whose_starter_holds_no_lease_waits_to_be_adopted(store: Store, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, None)
    [adopt] = await store.inbox.commands_of(driven.run.run_id)
    assert (adopt.kind, adopt.by) == ("adopt", "")
    assert list((await asked(store, driven.run.shard))[driven.run.run_id]) == [adopt]


async def test_a_run_started_under_a_lost_lease_waits_to_be_adopted(place: Place, tenant: TenantId) -> None:
    store = place.store
    [lease, *_] = (await join(store, an_owner())).leases
    await place.expire(lease.shard)
    driven = Driven(tenant, shard=lease.shard)
    assert not (await store.starts.create(driven.first, None, lease)).held
    assert [command.kind for command in await store.inbox.commands_of(driven.run.run_id)] == ["adopt"]


async def test_the_same_request_starts_one_run(store: Store, tenant: TenantId) -> None:
    key = StartKey(tenant=tenant, kind=RunKind.SESSION, request_id=uuid4(), body=b"a")
    first, second = Driven(tenant), Driven(tenant)
    assert await store.starts.started_before(key) is None
    assert (await store.starts.create(first.first, key, None)).earlier is None
    assert await store.starts.started_before(key) == first.first.view
    assert (await store.starts.create(second.first, key, None)).earlier == first.first.view
    assert await store.finder.owned_run(second.run.run_id) is None, "nothing was written"
    other = StartKey(tenant=tenant, kind=RunKind.SESSION, request_id=key.request_id, body=b"b")
    with pytest.raises(RequestIdReused):
        await store.starts.create(second.first, other, None)


async def test_runs_that_start_at_once_begin_as_each_would_alone(place: Place) -> None:
    store, tenants = place.store, [TenantId(uuid4()) for _ in range(3)]
    held, lost, *_ = (await join(store, an_owner())).leases
    await place.expire(lost.shard)
    request = StartKey(tenant=tenants[0], kind=RunKind.SESSION, request_id=uuid4(), body=b"a")
    same = [Driven(tenants[0], shard=held.shard) for _ in range(5)]
    starts: list[tuple[Driven, StartKey | None, ShardLease | None]] = [(driven, request, held) for driven in same]
    for number in range(60):
        lease = (held, lost, None)[number % 3]
        driven = Driven(tenants[number % 2], shard=(lease or held).shard)
        key = StartKey(tenant=driven.run.tenant, kind=RunKind.SESSION, request_id=uuid4(), body=b"b")
        starts.append((driven, key if number % 4 else None, lease))
    # The answer to a request that another one is still at comes once that has ended, or is refused until then.
    created = await asyncio.gather(
        *(store.starts.create(driven.first, key, lease) for driven, key, lease in starts), return_exceptions=True
    )
    first = await store.starts.started_before(request)
    assert first in [driven.first.view for driven in same]
    for (driven, key, lease), one in zip(starts, created, strict=True):
        if key is request and isinstance(one, RequestInProgress):
            continue
        assert not isinstance(one, BaseException)
        if key is request:
            assert first in (one.earlier, driven.first.view)
            continue
        assert one.held is (lease is held)
        assert await store.journal.view(driven.run.tenant, driven.run.run_id) == driven.first.view
        waiting = [command.kind for command in await store.inbox.commands_of(driven.run.run_id)]
        assert waiting == ([] if lease is held else ["adopt"])


async def test_a_run_whose_parent_stands_still_stands_still_from_its_beginning(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    parent = await a_run(store, tenant, lease)
    for paused in (False, True):
        if paused:
            await store.inbox.add_command(tenant, parent.run.run_id, pause := a_command("pause"))
            assert list(await store.journal.commit([lease], [parent.on(pause)])) == []
        run_id = sub_run_id(parent.run.run_id, f"nodes/inner#{paused}")
        live = LiveRun(OwnedRun(tenant=tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id)))
        started = workflow_run(a_workflow(a_node("only")))
        started.run.run_id, started.run.parent_run_id = run_id, parent.run.run_id
        created = await store.starts.create(live.begin(started, Timestamp(seconds=1)), None, None)
        assert created.earlier is None
        commands = [command for command in await store.inbox.commands_of(run_id) if command.kind != "adopt"]
        assert [(command.kind, command.by) for command in commands] == [("pause", parent.run.run_id)] * paused


async def test_a_fork_shows_the_turns_that_it_has_taken_over(store: Store, tenant: TenantId) -> None:
    """Both the turns before the fork and those after it lie where they are looked for."""
    [lease, *_] = (await join(store, an_owner())).leases
    forked = Driven(tenant, shard=lease.shard)
    entries = list(forked.first.entries)
    while not any(entry.HasField("step_completed") for entry in entries):
        entries += forked.on().entries
    turns = [(1, len(entries) - next(at for at, e in enumerate(reversed(entries)) if e.HasField("step_completed")))]
    first = replace(forked.first, entries=entries, view=forked.live._view.written(), turns=turns)
    assert (await store.starts.create(first, None, lease)).held
    [(number, turn)] = await store.journal.turns(tenant, forked.run.run_id, after=0, most=10)
    assert (number, turn) == (1, entries[turns[0][1] - 1].step_completed.turn)
