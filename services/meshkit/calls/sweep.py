"""Settles recorded calls whose settlement was cut short, and forgets old ones."""

from datetime import timedelta
from typing import Final

from services.meshkit.calls.ports import Holds, PendingSettlement, Settlement, SettlementStore
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.errors import TransactionConflict
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: A settlement younger than this is still being made by the call itself.
_LEAVE_ALONE: Final = timedelta(seconds=20)
_AT_ONCE: Final = 100
_FORGET_AT_ONCE: Final = 1_000
#: Cost will never take the settlement with this token: it is no longer valid, or the hold is not there.
_HOPELESS: Final = frozenset(
    {ErrorKind.UNAUTHENTICATED, ErrorKind.DENIED, ErrorKind.NOT_FOUND, ErrorKind.PRECONDITION, ErrorKind.CONFLICT}
)


class Sweep:
    """Looks for pending settlements at the start and every `every_seconds`. Idempotent, so replicas may overlap.

    A settlement whose token has expired lapses: its hold expires into `assumed`, which charges the bound and shows it.
    """

    def __init__(
        self, *, calls: SettlementStore, holds: Holds, clock: Clock, every_seconds: float, retention: timedelta
    ) -> None:
        self._calls = calls
        self._holds = holds
        self._clock = clock
        self._every_seconds = every_seconds
        self._retention = retention

    async def __call__(self) -> None:
        """Sweeps until cancelled."""
        leave_alone = timedelta(0)
        while True:
            try:
                await self.settle_pending(leave_alone=leave_alone)
                await self._calls.forget_expired(before=self._clock.now() - self._retention, most=_FORGET_AT_ONCE)
            except MeshError as error:
                log.warning("the sweep was cut short", error=error.message)
            leave_alone = _LEAVE_ALONE
            await self._clock.sleep(self._every_seconds)

    async def settle_pending(self, *, leave_alone: timedelta = _LEAVE_ALONE) -> int:
        """Settles what is pending for longer than `leave_alone`; returns how many are not pending any more."""
        pending = await self._calls.pending(before=self._clock.now() - leave_alone, most=_AT_ONCE)
        done = 0
        for one in pending:
            settlement = await self._settle(one)
            if settlement is not None:
                await self._calls.mark_settled([settlement])
                done += 1
        if pending:
            log.info("pending settlements were looked at", found=len(pending), done=done)
        return done

    async def _settle(self, one: PendingSettlement) -> Settlement | None:
        principal = Principal(tenant=one.key.tenant, subject="sweep", roles=frozenset(), token=one.token)
        charged: NanoUsd | None
        try:
            charged = await self._holds.settle(principal, one.hold_id, one.usage)
        except MeshError as error:
            # Another transaction only stood in the way: the next round finds it gone.
            if error.kind not in _HOPELESS or error.reason == TransactionConflict.reason:
                return None
            log.warning("a settlement lapses", hold_id=one.hold_id, reason=error.reason)
            charged = None
        return Settlement(key=one.key, hold_id=one.hold_id, charged=charged)
