"""Ends holds that nobody settled in time."""

from datetime import datetime, timedelta
from typing import Final

from services.cost.domain.changes import Changes
from services.cost.domain.spend_book import SpendBook
from services.cost.usecases.ports import BeginSweep, Sweep
from services.cost.usecases.report import report
from services.cost.usecases.rounds import failed, make_round, passes
from services.meshkit.core.clock import Clock
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

BEFORE_EXPIRY: Final = "cost.before_expiry"
register(BEFORE_EXPIRY)

_FAULT: Final = "expiry of holds waits"
#: How long a tenant is left alone whose holds cannot be ended.
_ASIDE: Final = timedelta(minutes=5)
#: Tenants that may be left alone at once; of more, the first is tried again.
_MOST_ASIDE: Final = 100

log = logger(__name__)


class ExpireHolds:
    """Releases what was never dispatched and charges the bound of what was, in bounded transactions.

    Several replicas share the work. The time comes from the clock that also gave the holds their expiry. When a group
    of holds cannot be ended, they are ended one by one, and the tenant of the one at fault is left alone for a while.
    """

    def __init__(self, *, begin: BeginSweep, clock: Clock, every_seconds: float, most: int = 200) -> None:
        self._begin = begin
        self._clock = clock
        self._every_seconds = every_seconds
        self._most = most
        self._aside: dict[TenantId, datetime] = {}

    async def __call__(self) -> None:
        """Sweeps until cancelled."""
        while True:
            await make_round("expiry", self._round, fault=_FAULT)
            await self._clock.sleep(self._every_seconds)

    async def _round(self) -> None:
        while await self.once():
            pass

    async def once(self) -> int:
        """Ends at most one batch of holds; gives how many it looked at."""
        try:
            return await self._end(self._most)
        except Exception as error:
            if passes(error):
                raise
        looked_at = 0
        while looked_at < self._most and await self._end_oldest():
            looked_at += 1
        return looked_at

    async def _end_oldest(self) -> int:
        """Ends one hold, or leaves its tenant alone."""
        whose: list[TenantId] = []
        try:
            return await self._end(1, whose)
        except Exception as error:
            if passes(error) or not whose:
                raise
            (tenant,) = whose
            self._leave_alone(tenant)
            failed("expiry", _FAULT, error, tenant=str(tenant))
        return 1

    async def _end(self, most: int, whose: list[TenantId] | None = None) -> int:
        now = self._clock.now()
        self._aside = {tenant: until for tenant, until in self._aside.items() if until > now}
        async with self._begin() as sweep:
            book = await sweep.load_due(now=now, most=most, without=self._aside)
            if book is None:
                return 0
            if whose is not None:
                whose += {hold.tenant for hold in book.holds}
            changes = await _ended(sweep, book)
        report(changes)
        return len(book.holds)

    def _leave_alone(self, tenant: TenantId) -> None:
        if len(self._aside) >= _MOST_ASIDE:
            del self._aside[next(iter(self._aside))]
        self._aside[tenant] = self._clock.now() + _ASIDE


async def _ended(sweep: Sweep, book: SpendBook) -> Changes:
    await failpoint(BEFORE_EXPIRY)
    ended = book.expire_due()
    changes = book.changes()
    if not changes.empty:
        await sweep.save(changes)
        await sweep.commit()
        log.info("holds expired", holds=len(ended), assumed=len(changes.entries))
    return changes
