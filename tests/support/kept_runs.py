"""Recorded runs in a real database and an object store, without an engine: for what keeps the journal."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.blobs.directory import BlobDirectory
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, from_uuid
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.engine.journal import JournalBlobs, JournalCodec
from services.orchestrator.engine.run import OwnedRun, RunWrite, ShardLease, shard_of
from services.orchestrator.programs.view import project
from services.orchestrator.storage.run_store import SqlRunStore
from tests.support.known_tenants import KnownTenants
from tests.support.sessions import World, a_start, play

#: A fact of more bytes goes to the object store here.
MOST_INLINE: Final = 16_384
_FACTS_AT_ONCE: Final = 5


class ShiftedClock(SystemClock):
    """The time of the machine, moved by a test."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self) -> datetime:
        """See `Clock.now`."""
        return super().now() + self.shift


@dataclass(slots=True, kw_only=True)
class KeptRuns:
    """A store of runs whose shards are all held, and what lies beneath it."""

    urls: DatabaseUrls
    app: AsyncEngine
    maintenance: AsyncEngine
    keys: KeyRing
    codec: JournalCodec
    store: SqlRunStore
    objects: BlobDirectory
    folder: Path
    tenants: KnownTenants
    clock: ShiftedClock = field(default_factory=ShiftedClock)
    leases: dict[int, ShardLease] = field(default_factory=dict[int, ShardLease])

    async def add(
        self, tenant: TenantId, *, says: int = 10, ended: bool = True, began: datetime | None = None
    ) -> OwnedRun:
        """Records a session.

        Args:
            says: characters of each turn.
            ended: False leaves out its end.
            began: moment that its id names.
        """
        first, *others = self.writes(tenant, says=says, ended=ended, began=began)
        await self.store.starts.create(first, None, self.leases[first.run.shard])
        for write in others:
            await self.commit(write)
        return first.run

    async def commit(self, *writes: RunWrite) -> None:
        """Commits writes under the leases of their shards."""
        shards = sorted({write.run.shard for write in writes})
        assert list(await self.store.journal.commit([self.leases[shard] for shard in shards], writes)) == []

    def writes(
        self, tenant: TenantId, *, says: int = 10, ended: bool = True, began: datetime | None = None
    ) -> list[RunWrite]:
        """Makes what an engine would write of a session."""
        moment = int((began or datetime.now(UTC)).timestamp() * 1000)
        run_id = from_uuid("run", UUID(int=(moment << 80) | (7 << 76) | (2 << 62) | (uuid4().int >> 68)))
        started = a_start(max_rounds=1)
        started.session.session_id = run_id
        facts = play(started, World(say=lambda path, count: path * (says // len(path) + 1)))
        facts = facts if ended else facts[:-1]
        run = OwnedRun(tenant=tenant, run_id=run_id, grant_id=started.grant_id, shard=shard_of(run_id))
        written: list[RunWrite] = []
        view = session_pb2.Session()
        turns = 0
        for start in (0, *range(1, len(facts), _FACTS_AT_ONCE)):
            entries = facts[start : 1 if start == 0 else start + _FACTS_AT_ONCE]
            spoken: list[tuple[int, int]] = []
            for sequence, entry in enumerate(entries, start + 1):
                project(view, entry, sequence)
                if entry.HasField("step_completed"):
                    turns += 1
                    spoken.append((turns, sequence))
            shown = session_pb2.Session()
            shown.CopyFrom(view)
            written.append(RunWrite(run=run, first_sequence=start + 1, entries=entries, view=shown, turns=spoken))
        return written

    async def facts(self, run: OwnedRun) -> list[journal_pb2.JournalEntry]:
        """Reads the journal of a run."""
        found: list[tuple[int, journal_pb2.JournalEntry]] = []
        while batch := await self.store.journal.entries(run.tenant, run.run_id, after=len(found)):
            found += batch
        assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
        return [entry for _, entry in found]

    async def value(self, statement: str, *values: object) -> int:
        """Asks the database for one number."""
        async with driver_scope(self.maintenance, None, read_only=True) as scope:
            number: int = await scope.driver.fetchval(statement, *values)
        return number

    def files(self, prefix: str = "") -> list[Path]:
        """Lists the objects that there are."""
        return sorted(path for path in (self.folder / "objects" / prefix).rglob("*") if path.is_file())


@asynccontextmanager
async def kept_runs(urls: DatabaseUrls, folder: Path) -> AsyncGenerator[KeptRuns]:
    """Opens a migrated database with an object store beside it."""
    create_kek_file(folder / "kek")
    async with sql_engine(urls.app, pool_size=3) as app, sql_engine(urls.maintenance, pool_size=3) as maintenance:
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(folder / "kek"), clock=SystemClock(), ids=SystemIds())
        objects, tenants = BlobDirectory(folder / "objects"), KnownTenants()
        codec = JournalCodec(keys, JournalBlobs(store=objects, most_inline=MOST_INLINE))
        store = SqlRunStore(app=app, commits=app, maintenance=maintenance, codec=codec, tenants=tenants)
        runs = KeptRuns(
            urls=urls,
            app=app,
            maintenance=maintenance,
            keys=keys,
            codec=codec,
            store=store,
            objects=objects,
            folder=folder,
            tenants=tenants,
        )
        held = await store.leases.hold(f"one/{uuid4()}", (), restarted=False, most=None)
        runs.leases = {lease.shard: lease for lease in held.leases}
        async with store.running():
            yield runs
