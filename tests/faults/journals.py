"""The journals of a mesh that runs: each one read whole, replayed, and held against what may be in it once only."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from comitia.orchestrator.v1 import journal_pb2
from services.launcher.layout import DataDir
from services.meshkit.blobs.directory import BlobDirectory
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.orchestrator.engine.facts import Replay
from services.orchestrator.engine.journal import JournalBlobs, JournalCodec
from services.orchestrator.storage.run_journal import SqlJournal
from tests.faults.order_effects import BIG_FACT_BYTES
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected, service_url

#: Ends of a step; a step has one.
_ENDS: Final = frozenset({"step_completed", "step_failed", "step_skipped"})


@dataclass(frozen=True, slots=True)
class Journals:
    """Reads journals as an orchestrator does."""

    journal: SqlJournal
    #: Whose run it is, by the run's uuid.
    owners: Mapping[str, TenantId]

    async def replayed(self, run_id: str) -> Sequence[journal_pb2.JournalEntry]:
        """Gives all facts of a run that has ended.

        Raises: AssertionError, RunDiverged: facts are missing, do not follow from each other (INV-4), or say twice what
            came of a call or a step (INV-3).
        """
        tenant, replay = self.owners[str(to_uuid(run_id, "run"))], Replay(run_id)
        facts: list[journal_pb2.JournalEntry] = []
        while batch := await self.journal.entries(tenant, run_id, after=len(facts)):
            for found, entry in batch:
                assert found == len(facts) + 1
                replay.feed(entry)
                facts.append(entry)
        replay.finish()
        calls: Counter[tuple[str, int]] = Counter()
        steps: Counter[str] = Counter()
        for entry in facts:
            match entry.WhichOneof("fact"):
                case "call_answered":
                    calls[(entry.path, entry.call_answered.call_index)] += 1
                case "call_failed":
                    calls[(entry.path, entry.call_failed.call_index)] += 1
                case kind:
                    steps[entry.path] += kind in _ENDS
        assert not [call for call, count in calls.items() if count > 1]
        assert not [path for path, count in steps.items() if count > 1]
        return facts


@asynccontextmanager
async def journals(mesh: RunningMesh) -> AsyncGenerator[Journals]:
    """Opens the journals of a mesh beside its orchestrators."""
    data = DataDir(mesh.data_dir)
    async with connected(mesh.data_dir, "orchestrator") as connection:
        rows = await connection.fetch("SELECT run_id, tenant_id FROM run")
    async with sql_engine(service_url(mesh.data_dir, "orchestrator", "app"), pool_size=2) as app:
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(data.kek), clock=SystemClock(), ids=SystemIds())
        objects = BlobDirectory(data.of("orchestrator") / "objects")
        codec = JournalCodec(keys, JournalBlobs(store=objects, most_inline=BIG_FACT_BYTES))
        journal = SqlJournal(app, commits=app, codec=codec)
        yield Journals(journal, {str(row["run_id"]): TenantId(row["tenant_id"]) for row in rows})
