"""Moves the facts of runs that ended long ago out of the database; the runs themselves stay in lists."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import RunNotFound
from services.orchestrator.usecases.export_run import run_file
from services.orchestrator.usecases.keeping_round import keeping_round
from services.orchestrator.usecases.recorded_runs import RecordedRuns
from services.orchestrator.usecases.retention import Retention

#: Of a file in the archive, sealed and read as one piece.
PART_BYTES: Final = 4 * 1024 * 1024
#: A tenant has its next turn in the next round after so many of its runs could not be archived.
_MOST_FAILED_OF_ONE: Final = 16
#: A round ends after so many that could not be archived: then it is not they that are at fault.
_MOST_FAILED: Final = 1_000

log = logger(__name__)


class Archive(Protocol):
    """Keeps the files of runs, and takes out of the journal what they hold."""

    async def due(
        self,
        until: datetime,
        own: Mapping[TenantId, datetime],
        *,
        after: TenantId | None,
        but: Collection[str],
        without: Collection[TenantId],
    ) -> Sequence[tuple[TenantId, str]]:
        """Gives runs that ended before a moment and are not in the archive, tenant by tenant, a bounded number.

        Args:
            own: moments of tenants that have one of their own.
            after: tenants up to this one are left out.
            but: runs to leave out.
            without: tenants to leave out.
        """
        ...

    async def put(self, tenant: TenantId, run_id: str, part: int, content: bytes) -> None:
        """Keeps a part of a run's file, in place of the same one; durable when it returns. Raises: MeshError."""
        ...

    async def take_out(self, run_id: str, *, parts: int, facts: int) -> bool:
        """Takes the facts of a run out of the journal, and notes how many parts its file has; False if somebody did.

        Raises: ArchiveIncomplete: there are not so many facts. MeshError.
        """
        ...


class ArchiveRuns:
    """Writes the file of each such run to the archive, then takes its facts out of the journal.

    Between the two they lie in both places, which harms nobody: a run that has ended never changes, so the next round,
    or another replica, writes the same file again.
    """

    def __init__(
        self,
        *,
        archive: Archive,
        runs: RecordedRuns,
        retention: Retention,
        clock: Clock,
        pause: timedelta,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._archive = archive
        self._runs = runs
        self._retention = retention
        self._clock = clock
        self._pause = pause.total_seconds()
        self._part_bytes = part_bytes

    async def __call__(self) -> None:
        """Works until cancelled."""
        while True:
            await self._retention.known()
            await keeping_round("archive", self.round, fault="runs are not archived right now")
            await self._clock.sleep(self._pause)

    async def round(self) -> int:
        """Archives all runs that are due; says how many. Raises: MeshError: they cannot be looked for."""
        archived, failed, last = 0, _Failed(), None
        # Asked anew each time: a tenant may change its rule, and nobody hears of that while the gateway is silent.
        while not failed.too_many and (moments := self._retention.archived()) is not None:
            due = await self._archive.due(*moments, after=last, but=failed.runs, without=failed.tenants)
            if not due and last is None:
                break
            for tenant, run_id in due:
                try:
                    archived += await self._move(tenant, run_id)
                except RunNotFound:
                    failed.runs.add(run_id)
                    log.info("a run was deleted while it was archived", run_id=run_id)
                except Exception as error:
                    # The others go on: one may have a fact that cannot be read. It has its turn in the next round.
                    failed.add(tenant, run_id)
                    metrics.JOURNAL_KEEPING_FAILED.labels("archive").inc()
                    if isinstance(error, MeshError):
                        log.warning("a run is not archived", run_id=run_id, cause=error.message)
                    else:
                        log.exception("a run is not archived", run_id=run_id)
            # The next tenant comes next, however many runs this one has; after the last one the first one again.
            last = due[-1][0] if due else None
        return archived

    async def _move(self, tenant: TenantId, run_id: str) -> bool:
        run = await self._runs.of_tenant(tenant, run_id)
        parts, kept = 0, bytearray()
        async for line in run_file(run):
            kept += line
            if len(kept) >= self._part_bytes:
                await self._archive.put(tenant, run_id, parts, bytes(kept))
                parts += 1
                kept.clear()
        if kept:
            await self._archive.put(tenant, run_id, parts, bytes(kept))
            parts += 1
        moved = await self._archive.take_out(run_id, parts=parts, facts=run.last_sequence)
        if moved:
            metrics.RUNS_ARCHIVED.inc()
            log.info("run archived", run_id=run_id, parts=parts)
        return moved


class _Failed:
    """What could not be archived in a round."""

    def __init__(self) -> None:
        self.runs = set[str]()
        #: Those of which nothing is tried any more.
        self.tenants = set[TenantId]()
        self._counts = Counter[TenantId]()

    @property
    def too_many(self) -> bool:
        return len(self.runs) >= _MOST_FAILED

    def add(self, tenant: TenantId, run_id: str) -> None:
        self.runs.add(run_id)
        self._counts[tenant] += 1
        if self._counts[tenant] >= _MOST_FAILED_OF_ONE:
            self.tenants.add(tenant)
