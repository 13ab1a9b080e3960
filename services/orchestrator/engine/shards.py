"""Keeps the leases of this replica's shards, and its fair part of all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.ports import Leases
from services.orchestrator.engine.run import ShardLease

log = logger(__name__)

#: Shards taken in one round; the runs of each are read before those of the next round.
_CLAIMED_AT_ONCE: Final = 64


class ShardKeeper:
    """Asked in rounds. What it gained and lost is told at once, shard by shard.

    Args:
        owner: `replica/incarnation`.
        gained, lost: told of leases. What was lost must not be written to any more.
    """

    def __init__(
        self,
        *,
        owner: str,
        leases: Leases,
        gained: Callable[[ShardLease], None],
        lost: Callable[[int], None],
    ) -> None:
        self._owner = owner
        self._leases = leases
        self._gained = gained
        self._lost = lost
        self._held: dict[int, ShardLease] = {}
        self._restarted = True
        metrics.SHARDS_HELD.set_function(self._held.__len__)

    @property
    def held(self) -> Mapping[int, ShardLease]:
        """The leases, by shard."""
        return self._held

    async def keep(self) -> None:
        """Extends what is held, takes what is free, hands over what is more than a fair part. Raises: MeshError."""
        asked = dict(self._held)
        holdings = await self._leases.hold(
            self._owner, list(asked.values()), restarted=self._restarted, most=_CLAIMED_AT_ONCE
        )
        self._restarted = False
        now = {lease.shard: lease for lease in holdings.leases}
        for shard, lease in asked.items():
            if self._held.get(shard) == lease and now.get(shard) != lease:
                log.warning("lease lost", shard=shard)
                metrics.SHARDS_LOST.inc()
                self.forget(shard)
        for shard, lease in now.items():
            if shard not in asked:
                self._held[shard] = lease
                self._gained(lease)
        await self._hand_over(len(self._held) - holdings.share)

    async def _hand_over(self, surplus: int) -> None:
        """Gives up the newest of the shards that are too many, for a replica that has fewer."""
        if surplus <= 0:
            return
        given = list(self._held.values())[-surplus:]
        for lease in given:
            self.forget(lease.shard)
        await self._leases.release(self._owner, given, leaving=False)
        log.info("shards handed over", shards=len(given))

    def forget(self, shard: int) -> None:
        """Stops using a shard that was lost or is given up."""
        if self._held.pop(shard, None) is not None:
            self._lost(shard)

    async def leave(self) -> None:
        """Ends all leases. Raises: MeshError: they run out by themselves."""
        given: Sequence[ShardLease] = list(self._held.values())
        for lease in given:
            self.forget(lease.shard)
        await self._leases.release(self._owner, given, leaving=True)
