"""Carries batches on: any number of replicas, each with those that it leases."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Final

from services.inference.usecases.batch_ports import BatchStore, LeasedBatch, LeaseLost
from services.inference.usecases.carry_batch import CarryBatch
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Batches that a replica carries on at once.
_AT_ONCE: Final = 4
#: Of one tenant, on all replicas: a provider that is slow to answer one tenant holds up no other.
_OF_ONE_TENANT: Final = 2
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
        self._forgot = clock.monotonic()
        self._away = False

    async def __call__(self) -> None:
        """Polls until cancelled. Each step has a seat, which the next batch gets as soon as that step is done."""
        seats = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as steps:
            while True:
                await seats.acquire()
                leased = await self._next()
                if leased is None:
                    seats.release()
                    idle = min(_MOST_IDLE_SECONDS, self._every.total_seconds())
                    await self._clock.sleep(idle * self._dice.uniform(0.5, 1.0))
                else:
                    step = steps.create_task(self._step(leased), name="carry a batch on")
                    step.add_done_callback(lambda _: seats.release())

    async def _next(self) -> LeasedBatch | None:
        """Leases a batch that is due; None: there is none, or nobody can say."""
        leased: LeasedBatch | None = None
        try:
            leased = next(iter(await self._store.take(most=1, of_one_tenant=_OF_ONE_TENANT, lease=_LEASE)), None)
            if self._clock.monotonic() - self._forgot > _FORGET_SECONDS:
                self._forgot = self._clock.monotonic()
                await self._store.forget(older=self._retention, most=_FORGET_AT_ONCE)
            self._away = False
        except MeshError as error:
            if not self._away:
                log.warning("batches cannot be looked at right now", error=error.message)
            self._away = True
        except Exception:
            # Whatever it is, all other work of this replica goes on.
            if not self._away:
                log.exception("batches cannot be read")
            self._away = True
        return leased

    async def _step(self, leased: LeasedBatch) -> None:
        """Takes a step, and says when to look again. Nothing that happens in it ends more than the step."""
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
            metrics.MODEL_BATCH_SETBACKS.labels(error.kind.value).inc()
            pause = max(pause * _SETBACK, error.retry_after or timedelta())
        except asyncio.CancelledError:
            if _is_ending():
                raise
            # Something inside the step was cancelled, and this task was not.
            log.exception("a step with a batch was broken off", batch_id=leased.job.name)
            pause *= self._setback()
        except Exception:
            # Such as a row that another release wrote: other batches go on.
            log.exception("a batch cannot be carried on", batch_id=leased.job.name)
            pause *= self._setback()
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        try:
            await self._store.hand_back(leased, look_in=pause)
        except MeshError as error:
            # It is looked at again once the lease has ended.
            log.warning("a batch keeps its lease", batch_id=leased.job.name, error=error.message)
        except Exception:
            log.exception("a batch keeps its lease", batch_id=leased.job.name)

    @staticmethod
    def _setback() -> int:
        """Counts what was nobody's plan; gives how much longer to wait after it."""
        metrics.MODEL_BATCH_SETBACKS.labels(ErrorKind.INTERNAL.value).inc()
        return _SETBACK

    async def _renew(self, leased: LeasedBatch) -> None:
        """Keeps the lease while a step takes long. One that is lost shows when the step writes."""
        while True:
            await self._clock.sleep(_RENEW_SECONDS)
            with suppress(MeshError):
                await self._store.renew(leased, lease=_LEASE)


def _is_ending() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
