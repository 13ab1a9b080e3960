"""What a tenant has registered, and what stands behind a name. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.inference.domain.deployment import Deployments, DeploymentVersion, Task, VersionState
from services.inference.domain.errors import ModelNotFound
from services.inference.domain.rollout.rollout import Rollout, RolloutState, VersionName
from services.inference.domain.route import Route

#: Between the name of a deployment and the number of a version that is asked for by itself.
AT: Final = "@"


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one tenant has registered."""

    #: Versions of each deployment by its name, newest first, without retired ones.
    deployments: Mapping[str, Sequence[DeploymentVersion]] = field(
        default_factory=dict[str, Sequence[DeploymentVersion]]
    )
    routes: Mapping[str, Route] = field(default_factory=dict[str, Route])
    #: The rollout of each route that is running.
    rollouts: Mapping[str, Rollout] = field(default_factory=dict[str, Rollout])

    def version(self, name: str, number: int) -> DeploymentVersion | None:
        """Gives one version, whatever its state."""
        return next((one for one in self.deployments.get(name, ()) if one.version == number), None)

    def current(self, name: str) -> DeploymentVersion | None:
        """Gives the version of a deployment that is asked: the newest that is ready and is not being tried yet."""
        tried = {one.canary for one in self.rollouts.values() if one.state is not RolloutState.PROMOTED}
        for one in self.deployments.get(name, ()):
            if one.state is VersionState.READY and VersionName(deployment=name, version=one.version) not in tried:
                return one
        return None


class Names:
    """Says what stands behind the names that one tenant asks for: its own come before those of the installation."""

    def __init__(self, own: Holdings, installed: Deployments) -> None:
        self._own = own
        self._installed = installed

    def route(self, name: str) -> Route | None:
        """Gives a route of the tenant."""
        return self._own.routes.get(name)

    @property
    def routes(self) -> Sequence[str]:
        """Names of the tenant's routes."""
        return tuple(self._own.routes)

    def chain(self) -> Sequence[DeploymentVersion]:
        """Gives the chain of the settings, with the tenant's own deployments in the places of those they shadow."""
        found = (self.current(one.name) for one in self._installed.default_generators())
        return tuple(one for one in found if one is not None)

    def version(self, name: VersionName) -> DeploymentVersion | None:
        """Gives one version by name and number."""
        if name.version:
            return self._own.version(name.deployment, name.version)
        return self._installed_as(name.deployment)

    def current(self, deployment: str) -> DeploymentVersion | None:
        """Gives the version of a deployment that is asked now; None: there is none."""
        if deployment in self._own.deployments:
            return self._own.current(deployment)
        return self._installed_as(deployment)

    def named(self, name: str) -> DeploymentVersion:
        """Gives the version behind the name of a deployment, of a deployment and a number, or of a provider's model.

        Raises: ModelNotFound: none, or several deployments have a model of this name.
        """
        found = self._pinned(name) or self.current(name) or self._by_model(name)
        if found is None:
            raise ModelNotFound(name)
        return found

    def all(self) -> Sequence[DeploymentVersion]:
        """Gives all that may be asked, those of the settings first."""
        own = [one for name in self._own.deployments if (one := self._own.current(name)) is not None]
        return (*(one for one in self._installed.all if one.name not in self._own.deployments), *own)

    def _pinned(self, name: str) -> DeploymentVersion | None:
        deployment, _, number = name.rpartition(AT)
        return self._own.version(deployment, int(number)) if number.isdecimal() and len(number) < 10 else None

    def _installed_as(self, name: str) -> DeploymentVersion | None:
        return next((one for one in self._installed.all if one.name == name), None)

    def _by_model(self, model: str) -> DeploymentVersion | None:
        found = [one for one in _generators(self.all()) if one.model == model]
        return found[0] if len(found) == 1 else None


def _generators(versions: Iterable[DeploymentVersion]) -> Iterable[DeploymentVersion]:
    return (one for one in versions if one.task is Task.GENERATE)
