"""What is shown to the law, and what it says."""

from dataclasses import dataclass, field
from enum import StrEnum

from services.inference.domain.answer import RuleOutcome
from services.inference.domain.errors import LawBlocked
from services.meshkit.content import CallContext, Part


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
    #: Numbers that resource and threshold rules compare, such as `input_tokens_bound`.
    measures: dict[str, float] = field(default_factory=dict[str, float])
    context: CallContext
    #: Model that is asked.
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A deterministic decision over one subject."""

    id: str
    allowed: bool
    rules: tuple[RuleOutcome, ...] = ()
    #: The redacted parts, as many as the subject's; empty when nothing was redacted.
    parts: tuple[Part, ...] = ()
    bundle_digest: str = ""
    bundle: str = ""

    @property
    def blocking(self) -> tuple[str, ...]:
        """The rules that block."""
        return tuple(outcome.rule for outcome in self.rules if outcome.status == "block")

    def raise_if_blocked(self, stage: Stage) -> None:
        """Raises LawBlocked unless the call may go on."""
        if not self.allowed:
            raise LawBlocked(verdict_id=self.id, stage=stage, rules=self.blocking, bundle=self.bundle)
