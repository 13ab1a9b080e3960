"""Journals of runs, and what was last written of each. Writes go through asyncpg itself: they are the hot path."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.blobs.store import BlobStoreAway
from services.meshkit.core.failpoints import failpoint
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.crypto.errors import KeyServiceAway
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.domain.errors import RunArchived, RunNotFound
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.ports import WritesNotReady
from services.orchestrator.engine.run import (
    RunKind,
    RunView,
    RunWrite,
    SealedRow,
    ShardLease,
)
from services.orchestrator.storage.one_trips import COMMIT_TICK, VIEW_OF_RUN
from services.orchestrator.storage.tick_arrays import tick_arrays

#: Journal rows read at once in recovery and by watchers.
_ROWS_AT_ONCE: Final = 64
#: What of them is opened at once, with what lies in the object store; one row alone may be larger.
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
#: No more than fit into so many bytes, and one too many to tell whether there are more.
_VIEWS: Final = """
    SELECT run_id, kind, view, found FROM (
        SELECT run_id, kind, view, count(*) OVER () AS found, row_number() OVER newest AS place,
            sum(octet_length(view)) OVER newest - octet_length(view) AS before
        FROM (SELECT run_id, kind, view FROM run
              WHERE ($1::uuid IS NULL OR run_id < $1) AND ($2::smallint IS NULL OR kind = $2)
                  AND (NOT $3::boolean OR state NOT IN (5, 6, 7))
              ORDER BY run_id DESC LIMIT $4 + 1) AS following
        WINDOW newest AS (ORDER BY run_id DESC)
    ) AS measured WHERE place <= $4 AND before < $5 ORDER BY run_id DESC"""
#: From the row that holds the next fact on: the rows before it are not looked at.
_ENTRIES: Final = """
    SELECT first_sequence, payload FROM journal
    WHERE run_id = $1 AND first_sequence + entry_count > $2 + 1 AND first_sequence >= coalesce(
        (SELECT first_sequence FROM journal WHERE run_id = $1 AND first_sequence <= $2 + 1
         ORDER BY first_sequence DESC LIMIT 1), 0)
    ORDER BY first_sequence LIMIT $3"""
_LAST_SEQUENCE: Final = """
    SELECT first_sequence + entry_count - 1 AS last FROM journal
    WHERE run_id = $1 ORDER BY first_sequence DESC LIMIT 1"""


class SqlJournal:
    """Implements `engine.ports.Journal`, and answers what callers ask of runs.

    Args:
        commits: of the same role as `app`, for ticks alone: they wait for no connection that starts and reads have.
    """

    def __init__(self, app: AsyncEngine, *, commits: AsyncEngine, codec: JournalCodec) -> None:
        self._app = app
        self._commits = commits
        self._codec = codec

    def preparation(self, write: RunWrite) -> Callable[[], Awaitable[None]] | None:
        """See `Journal.preparation`."""
        return None if self._codec.is_ready(write) else partial(self._prepare, write)

    async def _prepare(self, write: RunWrite) -> None:
        await self._load_keys([write.run.tenant], [write])
        if write.entries and write.sealed is None:
            [sealed] = self._codec.seal([write])
            await self._put([(write, sealed)])
            write.sealed = sealed

    async def _put(self, rows: Sequence[tuple[RunWrite, SealedRow]]) -> None:
        """Puts what is too big for these rows. Raises: WritesNotReady: of those that have such."""
        big = [(write, row) for write, row in rows if row.blobs]
        if not big:
            return
        try:
            await self._codec.put(blob for _, row in big for blob in row.blobs)
        except BlobStoreAway as cause:
            raise WritesNotReady(cause.message, [write.run.run_id for write, _ in big]) from cause
        await failpoint("orchestrator.after_blobs")

    async def commit(self, leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        """See `Journal.commit`."""
        tenants = {write.run.tenant for write in writes}
        await self._load_keys(tenants, writes)
        unsealed = [write for write in writes if write.entries and write.sealed is None]
        rows_of_facts = list(self._codec.seal(unsealed))
        await self._put(list(zip(unsealed, rows_of_facts, strict=True)))
        following = iter(rows_of_facts)
        sealed = [write.sealed or (next(following) if write.entries else None) for write in writes]
        # Most are empty. The driver takes a microsecond to see that, and none for a null.
        arrays = (array or None for array in tick_arrays(leases, writes, sealed, self._codec))
        rows = await one_trip(self._commits, tenants, COMMIT_TICK, *arrays)
        return [row["lost"] for row in rows]

    async def _load_keys(self, tenants: Collection[TenantId], writes: Sequence[RunWrite]) -> None:
        """Makes the keys of these writes ready. Raises: WritesNotReady: of those whose key is not to be had."""
        try:
            await self._codec.load(tenants)
        except KeyServiceAway:
            keyless = set[TenantId]()
            for tenant in tenants:
                try:
                    await self._codec.load([tenant])
                except KeyServiceAway:
                    keyless.add(tenant)
            if keyless:
                waiting = [write.run.run_id for write in writes if write.run.tenant in keyless]
                raise WritesNotReady("the key service is away", waiting) from None

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `Journal.entries`."""
        rows = await self._rows(
            tenant,
            _ENTRIES,
            to_uuid(run_id, "run"),
            after,
            _ROWS_AT_ONCE,
        )
        if not rows:
            await self._refuse_archived(tenant, run_id)
        found: list[tuple[int, journal_pb2.JournalEntry]] = []
        size = 0
        for row in rows:
            opened = await self._codec.open(tenant, run_id, row["first_sequence"], row["payload"])
            found += [
                (sequence, entry)
                for sequence, entry in enumerate(opened.entries, row["first_sequence"])
                if sequence > after
            ]
            size += opened.ByteSize() if opened.blobs else len(row["payload"])
            if size >= _BYTES_AT_ONCE:
                break
        return found

    async def view(self, tenant: TenantId, run_id: str) -> RunView:
        """Gives what callers see of a run as it was last written. Raises: RunNotFound."""
        rows = await one_trip(self._app, tenant, VIEW_OF_RUN, to_uuid(run_id, "run"))
        if not rows:
            raise RunNotFound(run_id)
        return await self._codec.open_view(tenant, run_id, rows[0]["view"], RunKind(rows[0]["kind"]))

    async def last_sequence(self, tenant: TenantId, run_id: str) -> int:
        """See `Journal.last_sequence`."""
        rows = await self._rows(tenant, _LAST_SEQUENCE, to_uuid(run_id, "run"))
        return rows[0]["last"] if rows else 0

    async def views(
        self, tenant: TenantId, *, before: str | None, most: int, kind: RunKind | None = None, open_only: bool = False
    ) -> tuple[Sequence[RunView], bool]:
        """See `Written.views`."""
        rows = await self._rows(
            tenant,
            _VIEWS,
            None if before is None else to_uuid(before, "run", field="page_token"),
            None if kind is None else int(kind),
            open_only,
            most,
            _BYTES_AT_ONCE,
        )
        views = [
            await self._codec.open_view(tenant, from_uuid("run", row["run_id"]), row["view"], RunKind(row["kind"]))
            for row in rows
        ]
        return views, bool(rows) and rows[0]["found"] > len(rows)

    async def turns(
        self, tenant: TenantId, run_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]:
        """Gives recorded turns of a session after turn number `after`, in order, with their numbers."""
        run_uuid = to_uuid(run_id, "run")
        rows = await self._rows(
            tenant,
            "SELECT place.turn, place.sequence, row.first_sequence, row.payload FROM turn_place AS place"
            " CROSS JOIN LATERAL (SELECT first_sequence, payload FROM journal WHERE run_id = $1"
            "  AND first_sequence <= place.sequence ORDER BY first_sequence DESC LIMIT 1) AS row"
            " WHERE place.run_id = $1 AND place.turn > $2 ORDER BY place.turn LIMIT $3",
            *(run_uuid, after, most),
        )
        if not rows:
            await self._refuse_archived(tenant, run_id)
        found: list[tuple[int, session_pb2.Turn]] = []
        for row in rows:
            opened = await self._codec.open(tenant, run_id, row["first_sequence"], row["payload"])
            position: int = row["sequence"] - row["first_sequence"]
            entry = opened.entries[position]
            found.append((row["turn"], entry.step_completed.turn))
        return found

    async def _refuse_archived(self, tenant: TenantId, run_id: str) -> None:
        """Tells a run without facts from one whose facts went elsewhere. Raises: RunArchived."""
        if await self._rows(
            tenant, "SELECT 1 FROM run WHERE run_id = $1 AND archive_parts IS NOT NULL", to_uuid(run_id, "run")
        ):
            raise RunArchived(run_id)

    async def _rows(self, tenant: TenantId, statement: str, *values: object) -> Sequence[Record]:
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            return await scope.driver.fetch(statement, *values)
