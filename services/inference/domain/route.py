"""Names to ask for, how they choose among deployments, and what came of a choice."""

from dataclasses import dataclass
from enum import StrEnum

from services.inference.domain.answer import RouteChoice
from services.inference.domain.call_policy import USUAL, CallPolicy
from services.inference.domain.deployment import DeploymentVersion, Tier
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.routing.lesson import Lesson
from services.inference.domain.routing.reward import RewardPolicy
from services.meshkit.core.identity import TenantId


class RouteMode(StrEnum):
    """How a route chooses."""

    WEIGHTED = "weighted"
    CHAIN = "chain"
    TIERED = "tiered"
    BANDIT_THOMPSON = "bandit_thompson"
    BANDIT_LINUCB = "bandit_linucb"

    @property
    def learns(self) -> bool:
        """True when what came of calls before says who is asked first."""
        return self in (RouteMode.BANDIT_THOMPSON, RouteMode.BANDIT_LINUCB)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMember:
    """A deployment that a route may choose."""

    deployment: str
    #: Its share, thousandths.
    weight_permille: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HopLimits:
    """How long and how often one deployment is asked in one call."""

    tries: int = 1
    first_byte_seconds: float = 30.0
    between_seconds: float = 20.0
    #: Times that it is asked again when its answer does not keep the wanted form.
    repairs: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A deployment that is asked beside, to compare."""

    deployment: str
    #: Share of the calls, thousandths.
    permille: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A name to ask for, and how it chooses."""

    name: str
    mode: RouteMode
    members: tuple[RouteMember, ...]
    hop: HopLimits = HopLimits()
    #: What calls do that do not say it themselves.
    policy: CallPolicy = USUAL
    #: How long an answer is given to equal calls, seconds; 0: never.
    cache_seconds: float = 0.0
    #: Cosine of two questions from which on one's answer is given to the other, when all else is equal; 0: never.
    semantic_threshold: float = 0.0
    shadow: Shadow | None = None
    #: Time in which an answer is to be whole, seconds; None: any.
    sla_seconds: float | None = None
    min_tier: Tier = Tier.UNKNOWN
    #: What its bandit goes by; None: as usual.
    reward: RewardPolicy | None = None
    #: Grows by one with each change; the basis of `etag`.
    revision: int = 0


class Arm(StrEnum):
    """The side of a rollout that a call is on."""

    STABLE = "stable"
    CANARY = "canary"

    @property
    def other(self) -> "Arm":
        """The side beside it."""
        return Arm.STABLE if self is Arm.CANARY else Arm.CANARY


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A call on one side of a rollout."""

    tenant: TenantId
    rollout: Rollout
    #: What does not change sides, such as a run.
    unit: bytes
    arm: Arm
    #: Project of the call: who is bound to one judges its answers only.
    project: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A version that may take a call, and within which limits."""

    version: DeploymentVersion
    hop: HopLimits = HopLimits()
    #: Its side, when it is part of a rollout.
    arm: Arm | None = None
    #: The trial that what comes of it counts in; None: in none.
    trial: Trial | None = None
    #: What a bandit learns from it; None: none chose.
    lesson: Lesson | None = None
    #: Why it is asked; None: the call named it, or it stands in the chain of the settings.
    choice: RouteChoice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Whom a call may ask, best first; at least one."""

    candidates: tuple[Candidate, ...]
    #: None when a deployment was asked for by name, or the chain of the settings.
    route: Route | None = None
    #: Why others are not among them, as `deployment: reason`; for people.
    left_out: tuple[str, ...] = ()
    #: Those of the others who might have answered, had anybody known what that costs at most; in the same form.
    unbounded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """What came of asking a candidate: what breakers, bandits and rollouts learn from."""

    #: Why it failed, such as `PROVIDER_UNAVAILABLE`; empty: it answered.
    reason: str = ""
    latency_us: int
    #: None when nothing came.
    first_byte_us: int | None = None
    #: None while nobody knows.
    cost_nano_usd: int | None = None
    #: For how long it wants no other call, seconds; None when it did not say.
    retry_after_seconds: float | None = None
    #: Hold that paid for it; empty when it came to none.
    hold_id: str = ""
