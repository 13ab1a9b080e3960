"""A mesh is lost, and brought back from a backup: as it was then, and as it was at a later moment.

Facts are made before the backup, after it, and after the moment. What is restored is started, and has what it should,
by its public doors.
"""

import asyncio
import gzip
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from comitia.gateway.v1 import tenant_pb2
from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import NotFound
from services.launcher import background, status
from services.launcher.admin import admin_url
from services.launcher.backups.archive_segment import segment_path
from services.launcher.layout import DataDir, read_state
from services.launcher.ports import metrics_port_name
from services.meshkit.telemetry.names import WAL_ARCHIVE_LATE_SECONDS
from tests.e2e.conftest import until
from tests.support.mesh import RunningMesh, running_mesh
from tests.support.mesh_databases import service_url

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.xdist_group("mesh-faults")]

#: Any fact of more bytes lies in the object store, so that there are objects to bring back.
SETTINGS = {"COMITIA_ORCHESTRATOR_MAX_INLINE_BYTES": "1024", "COMITIA_GATEWAY_AUDIT_HEAD_SECONDS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was done at one time."""

    session: str
    memory: str
    tenant: str
    spent: int


@pytest.fixture
def folder() -> Iterator[Path]:
    """Gives a folder that Postgres may enter, whoever runs it."""
    made = Path(tempfile.mkdtemp(prefix="comitia-restore-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def lost(folder: Path) -> Iterator[RunningMesh]:
    """Gives a mesh whose log is archived."""
    with running_mesh(single_process=True, archive_wal=folder / "archive", environment=SETTINGS) as running:
        yield running


async def make_facts(client: AsyncClient, name: str) -> Facts:
    topic = f"Rivers of {name}, " + "and of much else, " * 200
    session = await client.sessions.start(topic, agents=["Ada"], max_rounds=1)
    async for _ in client.sessions.watch(session.session_id):
        pass
    memory = await client.memories.remember(f"The {name} river meets the sea.")
    tenant = await client.tenants.create(name)
    spent = (await client.costs.budget()).spent_nano_usd
    return Facts(session=session.session_id, memory=memory.memory_id, tenant=tenant.tenant.tenant_id, spent=spent)


def objects(data_dir: Path) -> set[str]:
    """Names what is too big for a row."""
    store = data_dir / "orchestrator" / "objects" / "blobs"
    return {path.name for path in store.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@asynccontextmanager
async def started(lost: RunningMesh, data_dir: Path) -> AsyncIterator[tuple[RunningMesh, AsyncClient]]:
    options = replace(lost.options, data_dir=data_dir, archive_wal=None)
    addresses = await background.start(options, lambda _step: None)
    lost.provider.ask_ledger(service_url(data_dir, "cost", "maintenance"))
    mesh = replace(lost, addresses=addresses, data_dir=data_dir, options=options)
    try:
        async with AsyncClient(mesh.url, api_key=mesh.admin_key) as client:
            yield mesh, client
    finally:
        await asyncio.to_thread(status.down, data_dir)


async def has(client: AsyncClient, facts: Facts) -> bool:
    """Asks for each fact by its door; all are there, or none is."""
    found: list[bool] = []
    for ask in (
        client.sessions.get(facts.session),
        client.memories.get(facts.memory),
        client.tenants.get(facts.tenant),
    ):
        try:
            await ask
        except NotFound:
            found.append(False)
        else:
            found.append(True)
    assert len(set(found)) == 1, found
    return found[0]


async def an_archive_that_fails_is_told(mesh: RunningMesh, archive: Path) -> None:
    """Puts another segment in the place of the next one, and takes it away again."""
    connection: asyncpg.Connection = await asyncpg.connect(admin_url(DataDir(mesh.data_dir), {}))
    try:
        segment = await connection.fetchval("SELECT pg_walfile_name(pg_current_wal_lsn())")
        wrong = segment_path(archive, segment)
        with gzip.open(wrong, "wb") as file:
            file.write(b"of another history")
        await connection.execute("SELECT pg_switch_wal()")

        async def failing() -> bool:
            return await connection.fetchval("SELECT failed_count > 0 FROM pg_stat_archiver")

        assert await until(failing, seconds=60)
        said = await asyncio.to_thread(mesh.comitia, "check", check=1)
        assert f"the log is not archived since segment {segment}" in said.stdout
        page = f"http://127.0.0.1:{read_state(DataDir(mesh.data_dir))['ports'][metrics_port_name('gateway')]}/metrics"

        async def shown() -> bool:
            async with aiohttp.ClientSession() as http, http.get(page) as answer:
                [line] = re.findall(rf"^{WAL_ARCHIVE_LATE_SECONDS} (.*)$", await answer.text(), re.MULTILINE)
            return float(line) > 0

        assert await until(shown, seconds=60)
        wrong.unlink()
    finally:
        await connection.close()


async def until_archived(data_dir: Path) -> None:
    """Has Postgres begin a new segment, and waits until the last one is in the archive."""
    connection: asyncpg.Connection = await asyncpg.connect(admin_url(DataDir(data_dir), {}))
    try:
        segment = await connection.fetchval("SELECT pg_walfile_name(pg_switch_wal())")

        async def archived() -> bool:
            last = await connection.fetchval("SELECT last_archived_wal FROM pg_stat_archiver")
            return last is not None and last[:24] >= segment

        assert await until(archived, seconds=60)
    finally:
        await connection.close()


async def look_through(mesh: RunningMesh, client: AsyncClient, facts: Facts, folder: Path) -> None:
    """Asks a mesh that was brought back for all that it has to be able to."""
    session = await client.sessions.get(facts.session)
    assert session.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert (await client.records.replay(facts.session)).same

    async def adds_up() -> bool:
        spent = (await client.costs.budget()).spent_nano_usd
        return spent == (await client.costs.summary()).total_nano_usd >= facts.spent

    assert await until(adds_up, seconds=30)

    async def recalled() -> bool:
        found = await client.memories.recall("Which river meets the sea?", semantic_matches=10)
        return facts.memory in {match.memory.memory_id for match in found.semantic}

    assert await until(recalled, seconds=60), "vectors are filled again"

    async def whole() -> bool:
        return (await client.audit.status()).whole

    assert await until(whole, seconds=30)
    trail = folder / f"{mesh.data_dir.name}.jsonl"
    await asyncio.to_thread(mesh.comitia, "audit", "export", str(trail))
    keys = str(mesh.data_dir / "keys" / "audit_jwks.json")
    assert (
        "the export is whole"
        in (await asyncio.to_thread(mesh.comitia, "audit", "verify", str(trail), "--keys", keys)).stdout
    )
    await asyncio.to_thread(mesh.comitia, "check")
    # It goes on: what it does now is charged on top.
    await client.agents.create("Bob")
    later = await make_facts(client, "later")
    assert later.spent > facts.spent


def restored(mesh: RunningMesh, folder: Path, place: str, *options: str, check: int = 0) -> str:
    """Restores the backup of a mesh to a place; gives what was said."""
    given = ("restore", str(folder / "monday"), "--keys", str(folder / "keys"), "--data-dir", str(folder / place))
    done = mesh.comitia(*given, *options, check=check)
    return done.stdout + done.stderr


async def what_the_archive_lacks_is_told(restore: Callable[..., str], folder: Path) -> None:
    standing, archive = names(folder), folder / "archive"
    too_late = ("--archive", str(archive), "--until", "2099-01-01T00:00:00")
    said = await asyncio.to_thread(restore, "never", *too_late, check=1)
    assert "the log does not reach 2099-01-01 00:00:00 UTC: it ends at" in said
    *_, gap, newest = sorted((archive / "wal").glob("0*.gz"))
    hidden = gap.rename(gap.with_suffix(".hidden"))
    said = await asyncio.to_thread(restore, "never", "--archive", str(archive), check=1)
    assert f"the archive lacks segment {gap.stem}; later ones that were not restored: 1" in said
    hidden.rename(gap)
    newest.write_bytes(newest.read_bytes()[:-100])
    said = await asyncio.to_thread(restore, "never", "--archive", str(archive), check=1)
    assert "the archive is damaged: the archived segment" in said
    assert names(folder) == standing


async def test_a_lost_mesh_comes_back_as_it_was_then_and_as_it_was_later(lost: RunningMesh, folder: Path) -> None:
    archive, backup, keys = folder / "archive", folder / "monday", folder / "keys"
    async with AsyncClient(lost.url, api_key=lost.admin_key) as client:
        await client.agents.create("Ada", semantic_matches=1)
        before = await make_facts(client, "first")
        erased = (await client.tenants.create("erased")).tenant.tenant_id
        await asyncio.to_thread(lost.comitia, "backup", str(backup), "--keys", str(keys))
        after = await make_facts(client, "second")
        moment = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
        late = await make_facts(client, "third")
        await client.tenants.delete(erased, confirm_name="erased")
        note = lost.data_dir / "audit" / "erased" / erased
        assert await until(lambda: asyncio.to_thread(note.exists), seconds=30)
    await an_archive_that_fails_is_told(lost, archive)
    await until_archived(lost.data_dir)
    await asyncio.to_thread(status.down, lost.data_dir)

    restore = partial(restored, lost, folder)
    said = await asyncio.to_thread(restore, "then")
    kept = objects(folder / "then")
    assert f"comitia up --detach --data-dir {folder / 'then'}" in said
    async with started(lost, folder / "then") as (mesh, client):
        assert [await has(client, facts) for facts in (before, after, late)] == [True, False, False]
        assert (await client.tenants.get(erased)).state == tenant_pb2.TENANT_STATE_ACTIVE, "nobody could know"
        await look_through(mesh, client, before, folder)

    await asyncio.to_thread(restore, "later", "--archive", str(archive), "--until", moment)
    assert objects(folder / "later") > kept > set(), "those that came after the backup are in the archive"
    async with started(lost, folder / "later") as (mesh, client):
        assert [await has(client, facts) for facts in (before, after, late)] == [True, True, False]

        async def gone() -> bool:
            return (await client.tenants.get(erased)).state != tenant_pb2.TENANT_STATE_ACTIVE

        assert await until(gone, seconds=30), "the archive says that it was erased since"
        await look_through(mesh, client, after, folder)

    await what_the_archive_lacks_is_told(restore, folder)
