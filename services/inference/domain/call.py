"""A call as it is recorded: same id, same intent, same outcome."""

from dataclasses import dataclass, replace
from enum import StrEnum

from services.inference.domain.answer import Answer
from services.inference.domain.errors import LawBlocked
from services.meshkit.content import CallContext, CallKey, Part, Usage
from services.meshkit.content.law import Stage, Subject, Verdict


class SettleState(StrEnum):
    """Where the money of a recorded call is."""

    #: The usage is known and cost has not confirmed it.
    PENDING = "pending"
    #: Cost has charged it.
    SETTLED = "settled"
    #: The provider reported no usage: the hold expires into `assumed` by itself.
    ASSUMED = "assumed"
    #: No token of the tenant was left to settle with: as ASSUMED, and visible as a reason of its own.
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """The law stopped a call after the model had answered. Recorded, so that a repeat costs nothing."""

    verdict_id: str
    rules: tuple[str, ...]
    bundle: str

    def error(self) -> LawBlocked:
        """Gives the error that every asker of this call gets."""
        return LawBlocked(verdict_id=self.verdict_id, stage="after", rules=self.rules, bundle=self.bundle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """An answer that the law has not judged as a whole. Nobody sees it; it is recorded, to be judged at a repeat."""

    #: What becomes the answer, if the law passes it as it is.
    draft: Answer
    #: Model that was asked, as the law knows it.
    target: str

    def subject(self, context: CallContext) -> Subject:
        """Gives what the law has to judge."""
        usage = self.draft.usage
        return Subject(
            stage=Stage.AFTER,
            parts=self.draft.parts,
            measures={
                "input_tokens": usage.total - usage.output - usage.reasoning - usage.audio_out,
                "output_tokens": usage.output + usage.reasoning,
                "latency_ms": self.draft.provider_us / 1000,
            },
            context=context,
            target=self.target,
        )

    def under(self, verdict: Verdict) -> "Answer | Blocked":
        """Gives the outcome under a verdict on `subject`."""
        if not verdict.allowed:
            return Blocked(verdict_id=verdict.id, rules=verdict.blocking, bundle=verdict.bundle)
        draft = self.draft
        return replace(
            draft,
            parts=_labelled(verdict.parts, draft.parts) if verdict.parts else draft.parts,
            verdict_ids=(*draft.verdict_ids, verdict.id),
            bundle_digest=verdict.bundle_digest,
            rules=(*draft.rules, *verdict.rules),
        )


Outcome = Answer | Blocked | Unjudged


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A call that is to be made now."""

    #: Times that it was begun before and lost: nobody was told how it ended, and its hold is charged.
    lost_attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call whose outcome is durable."""

    key: CallKey
    arguments_hash: bytes
    outcome: Outcome
    hold_id: str
    #: What is to be charged; zero when the provider did not say.
    usage: Usage
    settle_state: SettleState
    #: What was charged, once settled, nano-USD.
    charged: int | None = None


def _labelled(parts: tuple[Part, ...], before: tuple[Part, ...]) -> tuple[Part, ...]:
    """Gives the parts labels that are not below those they had, whatever a verdict wrote on them."""
    return tuple(replace(part, label=part.label.joined(old.label)) for part, old in zip(parts, before, strict=True))
