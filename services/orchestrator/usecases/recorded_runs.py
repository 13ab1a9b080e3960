"""Reads the record of a run, for whoever may read the run."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.blobs.store import BlobMissing
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.crypto.errors import KeyDestroyed
from services.orchestrator.domain.errors import RecordDestroyed, RunArchived, RunNotFound
from services.orchestrator.record.rows import RecordedRow
from services.orchestrator.usecases.run_access import RunAccess


class Records(Protocol):
    """The journal, commit by commit."""

    async def last_sequence(self, tenant: TenantId, run_id: str) -> int:
        """Gives the sequence of the last fact of a run; 0 when there is no such run."""
        ...

    async def rows(self, tenant: TenantId, run_id: str, *, after: int) -> Sequence[RecordedRow]:
        """Gives the commits whose first fact comes after a sequence, in order, a bounded number at a time."""
        ...

    async def archived(self, tenant: TenantId, run_id: str) -> "ArchivedRun | None":
        """Gives what there is of a run in the archive, None for one whose facts are not there."""
        ...

    async def archived_part(self, tenant: TenantId, run_id: str, part: int) -> bytes:
        """Gives a part of its file, from 0. Raises: BlobStoreAway, BlobMissing, KeyDestroyed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedRun:
    """A run whose facts lie in the archive, as the file that ExportRun gives."""

    run_id: str
    #: Of the file.
    parts: int
    #: That it was given.
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A run as far as it was recorded when it was opened."""

    tenant: TenantId
    run_id: str
    last_sequence: int
    #: Its first fact; None when the key of its content was destroyed.
    started: journal_pb2.RunStarted | None = field(repr=False)
    _records: Records = field(repr=False)

    async def rows(self) -> AsyncGenerator[RecordedRow]:
        """Gives its commits in order.

        Raises: RunArchived: they went to the archive meanwhile. RunNotFound: the run was deleted meanwhile.
        """
        after = 0
        while batch := await self._records.rows(self.tenant, self.run_id, after=after):
            for row in batch:
                after = row.first_sequence
                if after > self.last_sequence:
                    return
                yield row
        if await self._records.archived(self.tenant, self.run_id) is not None:
            raise RunArchived(self.run_id)
        # A run that is deleted loses all its facts at once.
        if self.last_sequence and not await self._records.last_sequence(self.tenant, self.run_id):
            raise RunNotFound(self.run_id)

    async def entries(self) -> AsyncGenerator[journal_pb2.JournalEntry]:
        """Gives its facts in order. Raises: RecordDestroyed."""
        async for row in self.rows():
            if row.content is None:
                raise RecordDestroyed(self.run_id)
            for entry in row.content.entries:
                yield journal_pb2.JournalEntry.FromString(entry)


async def recorded_run(records: Records, tenant: TenantId, run_id: str) -> RecordedRun:
    """Opens the record of a run, whoever asks. Raises: RunNotFound, Unavailable."""
    last = await records.last_sequence(tenant, run_id)
    first = await records.rows(tenant, run_id, after=0) if last else ()
    if not first:
        raise RunNotFound(run_id)
    content = first[0].content
    started = None if content is None else journal_pb2.JournalEntry.FromString(content.entries[0]).run_started
    return RecordedRun(tenant=tenant, run_id=run_id, last_sequence=last, started=started, _records=records)


class RecordedRuns:
    """Opens the record of runs."""

    def __init__(self, *, records: Records, access: RunAccess) -> None:
        self._records = records
        self._access = access

    async def open(self, caller: Caller, run_id: str, *, field: str = "run_id") -> RecordedRun:
        """Opens a run that the caller may read.

        Raises: Invalid, RunNotFound, RelationMissing, Unavailable. RunArchived: only a file is left of it.
        """
        if await self.archived(caller, run_id, field=field) is not None:
            raise RunArchived(run_id)
        run = await self.of_tenant(caller.principal.tenant, run_id)
        await self._require(caller, run_id, run.started)
        return run

    async def of_tenant(self, tenant: TenantId, run_id: str) -> RecordedRun:
        """Opens a run for work that no caller asked for. Raises: RunNotFound, Unavailable."""
        return await recorded_run(self._records, tenant, run_id)

    async def archived(self, caller: Caller, run_id: str, *, field: str = "run_id") -> ArchivedRun | None:
        """Gives a run that the caller may read and whose facts are in the archive; None when they are not.

        Raises: Invalid, RunNotFound, RelationMissing, Unavailable.
        """
        to_uuid(run_id, "run", field=field)
        archived = await self._records.archived(caller.principal.tenant, run_id)
        if archived is not None:
            await self._access.to_read(caller, run_pb2.Run(run_id=run_id, metadata=archived.labels))
        return archived

    async def file(self, caller: Caller, archived: ArchivedRun) -> AsyncGenerator[bytes]:
        """Gives the file of an archived run in parts. Raises: BlobStoreAway, BlobMissing, RecordDestroyed.

        RunNotFound: it was deleted meanwhile.
        """
        for part in range(archived.parts):
            try:
                yield await self._records.archived_part(caller.principal.tenant, archived.run_id, part)
            except KeyDestroyed as cause:
                raise RecordDestroyed(archived.run_id) from cause
            except BlobMissing as cause:
                if await self._records.archived(caller.principal.tenant, archived.run_id) is None:
                    raise RunNotFound(archived.run_id) from cause
                raise

    async def _require(self, caller: Caller, run_id: str, started: journal_pb2.RunStarted | None) -> None:
        """A run whose content is gone shows no project any more: who is bound to one does not know of it."""
        shown = run_pb2.Run(run_id=run_id)
        if started is not None:
            shown.metadata.update(labels_of(started))
        await self._access.to_read(caller, shown)


def labels_of(started: journal_pb2.RunStarted) -> dict[str, str]:
    """Gives the labels that a run was given."""
    return dict(started.run.metadata if started.HasField("run") else started.session.metadata)
