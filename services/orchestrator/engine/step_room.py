"""How many workers and how many waiting steps a replica has room for, in all and of one tenant."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.orchestrator.domain.errors import WorkersAtLimit
from services.orchestrator.engine.tenant_counts import TenantCounts

_WAITING: Final = "orchestrator.steps_waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of one replica."""

    #: Streams of workers, in all and of one tenant.
    workers: int
    workers_of_tenant: int
    #: Steps that wait for a worker, in all and of one tenant. Others stay with their runs until there is room.
    waiting: int
    waiting_of_tenant: int


class Seats:
    """Counts the streams of workers; those that other replicas lend have seats of their own, by the same bounds."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._own = TenantCounts()
        self._lent = TenantCounts()

    @contextmanager
    def taken(self, tenant: TenantId, *, lent: bool) -> Iterator[None]:
        """Takes a seat within the block. Raises: WorkersAtLimit."""
        seats = self._lent if lent else self._own
        if seats.total >= self._limits.workers:
            raise WorkersAtLimit("this replica", self._limits.workers)
        if seats.of(tenant) >= self._limits.workers_of_tenant:
            raise WorkersAtLimit("your tenant here", self._limits.workers_of_tenant)
        seats.add(tenant, 1)
        try:
            yield
        finally:
            seats.add(tenant, -1)


class WaitingRoom:
    """Counts the steps that wait for a worker, and remembers the runs whose steps found no room."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._waiting = TenantCounts()
        #: Runs with steps that found no room, and who offers them again.
        self._short: dict[TenantId, dict[str, Callable[[], None]]] = {}
        metrics.QUEUE_ITEMS.labels(_WAITING).set_function(lambda: self._waiting.total)

    @property
    def short(self) -> bool:
        """True while some run waits for room."""
        return bool(self._short)

    @property
    def total(self) -> int:
        """How many steps of all tenants wait."""
        return self._waiting.total

    def count(self, tenant: TenantId, change: int) -> None:
        """Counts steps that begin to wait, or wait no longer."""
        self._waiting.add(tenant, change)

    def is_full(self, tenant: TenantId) -> bool:
        """Says whether one more step of a tenant has no room."""
        return self._waiting.of(tenant) >= self._limits.waiting_of_tenant or self.total >= self._limits.waiting

    def turn_away(self, tenant: TenantId, run_id: str, again: Callable[[], None]) -> None:
        """Remembers a run whose step found no room; `again` is called once there is some."""
        metrics.QUEUE_REFUSED.labels(_WAITING).inc()
        self._short.setdefault(tenant, {})[run_id] = again

    def forget(self, run_id: str) -> None:
        """Has a run wait for no room any more."""
        for short in self._short.values():
            short.pop(run_id, None)

    def fill(self) -> None:
        """Has runs offer what found no room, once half of the room is free."""
        for tenant in list(self._short):
            short = self._short.pop(tenant)
            while short and self._is_half_free(tenant):
                again = short.pop(next(iter(short)))
                again()
            if short:
                self._short.setdefault(tenant, {}).update(short)

    def _is_half_free(self, tenant: TenantId) -> bool:
        limits = self._limits
        return self._waiting.of(tenant) <= limits.waiting_of_tenant // 2 and self.total <= limits.waiting // 2
