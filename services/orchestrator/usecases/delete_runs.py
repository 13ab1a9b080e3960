"""Deletes runs whose time is over by the rules of their tenants, with all that they started."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.usecases.keeping_round import keeping_round
from services.orchestrator.usecases.retention import Retention

#: A tenant has its next turn in the next round after so many of its runs in a row could not be deleted.
_MOST_FAILED: Final = 16

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRun:
    """What has to be known of a run to say whether it may go."""

    run_id: str
    #: The run that started it; empty for one that somebody started.
    parent_run_id: str
    #: None while it is in progress.
    end_time: datetime | None


class AnotherDeletes(Exception):
    """Another replica deletes runs at this moment."""


class Deletions(Protocol):
    """Deletes runs from wherever they lie."""

    async def old(self, tenant: TenantId, until: datetime, *, after: str | None) -> Sequence[str]:
        """Gives runs that somebody started, that began before a moment and have ended, by id, a bounded number."""
        ...

    async def look(self, tenant: TenantId, run_id: str) -> KeptRun | None:
        """Gives a run, None for one that is gone. Raises: MeshError: what is kept of it cannot be read."""
        ...

    async def maybe_below(self, tenant: TenantId, run_id: str) -> Sequence[str]:
        """Names all runs that a run may have started, itself or by another: those that began with it."""
        ...

    async def delete(self, tenant: TenantId, run_id: str) -> bool:
        """Deletes a run that has ended, in one transaction, then its objects; False if it is gone or in progress.

        Raises: AnotherDeletes.
        """
        ...

    async def note(self, tenant: TenantId, runs: int) -> None:
        """Says in the audit trail of a tenant how many of its runs were deleted by its rule."""
        ...


class DeleteRuns:
    """Deletes each such run after all that it has started, so that a crash leaves none that nobody finds.

    A run goes when all below it have ended long enough ago too; until then it stays whole, with all of them.
    """

    def __init__(self, *, deletions: Deletions, retention: Retention, clock: Clock, pause: timedelta) -> None:
        self._deletions = deletions
        self._retention = retention
        self._clock = clock
        self._pause = pause.total_seconds()
        #: Runs that are deleted and of which the audit trail does not tell yet.
        self._untold = Counter[TenantId]()
        #: Where the next round goes on with a tenant whose turn ended before all its runs were looked at.
        self._went_on: dict[TenantId, str] = {}

    async def __call__(self) -> None:
        """Works until cancelled."""
        while True:
            await self._retention.known()
            await keeping_round("deletion", self.round, fault="runs are not deleted right now")
            await self._clock.sleep(self._pause)

    async def round(self) -> int:
        """Deletes all runs that are due; says how many, sub-runs too. Raises: MeshError: they cannot be looked for."""
        tenants = {tenant: _Turn(last=self._went_on.pop(tenant, None)) for tenant in self._retention.deleting()}
        deleted = 0
        for tenant in list(self._untold):
            await self._tell(tenant)
        try:
            while tenants:
                # Each tenant has its turn, however many runs another has.
                for tenant, turn in list(tenants.items()):
                    await self._some(tenant, turn)
                    if turn.over:
                        deleted += turn.deleted
                        if turn.last is not None:
                            self._went_on[tenant] = turn.last
                        del tenants[tenant]
        except AnotherDeletes:
            log.info("another replica deletes runs")
        return deleted + sum(turn.deleted for turn in tenants.values())

    async def _some(self, tenant: TenantId, turn: "_Turn") -> None:
        # Asked anew each time: the tenant may have taken its rule back.
        until = self._retention.deleted(tenant)
        due = () if until is None else await self._deletions.old(tenant, until, after=turn.last)
        if until is None or not due:
            turn.over, turn.last = True, None
            return
        try:
            for run_id in due:
                turn.last = run_id
                await self._try(tenant, run_id, until, turn)
                if turn.over:
                    break
        finally:
            await self._tell(tenant)

    async def _tell(self, tenant: TenantId) -> None:
        """Has the audit trail say what was deleted. What it does not take now it is told in the next turn."""
        runs = self._untold[tenant]
        if not runs:
            return
        try:
            await self._deletions.note(tenant, runs)
        except MeshError as error:
            log.warning("the audit trail is told later of runs that were deleted", count=runs, cause=error.message)
        else:
            del self._untold[tenant]
            log.info("runs deleted by the rule of their tenant", count=runs)

    async def _try(self, tenant: TenantId, run_id: str, until: datetime, turn: "_Turn") -> None:
        try:
            for run in reversed(await self._tree(tenant, run_id, until)):
                if await self._deletions.delete(tenant, run.run_id):
                    metrics.RUNS_DELETED.inc()
                    turn.deleted += 1
                    self._untold[tenant] += 1
            turn.failed = 0
        except AnotherDeletes:
            raise
        except Exception as error:
            # The others go on: what is kept of one may not be readable. It has its turn in the next round.
            turn.failed += 1
            turn.over = turn.failed >= _MOST_FAILED
            metrics.JOURNAL_KEEPING_FAILED.labels("deletion").inc()
            if isinstance(error, MeshError):
                log.warning("a run is not deleted", run_id=run_id, cause=error.message)
            else:
                log.exception("a run is not deleted", run_id=run_id)

    async def _tree(self, tenant: TenantId, run_id: str, until: datetime) -> Sequence[KeptRun]:
        """Gives a run and all below it, each after the one that started it; nothing unless all may go."""
        root = await self._deletions.look(tenant, run_id)
        if root is None or not _is_over(root, until):
            return ()
        started: defaultdict[str, list[KeptRun]] = defaultdict(list)
        for other in await self._deletions.maybe_below(tenant, run_id):
            if (run := await self._deletions.look(tenant, other)) is not None:
                started[run.parent_run_id].append(run)
        tree = [root]
        for run in tree:
            tree += started.pop(run.run_id, ())
        return tree if all(_is_over(run, until) for run in tree) else ()


@dataclass(slots=True)
class _Turn:
    """How far a round is with the runs of one tenant."""

    #: Of those that were looked at; None at the beginning, and once all were.
    last: str | None = None
    deleted: int = 0
    #: In a row.
    failed: int = 0
    over: bool = False


def _is_over(run: KeptRun, until: datetime) -> bool:
    return run.end_time is not None and run.end_time < until
