"""Law as those know it who ask for it: what is shown to it, and what it says."""

from dataclasses import dataclass, field
from enum import StrEnum

from services.meshkit.content.call import CallContext
from services.meshkit.content.part import Part


class Stage(StrEnum):
    """Where in a call the law looks."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is to be judged."""

    stage: Stage
    parts: tuple[Part, ...]
    #: Numbers that resource and threshold rules compare, such as `latency_ms`.
    measures: dict[str, float] = field(default_factory=dict[str, float])
    context: CallContext
    #: Model that is asked, or tool that is called; empty where there is neither.
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOutcome:
    """What one rule said."""

    rule: str
    #: `pass`, `warn`, `redact` or `block`.
    status: str
    elapsed_us: int
    #: `before`, `during` or `after`.
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A deterministic decision over one subject."""

    id: str
    allowed: bool
    rules: tuple[RuleOutcome, ...] = ()
    #: The redacted parts, as many as the subject's and of the same kinds; empty when nothing was redacted.
    parts: tuple[Part, ...] = ()
    bundle_digest: str = ""
    bundle: str = ""

    @property
    def blocking(self) -> tuple[str, ...]:
        """The rules that block."""
        return tuple(outcome.rule for outcome in self.rules if outcome.status == "block")
