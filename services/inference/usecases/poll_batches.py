"""Carries batches on: any number of replicas, each with those that it leases."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Final

from services.inference.usecases.batch_ports import BatchStore, LeasedBatch, LeaseLost
from services.inference.usecases.carry_batch import CarryBatch
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Batches that a replica carries on at once.
_AT_ONCE: Final = 4
_LEASE: Final = timedelta(seconds=60)
_RENEW_SECONDS: Final = 20.0
#: Longest pause between two looks for batches that are due.
_MOST_IDLE_SECONDS: Final = 1.0
#: So many usual pauses after a step that something stood in the way of.
_SETBACK: Final = 4
_FORGET_SECONDS: Final = 900.0
_FORGET_AT_ONCE: Final = 20


class PollBatches:
    """Looks for batches that are due, and takes a step with each.

    Args:
        every: usual pause between two looks at a batch; half to all of it, so that replicas and batches spread.
        retention: how long a batch is kept after its end.
    """

    def __init__(
        self,
        *,
        store: BatchStore,
        carry: CarryBatch,
        every: timedelta,
        retention: timedelta,
        clock: Clock,
        dice: Random,
    ) -> None:
        self._store = store
        self._carry = carry
        self._every = every
        self._retention = retention
        self._clock = clock
        self._dice = dice

    async def __call__(self) -> None:
        """Polls until cancelled."""
        forgot = self._clock.monotonic()
        away = False
        while True:
            try:
                await self.round()
                if self._clock.monotonic() - forgot > _FORGET_SECONDS:
                    forgot = self._clock.monotonic()
                    await self._store.forget(older=self._retention, most=_FORGET_AT_ONCE)
                away = False
            except MeshError as error:
                if not away:
                    log.warning("batches cannot be looked at right now", error=error.message)
                away = True
            idle = min(_MOST_IDLE_SECONDS, self._every.total_seconds())
            await self._clock.sleep(idle * self._dice.uniform(0.5, 1.0))

    async def round(self) -> int:
        """Takes a step with each batch that is due, a few at a time; says with how many."""
        leased = await self._store.take(most=_AT_ONCE, lease=_LEASE)
        await asyncio.gather(*(self._step(one) for one in leased))
        return len(leased)

    async def _step(self, leased: LeasedBatch) -> None:
        pause = self._every * self._dice.uniform(0.5, 1.0)
        renewing = asyncio.create_task(self._renew(leased), name="renew a batch's lease")
        try:
            leased, wanted = await self._carry(leased)
            pause = pause if wanted is None else wanted
        except LeaseLost:
            log.info("another replica carries a batch on", batch_id=leased.job.name)
            return
        except MeshError as error:
            log.warning("a batch waits", batch_id=leased.job.name, reason=error.reason, error=error.message)
            pause = max(pause * _SETBACK, error.retry_after or timedelta())
        except Exception:
            # Such as a row that another release wrote: other batches go on.
            log.exception("a batch cannot be carried on", batch_id=leased.job.name)
            pause *= _SETBACK
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError, LeaseLost):
                await renewing
        await self._store.hand_back(leased, look_in=pause)

    async def _renew(self, leased: LeasedBatch) -> None:
        """Keeps the lease while a step takes long. One that is lost shows when the step writes."""
        while True:
            await self._clock.sleep(_RENEW_SECONDS)
            with suppress(MeshError):
                await self._store.renew(leased, lease=_LEASE)
