"""What a tenant has registered, and what stands behind a name. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.inference.domain.deployment import DEFAULT, Deployments, DeploymentVersion, Task, VersionState
from services.inference.domain.errors import ModelNotFound, ModelNotReady, ModelUnreadable, NoEmbedderConfigured
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
    #: Names of deployments and routes that cannot be read here. Nobody is asked in their place: not the installation's
    #: of the same name, nor a route without its rollout.
    unreadable: frozenset[str] = frozenset()

    def version(self, name: str, number: int) -> DeploymentVersion | None:
        """Gives one version, whatever its state."""
        return next((one for one in self.deployments.get(name, ()) if one.version == number), None)

    def current(self) -> dict[str, DeploymentVersion]:
        """Gives the version of each deployment that is asked: the newest that is ready and is not being tried yet."""
        tried = {one.canary for one in self.rollouts.values() if one.state is not RolloutState.PROMOTED}
        found: dict[str, DeploymentVersion] = {}
        for name, versions in self.deployments.items():
            for one in versions:
                if one.state is VersionState.READY and VersionName(deployment=name, version=one.version) not in tried:
                    found[name] = one
                    break
        return found


class Names:
    """Says what stands behind the names that one tenant asks for: its own come before those of the installation.

    Made when something changes: every call asks it.
    """

    def __init__(self, own: Holdings, installed: Deployments) -> None:
        self.own: Final = own
        self._installed = {one.name: one for one in installed.all}
        self._current = own.current()
        #: All that may be asked, those of the settings first.
        self.all: Final = (
            *(one for one in installed.all if one.name not in own.deployments),
            *self._current.values(),
        )
        #: The chain of the settings, with the tenant's own deployments in the places of those they shadow.
        self.chain: Final = tuple(
            found
            for one in installed.default_generators()
            if (found := self.current(one.name)) is not None and found.task is Task.GENERATE
        )
        self._usual_embedder = installed.default_embedder()
        self._by_model: dict[tuple[Task, str], list[DeploymentVersion]] = {}
        for one in self.all:
            self._by_model.setdefault((one.task, one.model), []).append(one)

    def check_readable(self, name: str) -> None:
        """Raises: ModelUnreadable: what stands behind a name, or behind one with a number, cannot be read here."""
        if self.own.unreadable.intersection((name, name.rpartition(AT)[0])):
            raise ModelUnreadable(name)

    def route(self, name: str) -> Route | None:
        """Gives a route of the tenant."""
        return self.own.routes.get(name)

    def version(self, name: VersionName) -> DeploymentVersion | None:
        """Gives one version by name and number."""
        if name.version:
            return self.own.version(name.deployment, name.version)
        return self._installed.get(name.deployment)

    def has(self, full_name: str) -> bool:
        """Says whether a version is one of the settings or registered still, whatever its state."""
        return full_name in self._installed or self._pinned(full_name, checking=True) is not None

    def current(self, deployment: str) -> DeploymentVersion | None:
        """Gives the version of a deployment that is asked now; None: there is none."""
        shadowed = deployment in self.own.deployments
        return (self._current if shadowed else self._installed).get(deployment)

    def named(self, name: str, *, checking: bool = False) -> DeploymentVersion:
        """Gives the version behind the name of a deployment, of a deployment and a number, or of a provider's model.

        Args:
            checking: also gives a version that is not ready, by deployment and number.
        Raises: ModelNotFound: none, or several deployments have a model of this name. ModelNotReady: there is one, but
            it may not be asked.
        """
        return self._named(name, Task.GENERATE, checking=checking)

    def embedder(self, name: str, *, checking: bool = False) -> DeploymentVersion:
        """Gives the version that embeds under a name, as `named` does; `default` is always the installation's.

        There is no chain, and nobody takes the place of another: vectors of different models never compare.

        Raises: ModelNotFound: there is none, or what is called so does not embed. ModelNotReady. NoEmbedderConfigured.
        """
        if name in ("", DEFAULT):
            if self._usual_embedder is None:
                raise NoEmbedderConfigured
            return self._usual_embedder
        found = self._named(name, Task.EMBED, checking=checking)
        if found.task is not Task.EMBED:
            raise ModelNotFound(name)
        return found

    def _named(self, name: str, task: Task, *, checking: bool) -> DeploymentVersion:
        found = self._pinned(name, checking=checking) or self.current(name)
        if found is not None:
            return found
        of_model = self._by_model.get((task, name), [])
        if len(of_model) == 1:
            return of_model[0]
        if self._pinned(name, checking=True) is not None or name in self.own.deployments:
            raise ModelNotReady(name, states=(self.state(name),))
        raise ModelNotFound(name)

    def state(self, name: str) -> str:
        """Says in words how far the newest version of a deployment is, or the one with a number."""
        pinned = self._pinned(name, checking=True)
        if found := (pinned,) if pinned is not None else self.own.deployments.get(name, ()):
            tried = found[0].state is VersionState.READY
            return f"{found[0].full_name} is {'tried in a rollout' if tried else found[0].state.value}"
        return f"{name} is retired"

    def _pinned(self, name: str, *, checking: bool) -> DeploymentVersion | None:
        deployment, _, number = name.rpartition(AT)
        found = self.own.version(deployment, int(number)) if number.isdecimal() and len(number) < 10 else None
        return found if found is not None and (checking or found.state is VersionState.READY) else None
