"""What the law says about a subject."""

from dataclasses import dataclass
from enum import IntEnum

from services.meshkit.content import Part


class Severity(IntEnum):
    """How bad a match is; a larger value is worse. Numbers are those of the contract."""

    MINOR = 1
    MAJOR = 2
    SEVERE = 3


class Action(IntEnum):
    """What a rule does when it matches. Numbers are those of the contract."""

    WARN = 1
    REDACT = 2
    BLOCK = 3


@dataclass(frozen=True, slots=True)
class RuleResult:
    """Outcome of one rule."""

    rule: str
    severity: Severity
    #: None when the rule passed.
    action: Action | None
    #: Why it matched, without the matched text; empty when it passed.
    rationale: str
    elapsed_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the rules of a bundle say: the same for the same subject, apart from the times."""

    #: Every rule that applies, in the order of the bundle.
    results: tuple[RuleResult, ...]
    #: Those of them that matched.
    matched: tuple[RuleResult, ...]
    #: The redacted parts, as many as the subject's; None when nothing was redacted.
    parts: tuple[Part, ...] | None = None

    @property
    def allowed(self) -> bool:
        """True unless a rule blocks."""
        return all(result.action is not Action.BLOCK for result in self.matched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judgement with its name and the law it was made under."""

    #: `verdict_…`
    id: str
    judgement: Judgement
    #: SHA-256 of the rules, hex.
    bundle_digest: str
    #: `name@version`
    bundle: str
