"""The journal of a run as it lies there, commit by commit."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.crypto.commitments import COMMITMENT_BYTES
from services.meshkit.crypto.errors import KeyDestroyed
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.run import RunKind
from services.orchestrator.record.rows import RecordedRow, RowContent
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.usecases.recorded_runs import ArchivedRun

#: Rows read at once, and most bytes of them: one row alone may be larger.
_ROWS_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_ROWS: Final = """
    SELECT first_sequence, payload, commitments, record_time FROM (
        SELECT *, sum(length(payload)) OVER (ORDER BY first_sequence) - length(payload) AS before
        FROM (SELECT first_sequence, payload, commitments, record_time FROM journal
              WHERE run_id = $1 AND first_sequence > $2 ORDER BY first_sequence LIMIT $3) AS following
    ) AS measured WHERE before < $4 ORDER BY first_sequence"""
_LAST: Final = """
    SELECT first_sequence + entry_count - 1 FROM journal WHERE run_id = $1 ORDER BY first_sequence DESC LIMIT 1"""

_ARCHIVED: Final = "SELECT kind, view, archive_parts FROM run WHERE run_id = $1 AND archive_parts IS NOT NULL"


class SqlRecordStore:
    """Implements `usecases.recorded_runs.Records`."""

    def __init__(self, *, app: AsyncEngine, codec: JournalCodec, archive: SqlRunArchive) -> None:
        self._app = app
        self._codec = codec
        self._archive = archive

    async def archived(self, tenant: TenantId, run_id: str) -> ArchivedRun | None:
        """See `Records.archived`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            row = await scope.driver.fetchrow(_ARCHIVED, to_uuid(run_id, "run"))
        if row is None:
            return None
        try:
            view = await self._codec.open_view(tenant, run_id, row["view"], RunKind(row["kind"]))
        except KeyDestroyed:
            return ArchivedRun(run_id=run_id, parts=row["archive_parts"], labels={})
        return ArchivedRun(run_id=run_id, parts=row["archive_parts"], labels=dict(view.metadata))

    async def archived_part(self, tenant: TenantId, run_id: str, part: int) -> bytes:
        """See `Records.archived_part`."""
        return await self._archive.part(tenant, run_id, part)

    async def last_sequence(self, tenant: TenantId, run_id: str) -> int:
        """See `Records.last_sequence`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            return await scope.driver.fetchval(_LAST, to_uuid(run_id, "run")) or 0

    async def rows(self, tenant: TenantId, run_id: str, *, after: int) -> Sequence[RecordedRow]:
        """See `Records.rows`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            found = await scope.driver.fetch(_ROWS, to_uuid(run_id, "run"), after, _ROWS_AT_ONCE, _BYTES_AT_ONCE)
        rows: list[RecordedRow] = []
        size = 0
        for row in found:
            content = await self._content(tenant, run_id, row["first_sequence"], row["payload"])
            rows.append(
                RecordedRow(
                    first_sequence=row["first_sequence"],
                    commitments=_split(row["commitments"]),
                    record_time=row["record_time"],
                    content=content,
                )
            )
            # What lies in the object store was not measured before.
            size += 0 if content is None else sum(map(len, content.entries))
            if size >= _BYTES_AT_ONCE:
                break
        return rows

    async def _content(self, tenant: TenantId, run_id: str, first_sequence: int, sealed: bytes) -> RowContent | None:
        try:
            opened = await self._codec.open_bytes(tenant, run_id, first_sequence, sealed)
        except KeyDestroyed:
            return None
        return RowContent(entries=opened.entries, salts=opened.salts)


def _split(commitments: bytes) -> Sequence[bytes]:
    return [commitments[at : at + COMMITMENT_BYTES] for at in range(0, len(commitments), COMMITMENT_BYTES)]
