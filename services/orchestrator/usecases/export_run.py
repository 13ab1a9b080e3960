"""Writes a run as one file."""

from collections.abc import AsyncGenerator

from comitia_sdk.record.run_file import RecordedCommit, RunFileWriter
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.errors import RecordDestroyed
from services.orchestrator.record.rows import RecordedRow
from services.orchestrator.usecases.recorded_runs import RecordedRun, RecordedRuns


class ExportRun:
    """Gives the file in pieces, as far as the run was recorded when it was asked for."""

    def __init__(self, *, runs: RecordedRuns) -> None:
        self._runs = runs

    async def __call__(self, caller: Caller, run_id: str) -> AsyncGenerator[bytes]:
        """Raises: Invalid, RunNotFound, RelationMissing. RecordDestroyed: the key was destroyed meanwhile."""
        archived = await self._runs.archived(caller, run_id)
        if archived is not None:
            async for part in self._runs.file(caller, archived):
                yield part
            return
        async for line in run_file(await self._runs.open(caller, run_id)):
            yield line


async def run_file(run: RecordedRun) -> AsyncGenerator[bytes]:
    """Gives the lines of a run's file. The same run gives the same bytes, whoever writes them."""
    structure_only = run.started is None
    writer = RunFileWriter(run.run_id, facts=run.last_sequence, structure_only=structure_only)
    yield writer.head()
    async for row in run.rows():
        if structure_only:
            yield writer.commit(_commit_of(row))
        elif row.content is None:
            raise RecordDestroyed(run.run_id)
        else:
            for sequence, (entry, salt, commitment) in enumerate(row.facts, row.first_sequence):
                yield writer.fact(sequence, entry=entry, salt=salt, commitment=commitment)
    yield writer.end()


def _commit_of(row: RecordedRow) -> RecordedCommit:
    return RecordedCommit(
        first_sequence=row.first_sequence,
        commitments=tuple(row.commitments),
        record_time=row.record_time.isoformat(timespec="microseconds"),
    )
