"""One suite for the store of runs, on the fake and on real Postgres: leases, commands, and what commits refuse."""

import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.orchestrator.domain.errors import LeaseLost
from services.orchestrator.engine.facts import advance
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.ports import RunStore
from services.orchestrator.engine.run import Commit, OwnedRun, RunCommand
from services.orchestrator.programs.run import RunState
from services.orchestrator.programs.view import project
from services.orchestrator.storage.run_store import SqlRunStore
from tests.support.known_tenants import KnownTenants
from tests.support.run_store import MemoryRunStore
from tests.support.sessions import a_start

pytestmark = pytest.mark.asyncio(loop_scope="module")
IDS = SystemIds()
TENANT = TenantId(uuid4())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_orchestrator_{secrets.token_hex(4)}")
    await migrate("services.orchestrator", made.migrator)
    return made


@pytest.fixture(params=["memory", "postgres"])
def backend(request: pytest.FixtureRequest) -> DatabaseUrls | None:
    """The database to use, None for the fake."""
    return None if request.param == "memory" else request.getfixturevalue("urls")


@pytest_asyncio.fixture(loop_scope="module")
async def store(backend: DatabaseUrls | None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunStore]:
    if backend is None:
        yield MemoryRunStore(SystemClock())
        return
    kek: Path = tmp_path_factory.getbasetemp() / "kek"
    with suppress(FileExistsError):
        create_kek_file(kek)
    async with sql_engine(backend.app, pool_size=3) as app, sql_engine(backend.maintenance, pool_size=2) as maintenance:
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(kek), clock=SystemClock(), ids=IDS)
        yield SqlRunStore(app=app, maintenance=maintenance, codec=JournalCodec(keys), tenants=KnownTenants())


@pytest.fixture
def owner() -> str:
    """A replica with a name of its own, for claims see all runs of the database."""
    return f"r{secrets.token_hex(4)}/{uuid4()}"


async def a_run(store: RunStore, owner: str) -> tuple[OwnedRun, session_pb2.Session]:
    """Records a run that `owner` has leased."""
    run = OwnedRun(tenant=TENANT, run_id=IDS.new("run"), grant_id="grant_x", epoch=1)
    started = a_start()
    started.session.session_id = run.run_id
    _, entries = advance(RunState(), [journal_pb2.JournalEntry(run_started=started)], Timestamp(seconds=1))
    view = session_pb2.Session()
    for sequence, entry in enumerate(entries, 1):
        project(view, entry, sequence)
    assert await store.create(run, owner, Commit(first_sequence=1, entries=tuple(entries), view=view), None) is None
    return run, view


async def claimed(
    store: RunStore, owner: str, *, restarted: bool = False, ours: tuple[str, ...] = ()
) -> list[OwnedRun]:
    return list(await store.claim(owner, most=1_000, restarted=restarted, ours=ours))


async def test_a_leased_run_is_nobodys_to_claim(store: RunStore, owner: str) -> None:
    run, _ = await a_run(store, owner)
    assert run.run_id not in [one.run_id for one in await claimed(store, "other/1", ours=(run.run_id,))]
    assert await claimed(store, owner) == []
    assert set(await store.extend(owner, [run])) == {run.run_id}


async def test_an_owner_takes_its_own_run_up_again_when_it_says_so(store: RunStore, owner: str) -> None:
    run, view = await a_run(store, owner)
    left, _ = await a_run(store, owner)
    [again] = await claimed(store, owner, ours=(run.run_id,))
    assert (again.run_id, again.epoch) == (run.run_id, 2)
    assert set(await store.extend(owner, [run, again, left])) == {run.run_id, left.run_id}
    with pytest.raises(LeaseLost):
        await store.commit(run, Commit(first_sequence=3, entries=(), view=view))
    await store.commit(again, Commit(first_sequence=view.sequence + 1, entries=(), view=view))


async def test_a_restarted_replica_takes_its_runs_without_waiting(store: RunStore, owner: str) -> None:
    run, _ = await a_run(store, owner)
    reborn = f"{owner.partition('/')[0]}/{uuid4()}"
    assert [one.run_id for one in await claimed(store, reborn, restarted=True)] == [run.run_id]


async def test_a_released_run_is_free_at_once(store: RunStore, owner: str) -> None:
    run, _ = await a_run(store, owner)
    await store.release(owner, [run])
    assert run.run_id in [one.run_id for one in await claimed(store, f"{owner}-b")]


async def test_a_command_of_a_kind_waits_once(store: RunStore, owner: str) -> None:
    run, _ = await a_run(store, owner)
    cancel = RunCommand(command_id=IDS.uuid(), kind="cancel", by="key_ada")
    advance_ = RunCommand(command_id=IDS.uuid(), kind="advance", by="key_ada")
    assert await store.add_command(TENANT, run.run_id, cancel) == cancel
    assert await store.add_command(TENANT, run.run_id, advance_) == advance_
    later = RunCommand(command_id=IDS.uuid(), kind="cancel", by="key_bob")
    assert await store.add_command(TENANT, run.run_id, later) == cancel
    assert list((await store.commands([run.run_id]))[run.run_id]) == [cancel, advance_]
    assert not await store.is_waiting(TENANT, later)


async def test_what_a_commit_is_done_with_waits_no_longer(store: RunStore, owner: str) -> None:
    run, view = await a_run(store, owner)
    command = RunCommand(command_id=IDS.uuid(), kind="cancel", by="key_ada")
    await store.add_command(TENANT, run.run_id, command)
    assert await store.is_waiting(TENANT, command)
    done = Commit(first_sequence=view.sequence + 1, entries=(), view=view, commands=(command.command_id,))
    await store.commit(run, done)
    assert not await store.is_waiting(TENANT, command)


async def test_only_commands_of_runs_that_have_ended_are_late(store: RunStore, owner: str) -> None:
    running, _ = await a_run(store, owner)
    ended, view = await a_run(store, owner)
    view.state = session_pb2.SESSION_STATE_FAILED
    await store.commit(ended, Commit(first_sequence=view.sequence + 1, entries=(), view=view))
    early, late = (RunCommand(command_id=IDS.uuid(), kind="cancel", by="key_ada") for _ in range(2))
    await store.add_command(TENANT, running.run_id, early)
    await store.add_command(TENANT, ended.run_id, late)
    assert await store.drop_late_commands() == 1
    assert await store.is_waiting(TENANT, early)
    assert not await store.is_waiting(TENANT, late)
    assert await store.drop_late_commands() == 0
