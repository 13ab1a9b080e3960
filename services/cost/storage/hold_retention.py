"""Removes holds of calls that ended long ago. What they came to stays in the ledger."""

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.sql.scope import driver_scope

#: Ids ascend with time, so those of old holds come first; no other index is needed to find them.
#: Whatever a call has in hand right now is left to the next time. A charge at a ceiling stays until a list prices it.
_FORGET: Final = """
    WITH walked AS MATERIALIZED (
        SELECT id, created_time FROM hold WHERE id > $1 ORDER BY id LIMIT $3
    ), ended AS MATERIALIZED (
        SELECT id FROM hold WHERE id = ANY(ARRAY(SELECT id FROM walked WHERE created_time < $2)) AND state IN (3, 4, 5)
            AND (state = 4 OR ceiling_nano_usd_per_million IS NULL)
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM hold USING ended WHERE hold.id = ended.id RETURNING hold.id
    )
    SELECT (SELECT count(*) FROM gone) AS removed, (array_agg(id ORDER BY id DESC))[1] AS last,
           count(*) FILTER (WHERE created_time < $2) AS old
    FROM walked"""
_MARK: Final = "UPDATE rollup_mark SET holds_from = $1 WHERE holds_from IS NULL OR holds_from < $1"
_FIRST: Final = UUID(int=0)


class HoldRetention:
    """Holds of all tenants. Only the maintenance role removes them."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def forget(self, before: datetime, *, most: int) -> int:
        """See `OldHolds.forget`."""
        removed, last = 0, _FIRST
        while True:
            async with driver_scope(self._engine, None) as scope:
                done = await scope.driver.fetchrow(_FORGET, last, before, most)
                if done is None or not done["old"]:
                    return removed
                if done["removed"]:
                    # Who prices charges anew is told in the same transaction that some are gone.
                    await scope.driver.execute(_MARK, before)
                    await scope.commit()
            removed, last = removed + int(done["removed"]), done["last"]
