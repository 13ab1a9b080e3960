"""The suite of `engine.ports.Inbox`: commands that wait."""

import pytest

from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.run import (
    SHARDS,
    SIGNAL,
    RunCommand,
    RunWrite,
)
from tests.support.run_places import IDS, REFUSED, Store, a_command, a_run, an_owner, asked, cancel, join, journal_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_command_that_is_the_latest_already_waits_once(store: Store, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    advance, end = a_command("advance"), a_command("cancel")
    assert await store.inbox.add_command(tenant, driven.run.run_id, advance) == advance
    assert await store.inbox.add_command(tenant, driven.run.run_id, end) == end
    later = a_command("cancel", by="key_bob")
    assert await store.inbox.add_command(tenant, driven.run.run_id, later) == end
    assert list(await store.inbox.commands_of(driven.run.run_id)) == [advance, end]
    assert list((await asked(store, driven.run.shard))[driven.run.run_id]) == [advance, end]
    assert driven.run.run_id not in await asked(store, (driven.run.shard + 1) % SHARDS)
    assert not await store.inbox.is_waiting(tenant, later)


async def test_who_asks_for_a_pause_again_after_somebody_undid_it_is_heard(store: Store, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    said = [a_command(kind) for kind in ("pause", "resume", "pause")]
    for command in said:
        assert await store.inbox.add_command(tenant, driven.run.run_id, command) == command
    assert list(await store.inbox.commands_of(driven.run.run_id)) == said


async def test_what_somebody_asks_to_and_fro_is_bounded(store: Store, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    for number in range(70):
        await store.inbox.add_command(tenant, driven.run.run_id, a_command(("pause", "resume")[number % 2]))
    assert len(await store.inbox.commands_of(driven.run.run_id)) == 64


async def test_a_thousand_signals_hide_no_other_command(store: Store, tenant: TenantId) -> None:
    lease = (await join(store, an_owner())).leases[0]
    runs = sorted([await a_run(store, tenant, lease) for _ in range(2)], key=lambda driven: driven.run.run_id)
    for _ in range(1_000):
        signal = RunCommand(command_id=IDS.uuid(), kind=SIGNAL, by="key_ada", payload=b"{}")
        await store.inbox.add_command(tenant, runs[0].run.run_id, signal)
    ends = [a_command("cancel"), a_command("cancel")]
    for driven, end in zip(runs, ends, strict=True):
        await store.inbox.add_command(tenant, driven.run.run_id, end)
    assert (await store.inbox.commands_of(runs[0].run.run_id))[-1] == ends[0]
    found = await asked(store, lease.shard)
    assert found[runs[0].run.run_id][-1] == ends[0]
    assert list(found[runs[1].run.run_id]) == [ends[1]]


async def test_each_signal_waits_with_what_it_carries(store: Store, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, (await join(store, an_owner())).leases[0])
    signals = [
        RunCommand(command_id=IDS.uuid(), kind=SIGNAL, by="key_ada", payload=f"number {number}".encode())
        for number in range(3)
    ]
    for signal in signals:
        assert await store.inbox.add_command(tenant, driven.run.run_id, signal) == signal
    assert list(await store.inbox.commands_of(driven.run.run_id)) == signals
    assert list((await asked(store, driven.run.shard))[driven.run.run_id]) == signals


async def test_what_a_commit_is_done_with_waits_no_longer(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    done, open_ = a_command("adopt"), a_command("cancel")
    for command in (done, open_):
        await store.inbox.add_command(tenant, driven.run.run_id, command)
    nothing = RunWrite(run=driven.run, first_sequence=99, entries=(), view=None, commands=(done.command_id,))
    assert list(await store.journal.commit([lease], [nothing])) == []
    assert not await store.inbox.is_waiting(tenant, done)
    assert await store.inbox.is_waiting(tenant, open_)


async def test_a_command_has_its_effect_once(store: Store, tenant: TenantId) -> None:
    """Whoever read it just before it was done does not do it again."""
    [lease, *_] = (await join(store, an_owner())).leases
    driven = await a_run(store, tenant, lease)
    command = a_command("cancel")
    await store.inbox.add_command(tenant, driven.run.run_id, command)
    done = RunWrite(run=driven.run, first_sequence=99, entries=(), view=None, commands=(command.command_id,))
    await store.journal.commit([lease], [done])
    before = await journal_of(store, driven.run)
    with pytest.raises(REFUSED):
        await store.journal.commit([lease], [driven.on(command)])
    assert await journal_of(store, driven.run) == before


async def test_only_commands_of_runs_that_have_ended_are_late(store: Store, tenant: TenantId) -> None:
    [lease, *_] = (await join(store, an_owner())).leases
    running, ended = [await a_run(store, tenant, lease) for _ in range(2)]
    await cancel(store, lease, ended)
    early, late = a_command("cancel"), a_command("cancel")
    await store.inbox.add_command(tenant, running.run.run_id, early)
    await store.inbox.add_command(tenant, ended.run.run_id, late)
    assert ended.run.run_id not in await asked(store, lease.shard)
    assert await store.inbox.drop_late_commands() == 1
    assert await store.inbox.is_waiting(tenant, early)
    assert not await store.inbox.is_waiting(tenant, late)
    assert await store.inbox.drop_late_commands() == 0
