"""What this gateway knows about the state of the audit trail."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from services.meshkit.core.identity import TenantId

#: A service that was not reached for this long makes the trail count as not whole, seconds.
FRESH_SECONDS: Final = 60.0


@dataclass(slots=True)
class AuditHealth:
    """Kept by one process; the gaps that were found are in the database."""

    #: When each service was last asked with success, monotonic seconds; None before that.
    asked: dict[str, float | None] = field(default_factory=dict[str, float | None])
    #: Services whose last pull failed, with the sentence why.
    away: dict[str, str] = field(default_factory=dict[str, str])
    #: Tenants whose stored trail contradicts a signed head, with the sentence how.
    contradictions: dict[TenantId, str] = field(default_factory=dict[TenantId, str])

    def is_fresh(self, now: float) -> bool:
        """True when every service was asked within the last minute."""
        return all(at is not None and now - at <= FRESH_SECONDS for at in self.asked.values())

    def unreachable(self) -> Mapping[str, str]:
        """Services that could not be asked at the last attempt."""
        return {name: self.away[name] for name in sorted(self.away)}
