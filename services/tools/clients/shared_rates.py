"""Counts the calls of tools together with all replicas, from slices leased at the gateway."""

from typing import Final

from services.meshkit.core.identity import TenantId
from services.meshkit.guard.rate import RateGate

_SECONDS: Final = 60.0


class SharedRates:
    """Implements `usecases.ports.RateLimits`. docs/decisions/0004-rate-limits.md says what is admitted at most."""

    def __init__(self, gate: RateGate) -> None:
        self._gate = gate

    async def take(self, tenant: TenantId, tool: str, *, per_minute: int) -> float:
        """See `RateLimits.take`."""
        return await self._gate.take(("tool", tool, tenant), per_second=per_minute / _SECONDS, burst=float(per_minute))
