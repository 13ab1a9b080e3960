"""A call of a tool as it is recorded: same id, same intent, same outcome."""

from dataclasses import dataclass, replace
from enum import StrEnum

from services.meshkit.content import CallKey, Label, Part
from services.tools.domain.errors import LawBlocked


class CallState(StrEnum):
    """Where a recorded call is. Both kinds of tools only read, so a call that was left `dispatched` may run again."""

    #: It may have left; nobody has recorded an outcome.
    DISPATCHED = "dispatched"
    #: The tool answered.
    CONFIRMED = "confirmed"
    #: The tool failed and said why.
    FAILED = "failed"
    #: The law keeps the result back.
    BLOCKED = "blocked"


class SettleState(StrEnum):
    """Where the money of a recorded call is."""

    #: Nothing is owed: it came from cache, or nothing was sent.
    FREE = "free"
    #: Owed, and cost has not confirmed it.
    PENDING = "pending"
    #: Cost has charged it.
    SETTLED = "settled"
    #: No token of the tenant was left to settle with: the hold expires into `assumed`.
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput:
    """What a tool said."""

    text: str
    #: True when the tool failed and the text says why.
    failed: bool = False
    #: False when nothing was sent, so that nothing is owed.
    sent: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """A finished call with everything that the record needs."""

    parts: tuple[Part, ...]
    failed: bool
    #: Version that was called, `name@version`.
    tool: str
    #: Empty when the result came from cache.
    hold_id: str
    cost_nano_usd: int
    verdict_ids: tuple[str, ...]
    cached: bool
    elapsed_us: int
    bundle_digest: str

    def raised(self, choice: Label) -> "Invocation":
        """Gives the call with labels that are not below `choice`: a repeat may be asked for under a higher label."""
        return replace(self, parts=tuple(replace(part, label=part.label.joined(choice)) for part in self.parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """The law keeps a result back. Recorded, so that a repeat neither runs nor costs."""

    verdict_id: str
    #: `during` or `after`.
    stage: str
    rules: tuple[str, ...]
    bundle: str

    def error(self) -> LawBlocked:
        """Gives the error that every asker of this call gets."""
        return LawBlocked(verdict_id=self.verdict_id, stage=self.stage, rules=self.rules, bundle=self.bundle)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call whose outcome is durable."""

    key: CallKey
    arguments_hash: bytes
    tool: str
    outcome: Invocation | Blocked
    #: Empty when the result came from cache.
    hold_id: str
    settle_state: SettleState
    #: What was charged, once settled, nano-USD.
    charged: int | None = None

    @property
    def state(self) -> CallState:
        """How it ended."""
        if isinstance(self.outcome, Blocked):
            return CallState.BLOCKED
        return CallState.FAILED if self.outcome.failed else CallState.CONFIRMED
