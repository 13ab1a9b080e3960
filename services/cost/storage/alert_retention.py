"""Removes alerts of long ago."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.sql.scope import driver_scope

#: Ids ascend with time, so old alerts come first; no other index is needed to find them. A clock that runs ahead of the
#: database's must not make everything old.
_FORGET: Final = tuple(
    f"""
    DELETE FROM {table} WHERE id = ANY(ARRAY(
        SELECT id FROM (SELECT id, {ended} AS ended FROM {table} ORDER BY id LIMIT $3) AS first
        WHERE ended < least($1::timestamptz, now()) - $2::interval))"""  # noqa: S608 - names are constants
    for table, ended in (("budget_alert", "created_time"), ("spend_alert", "closed_time"))
)


class AlertRetention:
    """Alerts of all tenants, of budgets and on spend. Only the maintenance role removes them."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def forget(self, now: datetime, *, keep: timedelta, most: int) -> int:
        """See `OldAlerts.forget`."""
        removed = 0
        for statement in _FORGET:
            async with driver_scope(self._engine, None) as scope:
                done = await scope.driver.execute(statement, now, keep, most)
                await scope.commit()
            removed += int(done.rpartition(" ")[2])
        return removed
