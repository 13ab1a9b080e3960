"""What the verbs of the registry need: its transactions, its readers, and what replicas follow."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.domain.registry import Holdings
from services.inference.domain.rollout.judgement import Seen
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.rollout.watch import BadEvent, Tally
from services.inference.domain.route import Arm, Route
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRollout:
    """What stands in the way of other changes."""

    id: str
    route: str
    #: Those that it chooses between, as far as they can be read.
    deployments: frozenset[str]
    readable: bool


class RegistryWork(Protocol):
    """One transaction on what a tenant has registered. Others of the same tenant wait: all see what they decide on."""

    async def claim_once(self) -> None:
        """Claims the running request. Raises: AnsweredBefore, RequestIdReused, RequestInProgress."""
        ...

    async def deployment(self, deployment_id: str) -> RegisteredDeployment:
        """Raises: ModelNotFound."""
        ...

    async def standing(self, deployment_id: str) -> RegisteredDeployment:
        """Gives a deployment, without versions where they cannot be read. Raises: ModelNotFound."""
        ...

    async def retire(self, deployment: RegisteredDeployment) -> None:
        """Retires a deployment and all its versions, whether or not they can be read."""
        ...

    async def named(self, name: str) -> RegisteredDeployment | None:
        """Gives the deployment of a name that is not retired."""
        ...

    async def count_deployments(self) -> int:
        """Counts those that are not retired."""
        ...

    async def add_deployment(self, deployment: RegisteredDeployment) -> None:
        """Adds it, without versions."""
        ...

    async def has_key(self, version: DeploymentVersion) -> bool:
        """Says whether a version is asked with a key."""
        ...

    async def add_version(self, deployment_id: str, version: RegisteredVersion, *, key: bytes | None) -> None:
        """Adds a version.

        Args:
            key: of the provider, sealed; None: that of the version before.
        """
        ...

    async def save(self, deployment: RegisteredDeployment) -> None:
        """Saves the states of all versions."""
        ...

    async def route(self, name: str) -> Route | None:
        """Gives a route."""
        ...

    async def revision(self, name: str) -> int:
        """Gives the revision of a route, whether or not it can be read. 0: there is none."""
        ...

    async def count_routes(self) -> int:
        """Counts all of them."""
        ...

    async def put_route(self, route: Route) -> None:
        """Adds a route or replaces it."""
        ...

    async def delete_route(self, name: str) -> None:
        """Deletes a route."""
        ...

    async def rollout(self, rollout_id: str) -> Rollout:
        """Raises: RolloutNotFound."""
        ...

    async def running(self) -> Sequence[RunningRollout]:
        """Gives the rollouts that run, also those that cannot be read."""
        ...

    async def end_rollout(self, rollout_id: str, *, by: str, reason: str) -> Rollout:
        """Ends a rollout that cannot be read as one that was taken back; gives what of it can be read."""
        ...

    async def put_rollout(self, rollout: Rollout) -> None:
        """Adds a rollout or replaces it."""
        ...

    async def commit(self, made: object) -> None:
        """Keeps the answer to the running request and makes all of it durable."""
        ...


BeginRegistryWork = Callable[[TenantId], AbstractAsyncContextManager[RegistryWork]]


class RegistryReader(Protocol):
    """Reads what a tenant has registered."""

    async def deployment(self, tenant: TenantId, deployment_id: str) -> RegisteredDeployment:
        """Raises: ModelNotFound."""
        ...

    async def deployments(self, tenant: TenantId) -> Sequence[RegisteredDeployment]:
        """Gives those that are not retired, by name; without versions where they cannot be read."""
        ...

    async def route(self, tenant: TenantId, name: str) -> Route:
        """Raises: ModelNotFound."""
        ...

    async def routes(self, tenant: TenantId, *, after: str, most: int) -> Sequence[Route]:
        """Gives routes by name, without those that cannot be read."""
        ...

    async def rollout(self, tenant: TenantId, rollout_id: str) -> tuple[Rollout, Seen]:
        """Gives a rollout and what all replicas have seen of it and its step, as far as that is summed.

        Of one that has ended, what was in no sum by then is summed first, so much at a time.

        Raises: RolloutNotFound.
        """
        ...

    async def rollouts(self, tenant: TenantId, *, route: str, before: UUID | None, most: int) -> Sequence[Rollout]:
        """Gives rollouts, newest first, of one route unless that is empty, without those that cannot be read."""
        ...


class SealsKeys(Protocol):
    """Seals keys of providers."""

    async def seal(self, tenant: TenantId, deployment_id: str, key: Secret) -> bytes:
        """Seals a key, to be opened for a version of this deployment."""
        ...


#: By id of the deployment and number of the version; None: it cannot be opened right now.
Keys = Mapping[tuple[str, int], Secret | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    """What tenants have registered as of a version, and the keys that go with it."""

    version: int
    #: True: tenants who are not named have nothing.
    whole: bool = False
    holdings: Mapping[TenantId, Holdings] = field(default_factory=dict[TenantId, Holdings])
    #: Those of the same tenants.
    keys: Mapping[TenantId, Keys] = field(default_factory=dict[TenantId, Keys])


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRegistry:
    """All that a replica knows."""

    state: RegistryState
    #: Until when the database said so.
    heard: datetime = field(compare=False)
    #: Rollouts that it took back while the database was away, and whose.
    owed: tuple[tuple[TenantId, Rollout], ...] = ()


class KeepsRegistry(Protocol):
    """Keeps what a replica knows where it finds it without the database."""

    async def read(self) -> KnownRegistry | None:
        """Gives what was kept last; None: nothing that can be gone by."""
        ...

    async def write(self, known: KnownRegistry) -> bool:
        """Keeps it, in the place of what was kept before. Returns: False: it cannot be kept right now."""
        ...


class RegistryFeed(Protocol):
    """What replicas follow."""

    async def version(self) -> int:
        """Gives the number of the last change."""
        ...

    async def whole(self) -> RegistryState:
        """Reads all."""
        ...

    async def since(self, version: int, *, also: Collection[TenantId] = ()) -> RegistryState:
        """Reads all of those tenants of whom something has changed since; all of everybody where that is not known.

        Args:
            also: tenants that are read in any case.
        """
        ...

    async def forget_changes(self) -> None:
        """Forgets changes that every replica has seen long ago."""
        ...


class RolloutRecords(Protocol):
    """Puts together what replicas see of rollouts."""

    async def add(
        self, tenant: TenantId, rollout_id: str, events: Sequence[BadEvent], tallies: Mapping[Arm, Tally], *, step: int
    ) -> None:
        """Adds bad events, each unit once for each kind, and replaces the tallies of this replica in a step."""
        ...

    async def judged(self, tenant: TenantId, rollout: Rollout) -> Seen:
        """Adds what came since the last time to what a rollout is judged by, and gives all of that.

        That is what all replicas have seen: bad events and scores of the whole rollout, tallies of its step.
        """
        ...

    async def forget(self) -> None:
        """Forgets what was seen of rollouts that ended long ago; they themselves stay."""
        ...

    def judging(self) -> AbstractAsyncContextManager[bool]:
        """True within the block for one replica at a time."""
        ...
