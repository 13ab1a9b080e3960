"""What a verdict means for a call of a model."""

from services.inference.domain.errors import LawBlocked
from services.meshkit.content.law import Stage, Verdict


def raise_if_blocked(verdict: Verdict, stage: Stage) -> None:
    """Raises LawBlocked unless the call may go on."""
    if not verdict.allowed:
        raise LawBlocked(verdict_id=verdict.id, stage=stage, rules=verdict.blocking, bundle=verdict.bundle)
