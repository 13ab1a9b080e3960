"""The registry in memory: what the settings configure and what tenants registered, as of the last look."""

from collections.abc import Callable, Collection, Mapping, Sequence

from services.inference.domain.call_policy import USUAL, CallPolicy
from services.inference.domain.deployment import DEFAULT, Deployments, DeploymentVersion
from services.inference.domain.registry import Holdings, Names
from services.inference.domain.rollout.rollout import Rollout, RolloutState
from services.inference.usecases.ports import Resolved
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics

#: Told of whom something may have changed; None: of everybody.
ToldOfChange = Callable[[Collection[TenantId] | None], None]

_NOTHING = Holdings()


class MemoryRegistry:
    """Implements `Registry`. Names are swapped whole, so that a call sees one state of them or the next."""

    def __init__(self, installed: Deployments, *, clock: Clock) -> None:
        self._installed = installed
        self._clock = clock
        self._names: dict[TenantId, Names] = {}
        #: Id of the deployment and number of each version that is registered.
        self._standing = set[tuple[str, int]]()
        self._of_nobody = Names(_NOTHING, installed)
        #: Rollouts that this replica took back while the database was away; what they say comes before what it said.
        self._taken_back: dict[str, Rollout] = {}
        self._heard = clock.monotonic()
        self._known = False
        self._followers: list[ToldOfChange] = []

    def follow(self, told: ToldOfChange) -> None:
        """Has somebody told of every change, once it is in place."""
        self._followers.append(told)

    @property
    def known(self) -> bool:
        """False until it was heard for the first time what is registered."""
        return self._known

    def resolve(self, tenant: TenantId, name: str, *, checking: bool = False) -> Resolved:
        """See `Registry.resolve`."""
        names = self.names(tenant)
        names.check_readable(name or DEFAULT)
        route = names.route(name or DEFAULT)
        if route is None:
            versions = names.chain if name in ("", DEFAULT) else (names.named(name, checking=checking),)
            return Resolved(route=None, versions=versions)
        found = (names.current(member.deployment) for member in route.members)
        versions = tuple(one for one in found if one is not None)
        return Resolved(route=route, versions=versions, rollout=self.rollout(tenant, route.name))

    def embedder(self, tenant: TenantId, name: str, *, checking: bool = False) -> DeploymentVersion:
        """See `KnowsEmbedders.embedder`."""
        names = self.names(tenant)
        names.check_readable(name or DEFAULT)
        return names.embedder(name, checking=checking)

    def versions(self, tenant: TenantId) -> Sequence[DeploymentVersion]:
        """See `Registry.versions`."""
        return self.names(tenant).all

    def routes(self, tenant: TenantId) -> Sequence[str]:
        """See `Registry.routes`."""
        return tuple(self.names(tenant).own.routes)

    def unreadable(self, tenant: TenantId) -> Sequence[str]:
        """See `Registry.unreadable`."""
        return sorted(self.names(tenant).own.unreadable)

    def policy(self, tenant: TenantId, name: str) -> CallPolicy:
        """See `Registry.policy`."""
        route = self.names(tenant).route(name or DEFAULT)
        return USUAL if route is None else route.policy

    @property
    def age(self) -> float:
        """See `Registry.age`."""
        return self._clock.monotonic() - self._heard

    def names(self, tenant: TenantId) -> Names:
        """Gives what stands behind the names of a tenant."""
        return self._names.get(tenant, self._of_nobody)

    def rollout(self, tenant: TenantId, route: str) -> Rollout | None:
        """Gives the running rollout of a route, or the one that was just taken back here."""
        found = self.names(tenant).own.rollouts.get(route)
        return None if found is None else self._taken_back.get(found.id, found)

    def running(self) -> Sequence[tuple[TenantId, Rollout]]:
        """Lists all rollouts that run."""
        return [
            (tenant, rollout)
            for tenant, names in self._names.items()
            for route in names.own.rollouts
            if (rollout := self.rollout(tenant, route)) is not None and rollout.state is RolloutState.RUNNING
        ]

    def stands(self, version: DeploymentVersion) -> bool:
        """Says whether a version is one of the settings, or registered still."""
        return not version.version or (version.deployment_id, version.version) in self._standing

    @property
    def holdings(self) -> Mapping[TenantId, Holdings]:
        """What each tenant has registered."""
        return {tenant: names.own for tenant, names in self._names.items()}

    def take(self, holdings: Mapping[TenantId, Holdings], *, whole: bool) -> None:
        """Puts what the database says in the place of what was known of these tenants, or of all."""
        self._heard = self._clock.monotonic()
        names = {} if whole else {tenant: one for tenant, one in self._names.items() if tenant not in holdings}
        names |= {tenant: Names(one, self._installed) for tenant, one in holdings.items() if one != _NOTHING}
        self._names = names
        known = {one.id for each in names.values() for one in each.own.rollouts.values()}
        self._taken_back = {key: one for key, one in self._taken_back.items() if key in known}
        self._standing = {
            (version.deployment_id, version.version)
            for each in names.values()
            for versions in each.own.deployments.values()
            for version in versions
        }
        metrics.MODELS_UNREADABLE.set(sum(len(each.own.unreadable) for each in names.values()))
        self._known = True
        for told in self._followers:
            told(None if whole else holdings.keys())

    def heard(self) -> None:
        """Hears that nothing has changed."""
        self._heard = self._clock.monotonic()

    def take_back(self, rollout: Rollout) -> None:
        """Keeps to a rollout that was taken back and is not durable yet."""
        self._taken_back[rollout.id] = rollout
