"""A call as it is recorded: same id, same intent, same outcome."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.inference.domain.answer import Answer
from services.inference.domain.errors import LawBlocked
from services.meshkit.content import CallId, Usage
from services.meshkit.core.identity import TenantId


class SettleState(StrEnum):
    """Where the money of a recorded call is."""

    #: The usage is known and cost has not confirmed it.
    PENDING = "pending"
    #: Cost has charged it.
    SETTLED = "settled"
    #: The provider reported no usage: the hold expires into `assumed` by itself.
    ASSUMED = "assumed"
    #: No token of the tenant was left to settle with: as ASSUMED, and visible as a reason of its own.
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """Which call, of whom."""

    tenant: TenantId
    call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """The law stopped a call after the model had answered. Recorded, so that a repeat costs nothing."""

    verdict_id: str
    rules: tuple[str, ...]
    bundle: str

    def error(self) -> LawBlocked:
        """Gives the error that every asker of this call gets."""
        return LawBlocked(verdict_id=self.verdict_id, stage="after", rules=self.rules, bundle=self.bundle)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call whose outcome is durable."""

    key: CallKey
    arguments_hash: bytes
    outcome: Answer | Blocked
    hold_id: str
    #: What is to be charged; zero when the provider did not say.
    usage: Usage
    settle_state: SettleState
    #: What was charged, once settled, nano-USD.
    charged: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSettlement:
    """Usage that cost has not confirmed yet, and the token to confirm it with."""

    key: CallKey
    hold_id: str
    usage: Usage
    #: Access token of the caller; kept sealed, and only until the call is settled.
    token: str
    recorded_time: datetime
