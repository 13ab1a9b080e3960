"""Keeps the journal's partitions: months ahead are made, past ones that are empty are dropped."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.sql.scope import driver_scope
from services.meshkit.telemetry.logs import logger
from services.orchestrator.usecases.keeping_round import keeping_round

#: Months for which there are partitions besides the present one: so long may maintenance fail before rows go to the
#: default partition, from where they are moved as soon as it works again.
MONTHS_AHEAD: Final = 3
ROUND_SECONDS: Final = 3_600.0

log = logger(__name__)


class JournalMonths:
    """A `Background` of the orchestrator; replicas take turns.

    Args:
        engine: of the `maintenance` role.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def __call__(self) -> None:
        """Works until cancelled."""
        while True:
            await keeping_round("partitions", self.keep, fault="partitions of the journal are not kept right now")
            await self._clock.sleep(ROUND_SECONDS)

    async def keep(self) -> tuple[int, int]:
        """Returns: how many partitions were made, and how many dropped. Raises: MeshError."""
        made = await self._call("SELECT make_journal_months($1)", MONTHS_AHEAD)
        dropped = await self._call("SELECT drop_journal_months()")
        if made or dropped:
            log.info("partitions of the journal", made=made, dropped=dropped)
        return made, dropped

    async def _call(self, statement: str, *values: object) -> int:
        async with driver_scope(self._engine, None) as scope:
            count: int = await scope.driver.fetchval(statement, *values)
            await scope.commit()
        return count
