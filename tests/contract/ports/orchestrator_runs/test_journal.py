"""The suite of `engine.ports.Journal`: what commits write and refuse."""

from dataclasses import replace

import pytest

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.run import (
    RunWrite,
    ShardLease,
    give_up,
)
from tests.support.run_places import IDS, REFUSED, Place, Store, a_command, a_run, an_owner, cancel, join, journal_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_commit_under_an_old_epoch_writes_nothing_and_names_the_shards(place: Place, tenant: TenantId) -> None:
    store, first = place.store, an_owner()
    held = await join(store, first)
    lease = held.leases[11]
    driven = await a_run(store, tenant, lease)
    before, command = await journal_of(store, driven.run), a_command("cancel")
    await store.inbox.add_command(tenant, driven.run.run_id, command)
    write = driven.on(command)
    await place.expire(lease.shard)
    [taken] = (await join(store, an_owner())).leases
    assert list(await store.journal.commit([lease], [write])) == [lease.shard]
    assert await journal_of(store, driven.run) == before
    assert (await store.journal.view(tenant, driven.run.run_id)).state == session_pb2.SESSION_STATE_RUNNING
    assert await store.inbox.is_waiting(tenant, command)
    assert list(await store.journal.commit([taken], [write])) == []
    assert (await store.journal.view(tenant, driven.run.run_id)).state == session_pb2.SESSION_STATE_CANCELLED
    assert not await store.inbox.is_waiting(tenant, command)


async def test_of_two_shards_one_lost_writes_nothing(place: Place, tenant: TenantId) -> None:
    store = place.store
    leases = (await join(store, an_owner())).leases[:2]
    runs = [await a_run(store, tenant, lease) for lease in leases]
    before = [await journal_of(store, driven.run) for driven in runs]
    writes = [driven.on() for driven in runs]
    await place.expire(leases[1].shard)
    assert list(await store.journal.commit(leases, writes)) == [leases[1].shard]
    assert [await journal_of(store, driven.run) for driven in runs] == before
    assert list(await store.journal.commit(leases[:1], writes[:1])) == []
    assert len(await journal_of(store, runs[0].run)) > len(before[0])


async def test_a_commit_under_a_released_lease_writes_nothing(store: Store, tenant: TenantId) -> None:
    owner = an_owner()
    [lease, *_] = (await join(store, owner)).leases
    driven = await a_run(store, tenant, lease)
    await store.leases.release(owner, [lease], leaving=False)
    assert list(await store.journal.commit([lease], [driven.on()])) == [lease.shard]


async def test_a_fact_recorded_twice_is_refused(store: Store, tenant: TenantId) -> None:
    [lease, other, *_] = (await join(store, an_owner())).leases
    driven, neighbour = await a_run(store, tenant, lease), await a_run(store, tenant, other)
    write = driven.on()
    assert list(await store.journal.commit([lease], [write])) == []
    recorded, before = await journal_of(store, driven.run), await journal_of(store, neighbour.run)
    with pytest.raises(REFUSED):
        await store.journal.commit([lease, other], [neighbour.on(), write])
    assert await journal_of(store, driven.run) == recorded
    assert await journal_of(store, neighbour.run) == before, "its neighbour was not written either"


async def test_what_many_answers_lead_to_is_one_write(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    entries = [journal_pb2.JournalEntry(path="nodes/a")] * 40_000
    write = RunWrite(run=driven.run, first_sequence=driven.first.last_sequence + 1, entries=entries, view=None)
    assert list(await store.journal.commit([lease], [write])) == []
    [(last, _)] = await store.journal.entries(tenant, driven.run.run_id, after=write.last_sequence - 1)
    assert last == write.last_sequence


async def test_a_write_that_gives_sub_runs_up_cancels_those_that_go_on(store: Store, tenant: TenantId) -> None:
    [lease, other, *_] = (await join(store, an_owner())).leases
    parent, going, ended = [await a_run(store, tenant, each) for each in (lease, other, other)]
    await cancel(store, other, ended)
    told = [(run_id, give_up(parent.run)) for run_id in (going.run.run_id, ended.run.run_id, IDS.new("run"))]
    for _ in range(2):
        assert list(await store.journal.commit([lease], [replace(parent.on(), handed_down=told)])) == []
    [command] = await store.inbox.commands_of(going.run.run_id)
    assert (command.kind, command.by, command.payload) == ("cancel", parent.run.run_id, b"")
    assert not await store.inbox.commands_of(ended.run.run_id)
    assert list(await store.journal.commit([other], [going.on(command)])) == []
    assert (await store.journal.view(tenant, going.run.run_id)).state == session_pb2.SESSION_STATE_CANCELLED


async def test_a_write_that_is_refused_cancels_no_sub_run(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    parent, going = [await a_run(store, tenant, lease) for _ in range(2)]
    write = replace(parent.on(), handed_down=[(going.run.run_id, give_up(parent.run))])
    stale = ShardLease(shard=lease.shard, epoch=lease.epoch - 1)
    assert list(await store.journal.commit([stale], [write])) == [lease.shard]
    assert not await store.inbox.commands_of(going.run.run_id)


async def test_a_run_that_is_gone_fails_the_commit(place: Place, tenant: TenantId) -> None:
    store = place.store
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    await place.erase(driven.run)
    with pytest.raises(REFUSED):
        await store.journal.commit([lease], [driven.on()])


async def test_of_several_writes_of_a_run_the_last_view_is_seen(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    writes = [driven.on() for _ in range(8)]
    assert sum(write.view is not None for write in writes) > 1
    assert list(await store.journal.commit([lease], writes)) == []
    last = [write for write in writes if write.view is not None][-1]
    assert await store.journal.view(tenant, driven.run.run_id) == last.view
    sequences = [sequence for sequence, _ in await journal_of(store, driven.run)]
    assert sequences == list(range(1, writes[-1].last_sequence + 1))


async def test_a_write_that_shows_nothing_new_leaves_the_view(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    write = driven.on()
    assert (write.view, bool(write.entries)) == (None, True), "an answer to a recall is not seen"
    await store.journal.commit([lease], [write])
    assert await store.journal.view(tenant, driven.run.run_id) == driven.first.view


async def test_turns_are_given_in_order_and_from_any_point(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    while driven.calls:
        await store.journal.commit([lease], [driven.on()])
    turns = await store.journal.turns(tenant, driven.run.run_id, after=0, most=10)
    assert [number for number, _ in turns] == [1, 2, 3, 4]
    assert [turn.index for _, turn in turns] == [1, 2, 3, 4]
    assert list(await store.journal.turns(tenant, driven.run.run_id, after=1, most=2)) == list(turns[1:3])


async def test_the_last_sequence_is_told_of_a_journal_that_need_not_be_read(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    await store.journal.commit([lease], [driven.on()])
    facts = await journal_of(store, driven.run)
    assert await store.journal.last_sequence(tenant, driven.run.run_id) == len(facts)
    assert await store.journal.last_sequence(tenant, IDS.new("run")) == 0
