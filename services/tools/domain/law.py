"""What a verdict means for a call of a tool."""

from services.meshkit.content.law import Stage, Verdict
from services.tools.domain.errors import LawBlocked


def raise_if_blocked(verdict: Verdict, stage: Stage) -> None:
    """Raises LawBlocked unless the call may go on."""
    if not verdict.allowed:
        raise LawBlocked(verdict_id=verdict.id, stage=stage, rules=verdict.blocking, bundle=verdict.bundle)
