"""Keeps how models were used on each day that is over, so that advice need not look through the calls of a month."""

from datetime import UTC, datetime, timedelta
from typing import Final

from services.cost.domain.recommendation import MOST_DAYS
from services.cost.domain.rollup import Step
from services.cost.usecases.forecast_ports import KeptUses
from services.cost.usecases.outage import passes
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry.logs import logger

#: A charge of a day's last moment is committed by then.
_SETTLED: Final = timedelta(minutes=10)
_DAY: Final = timedelta(days=1)
_EVERY_SECONDS: Final = 60.0

log = logger(__name__)


class KeepUses:
    """Counts the calls of each tenant's days in the background. Several replicas may: a day is kept once."""

    def __init__(self, *, uses: KeptUses, clock: Clock) -> None:
        self._uses = uses
        self._clock = clock
        self._kept_to = datetime.min.replace(tzinfo=UTC)

    async def __call__(self) -> None:
        """Works until cancelled; an outage of the database only delays it."""
        while True:
            try:
                await self.once()
            except MeshError as error:
                if not passes(error):
                    raise
                log.warning("the use of models is not counted", reason=error.reason, cause=error.message)
            await self._clock.sleep(_EVERY_SECONDS)

    async def once(self) -> int:
        """Keeps the days that are over and that nobody has kept; gives how many lines that were."""
        end = Step.DAY.floor(self._clock.now() - _SETTLED)
        if end <= self._kept_to:
            return 0
        start = end - MOST_DAYS * _DAY
        kept = 0
        for tenant, last in await self._uses.behind(start=start, end=end):
            day = start if last is None else max(start, last.astimezone(UTC) + _DAY)
            while day < end:
                kept += await self._uses.keep(tenant, day)
                day += _DAY
        await self._uses.forget(start)
        self._kept_to = end
        return kept
