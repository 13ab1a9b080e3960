"""What a model answers, piece by piece and as a whole."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.meshkit.content import Part, ToolCallPart, Usage
from services.meshkit.content.law import RuleOutcome


class StopReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    #: The provider withheld the answer.
    CONTENT_FILTER = "content_filter"
    #: The model refuses to answer.
    REFUSAL = "refusal"


#: Why an answer may say nothing.
WITHHELD: Final = frozenset({StopReason.CONTENT_FILTER, StopReason.REFUSAL})


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that a provider sent; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Thinking that a provider sent: a sign of life, neither shown nor kept."""

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


#: What a provider sends, piece by piece; `Finished` is the last one.
Piece = TextDelta | ReasoningDelta | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An answer that a provider sent as one."""

    text: str
    finished: Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptNote:
    """One deployment asked for an answer, and what came of it."""

    deployment: str
    version: int
    #: Hold that paid for it; empty when it came to none.
    hold_id: str
    #: Why it failed; empty for the one that answered.
    reason: str
    #: False when the provider did not report usage: its hold is charged at its bound.
    usage_known: bool
    #: Time from the first byte sent to the last received, microseconds.
    provider_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChoice:
    """Why a deployment was asked: what a route chose, and how."""

    route: str
    #: How the route chooses, such as `tiered`.
    mode: str
    #: Of the deployment, such as `gold`.
    tier: str
    #: Whether it was likely to answer within the route's time; None: the route names none.
    keeps_sla: bool | None


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
    #: Every deployment that was asked, in order; the one that answered last.
    attempts: tuple[AttemptNote, ...] = ()
    #: Name of the deployment that answered, and its version.
    deployment: str = ""
    deployment_version: int = 0
    #: True when the answer was kept from an equal call. Said of an answer that is given, never recorded.
    cached: bool = False
    #: How near the question was that a `cached` answer was given to; 0: it was this one. Said as `cached` is.
    cache_similarity: float = 0.0
    #: Times that this call was lost before: a hold of each is charged, and nobody got the answer.
    lost_attempts: int = 0
    #: Times that a model was asked again because its answer did not keep the wanted form.
    repairs: int = 0
    #: Deployment that continued the text of another that broke off; empty: nobody had to.
    continued_by: str = ""
    #: Time from the first byte sent to the first received, microseconds.
    first_byte_us: int = 0
    #: Why the deployment that answered was asked; None: the call named it, or it stands in the chain of the settings.
    choice: RouteChoice | None = None


@dataclass(frozen=True, slots=True)
class Restarted:
    """Another deployment starts the answer again: released text is void."""

    deployment: str


@dataclass(frozen=True, slots=True)
class Continued:
    """Another deployment continues the released text."""

    deployment: str


#: What a caller who streams sees: released text, a restart, a continuation, and the answer as the last event.
StreamEvent = TextDelta | Restarted | Continued | Answer
