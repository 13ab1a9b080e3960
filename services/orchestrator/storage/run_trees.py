"""Counts the runs that lie below one that somebody started."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.domain.sub_run_id import ids_of_tree

#: Of so many that nobody wants to know how many there are, no more are looked at.
_BELOW: Final = """
    SELECT count(*) FROM (
        SELECT 1 FROM run WHERE tenant_id = $1 AND run_id BETWEEN $2 AND $3 LIMIT $4) AS below"""


class SqlRunTrees:
    """Implements `usecases.ports.RunTrees`."""

    def __init__(self, app: AsyncEngine) -> None:
        self._app = app

    async def below(self, tenant: TenantId, sub_run_id: str, *, most: int) -> int:
        """See `RunTrees.below`."""
        first, last = ids_of_tree(sub_run_id)
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            count: int = await scope.driver.fetchval(_BELOW, tenant, first, last, most)
        return count
