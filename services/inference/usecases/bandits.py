"""What this replica knows of the arms of bandits, in memory: choosing by it takes microseconds and waits for nobody."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Final

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.prompt import Prompt
from services.inference.domain.reliability.health import ITS_FAULTS
from services.inference.domain.route import AttemptOutcome, Route, RouteMode
from services.inference.domain.routing.lesson import NOTHING, ArmName, BanditKind, Learnt, Lesson, learnt
from services.inference.domain.routing.linucb import Ridge, features_of
from services.inference.domain.routing.reward import USUAL_SLOW_SECONDS, Earned, RewardPolicy, earned
from services.inference.domain.routing.thompson import thompson_draw
from services.inference.usecases.arm_index import ArmIndex, Has, has_all
from services.inference.usecases.learning_ports import MOST_ARMS
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics

#: One call of so many goes to an arm by the dice alone, so that one which did badly once is heard of again.
EXPLORES: Final = 50
_KINDS: Final = {RouteMode.BANDIT_THOMPSON: BanditKind.THOMPSON, RouteMode.BANDIT_LINUCB: BanditKind.LINUCB}
_USUAL: Final = RewardPolicy()
_FAILED: Final = Earned(points=0.0, weight=1.0)


class _Arm:
    """What an arm has learnt on all replicas, as far as this one knows."""

    def __init__(self) -> None:
        self.all = NOTHING
        #: What of it no other replica knows yet.
        self.fresh = NOTHING
        #: Of LinUCB, once it was asked.
        self.ridge: Ridge | None = None


class Bandits:
    """Orders the members of routes by what is known of them, and takes in what came of it.

    Of too many arms the one that was not used for the longest time is forgotten, and heard of again once somebody adds
    to it. One that has learnt what no other replica knows yet stays until that is told.

    Args:
        dice: what is tried is drawn with them; the same ones draw the same.
        most_arms: are kept.
    """

    def __init__(self, *, dice: Random, most_arms: int = MOST_ARMS) -> None:
        self._dice = dice
        self._most_arms = most_arms
        self._has_route: Has = has_all
        self._has_version: Has = has_all
        #: Those that may be forgotten, the one that was used last at the end.
        self._told: OrderedDict[ArmName, _Arm] = OrderedDict()
        #: Those with something fresh; few, as they are told once a second.
        self._untold: dict[ArmName, _Arm] = {}
        self._index = ArmIndex()
        metrics.show_size("inference.bandit_arms", self)

    def __len__(self) -> int:
        """Counts the arms that are kept."""
        return len(self._told) + len(self._untold)

    def keep_to(self, *, has_route: Has, has_version: Has) -> None:
        """Has nothing kept of arms that are gone: those whose route or version is."""
        self._has_route, self._has_version = has_route, has_version

    def forget_gone(self, tenants: Collection[TenantId] | None) -> None:
        """Forgets arms that are gone, with all that they have learnt.

        Args:
            tenants: whose arms may be; None: anybody's.
        """
        for name in self._index.gone(tenants, has_route=self._has_route, has_version=self._has_version):
            self._told.pop(name, None)
            self._untold.pop(name, None)
            self._index.remove(name)

    @staticmethod
    def features(route: Route, prompt: Prompt) -> tuple[float, ...]:
        """Gives what a call is told apart by; nothing for a bandit that does not."""
        return features_of(prompt) if route.mode is RouteMode.BANDIT_LINUCB else ()

    def ordered(
        self, tenant: TenantId, route: Route, versions: Sequence[DeploymentVersion], features: tuple[float, ...]
    ) -> list[DeploymentVersion]:
        """Gives the versions, best first, as this call draws them."""
        if len(versions) < 2:
            return list(versions)
        worth = {one.full_name: self._worth(_name(tenant, route, one), features) for one in versions}
        # Those of equal worth, such as those of which nothing is known, come in the order of the dice.
        drawn = sorted(self._dice.sample(versions, len(versions)), key=lambda one: -worth[one.full_name])
        if self._dice.randrange(EXPLORES) == 0:
            drawn.insert(0, drawn.pop(self._dice.randrange(len(drawn))))
        return drawn

    def lesson(
        self, tenant: TenantId, route: Route, version: DeploymentVersion, features: tuple[float, ...], project: str
    ) -> Lesson:
        """Gives what is learnt from asking a version."""
        return Lesson(
            arm=_name(tenant, route, version),
            features=features,
            reward=route.reward or _USUAL,
            slow_seconds=route.sla_seconds or USUAL_SLOW_SECONDS,
            project=project,
        )

    def note(self, lesson: Lesson, outcome: AttemptOutcome) -> Earned | None:
        """Takes in what came of asking an arm. Gives what that earned; None: nothing, as it is not at fault."""
        if outcome.reason and outcome.reason not in ITS_FAULTS:
            return None
        if outcome.reason:
            self._learn(lesson, _FAILED)
            return _FAILED
        gained = earned(
            lesson.reward,
            latency_us=outcome.latency_us,
            cost_nano_usd=outcome.cost_nano_usd,
            slow_seconds=lesson.slow_seconds,
        )
        self._learn(lesson, gained)
        return gained

    def taken(self) -> dict[ArmName, Learnt]:
        """Takes out what other replicas do not know yet."""
        untold, self._untold = self._untold, {}
        fresh = {name: arm.fresh for name, arm in untold.items()}
        for name, arm in untold.items():
            arm.fresh = NOTHING
            self._told[name] = arm
        self._bound()
        return fresh

    def put_back(self, fresh: Mapping[ArmName, Learnt]) -> None:
        """Puts back what was taken out and could not be told."""
        for name, one in fresh.items():
            if not self._stands(name):
                continue
            arm = self._find(name)
            if arm is None:
                # Forgotten meanwhile.
                arm = self._arm(name)
                arm.all = one
            arm.fresh = arm.fresh.plus(one)
            self._keep_untold(name, arm)

    def know(self, arms: Mapping[ArmName, Learnt]) -> None:
        """Takes in all that arms have learnt on all replicas, but for what this one has not told yet.

        Args:
            arms: the newest first: of too many the others are forgotten.
        """
        for name, one in reversed(tuple(arms.items())):
            if not self._stands(name):
                continue
            arm = self._arm(name)
            arm.all = one.plus(arm.fresh) if arm.fresh is not NOTHING else one
            arm.ridge = None

    def known(self, name: ArmName) -> Learnt:
        """Gives what an arm has learnt."""
        arm = self._find(name)
        return NOTHING if arm is None else arm.all

    def _learn(self, lesson: Lesson, gained: Earned) -> None:
        reward = gained.reward
        if reward is None or not self._stands(lesson.arm):
            return
        arm, one = self._arm(lesson.arm), learnt(lesson.arm.kind, lesson.features, reward)
        arm.all, arm.fresh = arm.all.plus(one), arm.fresh.plus(one)
        if arm.ridge is not None:
            arm.ridge.learn(lesson.features, reward)
        self._keep_untold(lesson.arm, arm)

    def _worth(self, name: ArmName, features: tuple[float, ...]) -> float:
        arm = self._find(name)
        if name.kind is BanditKind.THOMPSON:
            known = NOTHING if arm is None else arm.all
            return thompson_draw(known.pulls, known.sums or (0.0,), self._dice)
        if arm is None:
            arm = self._arm(name)
        if arm.ridge is None:
            arm.ridge = Ridge(arm.all.sums)
        return arm.ridge.worth(features)

    def _stands(self, name: ArmName) -> bool:
        return self._has_route(name.tenant, name.route) and self._has_version(name.tenant, name.arm)

    def _find(self, name: ArmName) -> _Arm | None:
        if name in self._told:
            self._told.move_to_end(name)
            return self._told[name]
        return self._untold.get(name)

    def _arm(self, name: ArmName) -> _Arm:
        arm = self._find(name)
        if arm is None:
            arm = self._told[name] = _Arm()
            self._index.add(name)
            self._bound()
        return arm

    def _keep_untold(self, name: ArmName, arm: _Arm) -> None:
        """Keeps an arm until what it has learnt is told."""
        self._told.pop(name, None)
        self._untold[name] = arm
        self._index.add(name)

    def _bound(self) -> None:
        while self._told and len(self) > self._most_arms:
            name, _ = self._told.popitem(last=False)
            self._index.remove(name)


def _name(tenant: TenantId, route: Route, version: DeploymentVersion) -> ArmName:
    return ArmName(tenant=tenant, route=route.name, kind=_KINDS[route.mode], arm=version.full_name)
