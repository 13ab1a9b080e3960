"""Journals of runs in memory, as the record reads them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.blobs.store import BlobMissing
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.commitments import commit, new_salts
from services.orchestrator.record.rows import RecordedRow, RowContent
from services.orchestrator.usecases.recorded_runs import ArchivedRun

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class MemoryRecords:
    """Implements `usecases.recorded_runs.Records`."""

    def __init__(self) -> None:
        self.journals: dict[tuple[TenantId, str], list[RecordedRow]] = {}

    def add(
        self, tenant: TenantId, run_id: str, entries: Iterable[journal_pb2.JournalEntry], *, at_once: int = 3
    ) -> list[RecordedRow]:
        """Records facts, some in each commit; gives the commits, which may be changed."""
        encoded = [entry.SerializeToString() for entry in entries]
        rows: list[RecordedRow] = []
        for first in range(0, len(encoded), at_once):
            facts = encoded[first : first + at_once]
            salts = new_salts(len(facts))
            rows.append(
                RecordedRow(
                    first_sequence=first + 1,
                    commitments=[commit(salt, fact) for salt, fact in zip(salts, facts, strict=True)],
                    record_time=NOON,
                    content=RowContent(entries=facts, salts=salts),
                )
            )
        self.journals[tenant, run_id] = rows
        return rows

    async def last_sequence(self, tenant: TenantId, run_id: str) -> int:
        """See `Records.last_sequence`."""
        rows = self.journals.get((tenant, run_id), [])
        return rows[-1].first_sequence + len(rows[-1].commitments) - 1 if rows else 0

    async def rows(self, tenant: TenantId, run_id: str, *, after: int) -> Sequence[RecordedRow]:
        """See `Records.rows`."""
        return [row for row in self.journals.get((tenant, run_id), []) if row.first_sequence > after][:2]

    async def archived(self, tenant: TenantId, run_id: str) -> ArchivedRun | None:
        """See `Records.archived`; nothing ever goes there."""
        return None

    async def archived_part(self, tenant: TenantId, run_id: str, part: int) -> bytes:
        """See `Records.archived_part`."""
        raise BlobMissing(f"{run_id}/{part}")
