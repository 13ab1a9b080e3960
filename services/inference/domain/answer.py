"""What a model answers, piece by piece and as a whole."""

from dataclasses import dataclass
from enum import StrEnum

from services.meshkit.content import Part, ToolCallPart, Usage
from services.meshkit.content.law import RuleOutcome


class StopReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that a provider sent; never empty."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a provider's answer; a stream without it has failed."""

    stop_reason: StopReason
    #: None when the provider did not say; then the hold expires into `assumed`.
    usage: Usage | None
    tool_calls: tuple[ToolCallPart, ...] = ()
    #: Model that answered, as the provider names it.
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's answer with everything that the record needs."""

    parts: tuple[Part, ...]
    stop_reason: StopReason
    usage: Usage
    #: False when the provider did not report usage: `usage` is then zero and the hold is charged at its bound.
    usage_known: bool = True
    provider: str
    model: str
    hold_id: str
    cost_nano_usd: int
    verdict_ids: tuple[str, ...]
    bundle_digest: str
    rules: tuple[RuleOutcome, ...]
    #: Time from the first byte sent to the last received, microseconds.
    provider_us: int
    stub: bool = False
    replayed: bool = False
    #: Calls tried before and failed, in order, as `deployment: reason`.
    failed_attempts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restarted:
    """Another deployment starts the answer again: released text is void."""

    deployment: str


#: What a caller who streams sees: released text, a restart, and the answer as the last event.
StreamEvent = TextDelta | Restarted | Answer
