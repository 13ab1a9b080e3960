"""What is shown to the law, and what it says."""

from dataclasses import dataclass, field
from enum import StrEnum

from services.meshkit.content import CallContext, Part
from services.tools.domain.errors import LawBlocked


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
    #: Tool that is called.
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A deterministic decision over one subject."""

    id: str
    allowed: bool
    #: Rules that block.
    blocking: tuple[str, ...] = ()
    #: The redacted parts, as many as the subject's; empty when nothing was redacted.
    parts: tuple[Part, ...] = ()
    bundle_digest: str = ""
    bundle: str = ""

    def raise_if_blocked(self, stage: Stage) -> None:
        """Raises LawBlocked unless the call may go on."""
        if not self.allowed:
            raise LawBlocked(verdict_id=self.id, stage=stage, rules=self.blocking, bundle=self.bundle)
