"""Asks the ledger itself whether money is held for a call, behind the back of all services."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from services.cost.domain.hold import HoldState
from services.meshkit.core.errors import Invalid
from services.meshkit.core.ids import to_uuid

#: Tells whether money is held for a call that has left, by the id of its hold.
Ledger = Callable[[str], Awaitable[bool]]

_MOST_CONNECTIONS: Final = 4
_PAUSE_SECONDS: Final = 0.1
#: Postgres is away, or coming back.
AWAY: Final = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError)


@asynccontextmanager
async def held_calls(url: str) -> AsyncGenerator[Ledger]:
    """Gives who looks into the database of cost while the block runs.

    While Postgres is down the question waits, as long as whoever asked does.

    Args:
        url: of the database, as a role that sees all tenants.
    """
    async with asyncpg.create_pool(url, min_size=0, max_size=_MOST_CONNECTIONS) as pool:

        async def held(hold_id: str) -> bool:
            try:
                hold = to_uuid(hold_id, "hold")
            except Invalid:
                return False
            while True:
                try:
                    state = await pool.fetchval("SELECT state FROM hold WHERE id = $1", hold)
                except AWAY:
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    return state == HoldState.DISPATCHED

        yield held
