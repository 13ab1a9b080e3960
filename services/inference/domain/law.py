"""What a verdict means for a call of a model."""

from dataclasses import replace

from services.inference.domain.errors import LawBlocked
from services.meshkit.content import Part
from services.meshkit.content.law import Stage, Verdict


def raise_if_blocked(verdict: Verdict, stage: Stage) -> None:
    """Raises LawBlocked unless the call may go on."""
    if not verdict.allowed:
        raise LawBlocked(verdict_id=verdict.id, stage=stage, rules=verdict.blocking, bundle=verdict.bundle)


def on_messages(verdict: Verdict, beside: Part | None) -> Verdict:
    """Gives the verdict on a prompt as one on the parts of its messages.

    What stands beside them cannot be redacted: a schema would not be one any more. What redacts it blocks.

    Args:
        beside: what the law was shown last, after the parts of the messages.
    """
    if beside is None or not verdict.parts:
        return verdict
    *parts, left = verdict.parts
    if left.content == beside.content:
        return replace(verdict, parts=tuple(parts))
    rules = tuple(replace(rule, status="block") if rule.status == "redact" else rule for rule in verdict.rules)
    return replace(verdict, allowed=False, rules=rules, parts=())
