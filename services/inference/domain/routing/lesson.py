"""What a bandit learns of a call, and where it adds it."""

from dataclasses import dataclass
from enum import StrEnum

from services.inference.domain.routing.linucb import linucb_correction, linucb_lesson
from services.inference.domain.routing.reward import Earned, RewardPolicy
from services.inference.domain.routing.thompson import thompson_lesson
from services.meshkit.core.identity import TenantId


class BanditKind(StrEnum):
    """How a bandit chooses."""

    THOMPSON = "thompson"
    LINUCB = "linucb"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmName:
    """A version that the bandit of a route may choose."""

    tenant: TenantId
    route: str
    kind: BanditKind
    #: Full name of the version: a new version is learnt anew.
    arm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A call from which a bandit learns."""

    arm: ArmName
    #: What the call is told apart by; empty for a bandit that does not.
    features: tuple[float, ...]
    reward: RewardPolicy
    #: Time in which an answer earns nothing for its latency.
    slow_seconds: float
    #: Project of the call: who is bound to one judges its answers only.
    project: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What is to be added to what an arm has learnt, or all of it."""

    pulls: int
    sums: tuple[float, ...]

    def plus(self, other: "Learnt") -> "Learnt":
        """Adds two of the same arm."""
        if not self.sums:
            return other
        sums = tuple(one + more for one, more in zip(self.sums, other.sums, strict=True))
        return Learnt(pulls=self.pulls + other.pulls, sums=sums)


#: What an arm has learnt that was never asked.
NOTHING = Learnt(pulls=0, sums=())


def learnt(kind: BanditKind, features: tuple[float, ...], reward: float) -> Learnt:
    """Gives what one reward adds."""
    sums = thompson_lesson(reward) if kind is BanditKind.THOMPSON else linucb_lesson(features, reward)
    return Learnt(pulls=1, sums=sums)


def corrected(kind: BanditKind, features: tuple[float, ...], before: Earned, quality: float) -> Learnt | None:
    """Gives what a quality adds that was reported after the call was learnt from; None: nothing."""
    was, now = before.reward, before.judged(quality).reward
    if now is None:
        return None
    if was is None:
        return learnt(kind, features, now)
    change = now - was
    return Learnt(
        pulls=0,
        sums=thompson_lesson(change) if kind is BanditKind.THOMPSON else linucb_correction(features, change),
    )
