"""Leases of shards: which replica may write to the runs of which shard."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.sql.scope import driver_scope
from services.orchestrator.engine.run import (
    SHARDS,
    Holdings,
    ShardLease,
)
from services.orchestrator.storage.advisory_locks import SHARD_LOCK

#: Life of a lease, in database time. An owner that does not extend it in time loses its runs.
_LEASE: Final = timedelta(seconds=15)
#: A replica that has not said for so long that it is alive takes no share of the shards.
_BEAT: Final = """
    INSERT INTO engine_replica (owner, alive_until) VALUES ($1, now() + $2::interval)
    ON CONFLICT (owner) DO UPDATE SET alive_until = excluded.alive_until"""
_BURY: Final = """
    DELETE FROM engine_replica WHERE alive_until < now() OR ($1 AND split_part(owner, '/', 1) = $2 AND owner <> $3)"""
_ALIVE: Final = "SELECT count(*) FROM engine_replica"
_EXTEND: Final = """
    UPDATE shard SET lease_until = now() + $4::interval
    FROM unnest($2::smallint[], $3::bigint[]) AS held (number, epoch)
    WHERE shard.shard = held.number AND shard.epoch = held.epoch AND shard.owner = $1
    RETURNING shard.shard, shard.epoch"""
#: A commit under way keeps its shards from being taken over; they are tried again in the next round.
_CLAIM: Final = f"""
    WITH free AS (
        SELECT shard FROM shard
        WHERE owner IS NULL OR lease_until < now() OR (owner = $1 AND shard <> ALL($5::smallint[]))
            OR ($3 AND split_part(owner, '/', 1) = $6 AND owner <> $1)
        ORDER BY shard LIMIT $2 FOR UPDATE SKIP LOCKED)
    UPDATE shard SET owner = $1, epoch = epoch + 1, lease_until = now() + $4::interval
    FROM free WHERE shard.shard = free.shard AND pg_try_advisory_xact_lock({SHARD_LOCK}, free.shard)
    RETURNING shard.shard, shard.epoch"""  # noqa: S608  # a constant of ours
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
        replica = owner.partition("/")[0]
        numbers, epochs = [lease.shard for lease in leases], [lease.epoch for lease in leases]
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(_BEAT, owner, _LEASE)
            await scope.driver.execute(_BURY, restarted, replica, owner)
            held = await scope.driver.fetch(_EXTEND, owner, numbers, epochs, _LEASE)
            share = -(-SHARDS // await scope.driver.fetchval(_ALIVE))
            wanted = max(0, min(share - len(held), SHARDS if most is None else most))
            held += await scope.driver.fetch(_CLAIM, owner, wanted, restarted, _LEASE, numbers, replica)
            await scope.commit()
        return Holdings(leases=tuple(ShardLease(shard=row["shard"], epoch=row["epoch"]) for row in held), share=share)

    async def release(self, owner: str, leases: Sequence[ShardLease], *, leaving: bool) -> None:
        """See `Leases.release`."""
        numbers, epochs = [lease.shard for lease in leases], [lease.epoch for lease in leases]
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(_RELEASE, owner, numbers, epochs)
            if leaving:
                await scope.driver.execute(_RELEASE_ALL, owner)
                await scope.driver.execute(_LEAVE, owner)
            await scope.commit()
