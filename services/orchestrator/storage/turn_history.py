"""Runs by the time of their start."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import driver_scope

#: A run id begins with its time, so a range of ids is a range of time.
_RUNS_STARTED: Final = """
    SELECT run_id FROM run WHERE tenant_id = $1 AND run_id > $2 AND run_id < $3 ORDER BY run_id LIMIT $4"""


class SqlTurnHistory:
    """Implements `usecases.stream_turns.History`."""

    def __init__(self, app: AsyncEngine) -> None:
        self._app = app

    async def put_on_record(self, tenant: TenantId) -> None:
        """See `History.put_on_record`."""
        async with driver_scope(self._app, tenant) as scope:
            await scope.commit()

    async def runs_started(self, tenant: TenantId, *, after: UUID, before: UUID, most: int) -> Sequence[UUID]:
        """See `History.runs_started`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            rows = await scope.driver.fetch(_RUNS_STARTED, tenant, after, before, most)
        return [UUID(int=row["run_id"].int) for row in rows]
