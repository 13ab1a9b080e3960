"""Room for runs in the memory of one replica: how many there are, and how much of it one tenant may take.

A tenant starts runs while it has fewer than twice as many as places are free, so there is always room for one more
tenant (the rule of `meshkit.guard.concurrency`). Starts, and runs that were left behind, leave a tenth to runs that
wake. Sub-runs are counted where their parents wait for them (`sub_run_places`), and taken up whenever they come: one
that found no room here would keep its parent, and all that wait for that, waiting.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.errors import RunsAtLimit
from services.orchestrator.domain.sub_run_id import depth_of
from services.orchestrator.engine.run import OwnedRun
from services.orchestrator.engine.tenant_counts import TenantCounts

#: Runs per free place that one tenant may have when it starts another.
_PER_FREE_PLACE: Final = 2
#: Part of the places that is kept for runs that wake: one in so many.
_RESERVE: Final = 10


class Room:
    """The places of one replica, and who has them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._for_starts = most - most // _RESERVE
        #: Runs that have a place; a start has one before it has a run.
        self._of_run: dict[str, TenantId] = {}
        self._taken = TenantCounts()

    @property
    def open(self) -> bool:
        """True while a run that wakes finds a place."""
        return self._taken.total < self._most

    @property
    def open_for_starts(self) -> bool:
        """True while a run that is started, or was left behind, finds a place."""
        return self._taken.total < self._for_starts

    @contextmanager
    def start(self, tenant: TenantId) -> Iterator[None]:
        """Keeps a place for a run that is being started until the block ends. Raises: RunsAtLimit."""
        free, mine = self._for_starts - self._taken.total, self._taken.of(tenant)
        if free <= 0:
            raise RunsAtLimit(self._taken.total)
        if mine >= _PER_FREE_PLACE * free:
            raise RunsAtLimit(mine, of_tenant=True)
        self._taken.add(tenant, 1)
        try:
            yield
        finally:
            self._taken.add(tenant, -1)

    def take(self, run: OwnedRun) -> None:
        """Gives a run a place, whether there is one free or not; one that has a place keeps it."""
        if run.run_id not in self._of_run and not depth_of(run.run_id):
            self._of_run[run.run_id] = run.tenant
            self._taken.add(run.tenant, 1)

    def leave(self, run_id: str) -> None:
        """Takes the place of a run back, if it has one."""
        tenant = self._of_run.pop(run_id, None)
        if tenant is not None:
            self._taken.add(tenant, -1)
