"""Where the replicas of the orchestrator are, in the table in which each says that it is alive."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.sql.scope import driver_scope

_ANNOUNCE: Final = "UPDATE engine_replica SET address = $2 WHERE owner = $1 AND address IS DISTINCT FROM $2"
_OTHERS: Final = """
    SELECT owner, address FROM engine_replica WHERE owner <> $1 AND address IS NOT NULL AND alive_until > now()"""


class SqlReplicas:
    """Implements `clients.worker_loans.Replicas`.

    Args:
        owner: `replica/incarnation` of this one.
        address: at which the others reach it; None when they do not.
    """

    def __init__(self, maintenance: AsyncEngine, *, owner: str, address: str | None) -> None:
        self._maintenance = maintenance
        self._owner = owner
        self._address = address

    async def others(self) -> Mapping[str, str]:
        """See `Replicas.others`."""
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(_ANNOUNCE, self._owner, self._address)
            rows = await scope.driver.fetch(_OTHERS, self._owner)
            await scope.commit()
        return {row["owner"]: row["address"] for row in rows}
