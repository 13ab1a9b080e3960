"""Keeps token buckets in Postgres, so that several gateways agree."""

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.storage.one_trips import FORGET_FULL_BUCKETS, LEASE_RATE
from services.gateway.usecases.rate_ports import Lease
from services.meshkit.core.rate import Ask
from services.meshkit.sql.one_trip import one_trip


class SqlRateBuckets:
    """Implements `usecases.rate_ports.RateBuckets`.

    Leases take turns, so that a flood of them never takes more than one connection from the other background work.
    """

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance
        self._turn = asyncio.Semaphore(1)

    async def lease(self, asks: Sequence[Ask]) -> list[Lease]:
        """See `RateBuckets.lease`."""
        columns = (
            [ask.bucket for ask in asks],
            [ask.per_second for ask in asks],
            [ask.burst for ask in asks],
            [ask.tokens for ask in asks],
            [ask.spent for ask in asks],
            [ask.unused for ask in asks],
        )
        async with self._turn:
            rows = await one_trip(self._engine, None, LEASE_RATE, *columns)
        found = {row["bucket"]: Lease(tokens=row["granted"], remaining=row["tokens"]) for row in rows}
        return [found[ask.bucket] for ask in asks]

    async def forget_full(self, most: int) -> int:
        """See `RateBuckets.forget_full`."""
        rows = await one_trip(self._engine, None, FORGET_FULL_BUCKETS, most)
        return int(rows[0]["forgotten"])
