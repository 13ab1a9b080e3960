"""Leases of shards: which replica may write to the runs of which shard."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.engine.run import (
    SHARDS,
    Holdings,
    ShardLease,
)
from services.orchestrator.storage.one_trips import HOLD_SHARDS

#: Life of a lease, in database time. An owner that does not extend it in time loses its runs.
_LEASE: Final = timedelta(seconds=15)
_RELEASE: Final = """
    UPDATE shard SET owner = NULL, lease_until = NULL FROM unnest($2::smallint[], $3::bigint[]) AS held (number, epoch)
    WHERE shard.shard = held.number AND shard.epoch = held.epoch AND shard.owner = $1"""
#: Also what a claim has taken of which the owner never heard.
_RELEASE_ALL: Final = "UPDATE shard SET owner = NULL, lease_until = NULL WHERE owner = $1"
_LEAVE: Final = "DELETE FROM engine_replica WHERE owner = $1"


class SqlLeases:
    """Implements `engine.ports.Leases`."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._maintenance = maintenance

    async def hold(self, owner: str, leases: Sequence[ShardLease], *, restarted: bool, most: int | None) -> Holdings:
        """See `Leases.hold`."""
        rows = await one_trip(
            self._maintenance,
            None,
            HOLD_SHARDS,
            owner,
            owner.partition("/")[0],
            restarted,
            [lease.shard for lease in leases],
            [lease.epoch for lease in leases],
            _LEASE,
            SHARDS,
            SHARDS if most is None else most,
        )
        share, *held = rows
        return Holdings(
            leases=tuple(ShardLease(shard=row["number"], epoch=row["fence"]) for row in held), share=share["fence"]
        )

    async def release(self, owner: str, leases: Sequence[ShardLease], *, leaving: bool) -> None:
        """See `Leases.release`."""
        numbers, epochs = [lease.shard for lease in leases], [lease.epoch for lease in leases]
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(_RELEASE, owner, numbers, epochs)
            if leaving:
                await scope.driver.execute(_RELEASE_ALL, owner)
                await scope.driver.execute(_LEAVE, owner)
            await scope.commit()
