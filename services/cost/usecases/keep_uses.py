"""Keeps how models were used on each day that is over, so that advice need not look through the calls of a month."""

from datetime import UTC, datetime, timedelta
from typing import Final

from services.cost.domain.recommendation import MOST_DAYS
from services.cost.domain.rollup import Step
from services.cost.usecases.forecast_ports import KeptUses
from services.cost.usecases.rounds import for_each, make_round
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId

#: A charge of a day's last moment is committed by then.
_SETTLED: Final = timedelta(minutes=10)
_DAY: Final = timedelta(days=1)
_EVERY_SECONDS: Final = 60.0
_NOT_COUNTED: Final = "the use of models is not counted"


class KeepUses:
    """Counts the calls of each tenant's days in the background. Several replicas may: a day is kept once."""

    def __init__(self, *, uses: KeptUses, clock: Clock) -> None:
        self._uses = uses
        self._clock = clock
        self._kept_to = datetime.min.replace(tzinfo=UTC)

    async def __call__(self) -> None:
        """Works until cancelled. While it cannot, advice counts the calls themselves."""
        while True:
            await make_round("uses", self.once, fault=_NOT_COUNTED)
            await self._clock.sleep(_EVERY_SECONDS)

    async def once(self) -> int:
        """Keeps the days that are over and that nobody has kept; gives how many lines that were."""
        end = Step.DAY.floor(self._clock.now() - _SETTLED)
        if end <= self._kept_to:
            return 0
        start = end - MOST_DAYS * _DAY
        behind = dict(await self._uses.behind(start=start, end=end))
        kept = 0

        async def keep(tenant: TenantId) -> None:
            nonlocal kept
            last = behind[tenant]
            day = start if last is None else max(start, last.astimezone(UTC) + _DAY)
            while day < end:
                kept += await self._uses.keep(tenant, day)
                day += _DAY

        await for_each("uses", behind, keep, fault=_NOT_COUNTED)
        await self._uses.forget(start)
        self._kept_to = end
        return kept
