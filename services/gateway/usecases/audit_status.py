"""Says whether the trail is whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.domain.audit_stream import KnownBreak
from services.gateway.usecases.audit_ports import AuditReader, AuditTrails
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, Role

_MOST_BREAKS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailStatus:
    """The state of a tenant's trail and of what feeds it."""

    #: For operators of the installation; empty for others.
    breaks: Sequence[KnownBreak]
    #: How many breaks somebody has looked into; for everybody.
    acknowledged: int
    size: int
    head: Head | None
    unreachable: Sequence[str]
    #: How the tenant's trail contradicts what was signed; None when it does not.
    contradiction: str | None
    whole: bool


class AuditStatus:
    """Puts together what is known."""

    def __init__(self, *, reader: AuditReader, trails: AuditTrails, health: AuditHealth, clock: Clock) -> None:
        self._reader = reader
        self._trails = trails
        self._health = health
        self._clock = clock

    async def __call__(self, caller: Caller) -> TrailStatus:
        """Gives the state as the caller may see it."""
        tenant = caller.principal.tenant
        counts = await self._trails.count_breaks()
        shown = Role.OPERATOR in caller.principal.roles
        contradiction = self._health.contradictions.get(tenant)
        return TrailStatus(
            breaks=await self._trails.breaks(most=_MOST_BREAKS) if shown else (),
            acknowledged=counts.acknowledged,
            size=await self._reader.size(tenant),
            head=await self._reader.newest_head(tenant),
            unreachable=tuple(self._health.unreachable()),
            contradiction=contradiction,
            whole=not counts.open and contradiction is None and self._health.is_fresh(self._clock.monotonic()),
        )
