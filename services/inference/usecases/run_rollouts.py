"""Starts rollouts, takes their steps and takes them back."""

from dataclasses import replace

from services.inference.domain.deployment import Deployments, DeploymentVersion, VersionState
from services.inference.domain.errors import ModelIncompatible, ModelNotFound, RolloutDecided, RolloutInProgress
from services.inference.domain.rollout.rollout import Rollout, RolloutState, VersionName
from services.inference.usecases.registry_ports import BeginRegistryWork, RegistryWork
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId

#: Shortest and longest time that a step may be asked to take at least.
_STEP_SECONDS = (1.0, 24 * 3600.0)
BY_COMMAND = "by command"


class RunRollouts:
    """Changes rollouts, and with them what their routes and deployments stand for."""

    def __init__(self, *, begin: BeginRegistryWork, installed: Deployments, clock: Clock) -> None:
        self._begin = begin
        self._installed = installed
        self._clock = clock

    async def start(self, tenant: TenantId, rollout: Rollout) -> Rollout:
        """Begins a rollout. Raises: Invalid, ModelNotFound, ModelIncompatible, RolloutInProgress."""
        if not _STEP_SECONDS[0] <= rollout.step_min_seconds <= _STEP_SECONDS[1]:
            raise Invalid("rollout.step_min", "must be 1 s to 24 h")
        if not 0 <= rollout.quality_margin < 1:
            raise Invalid("rollout.quality_margin", "must be 0 to 1, and below 1")
        if rollout.stable == rollout.canary:
            raise Invalid("rollout.canary", "must be another version than the stable one")
        note(
            target=rollout.id,
            details={
                "route": rollout.route,
                "stable": rollout.stable,
                "canary": rollout.canary,
                "kind": rollout.kind.value,
            },
        )
        async with self._begin(tenant) as work:
            await work.claim_once()
            route = await work.route(rollout.route)
            if route is None:
                raise ModelNotFound(rollout.route)
            for running in await work.running():
                if running.route == rollout.route:
                    raise RolloutInProgress(rollout.route, rollout_id=running.id)
            members = {one.deployment for one in route.members}
            if rollout.stable.deployment not in members:
                raise Invalid("rollout.stable.deployment", "must be a member of the route")
            if rollout.canary.deployment in members - {rollout.stable.deployment}:
                raise Invalid("rollout.canary.deployment", "is a member of the route already")
            stable = await self._version(work, rollout.stable)
            canary = await self._version(work, rollout.canary)
            if stable.state is not VersionState.READY:
                # It is what is asked when the canary fails, and what is left when it is taken back.
                raise Invalid("rollout.stable.version", f"is {stable.state.value}; must be ready")
            _check_fits(stable, canary)
            await work.put_rollout(rollout)
            await work.commit(rollout)
        return rollout

    async def promote(
        self,
        tenant: TenantId,
        rollout_id: str,
        *,
        by: str,
        reason: str = BY_COMMAND,
        revision: int | None = None,
    ) -> Rollout:
        """Takes the next step; after the last one the canary answers all.

        Args:
            revision: the one that was decided on; None: any.
        Raises: RolloutNotFound, RolloutDecided: also when somebody else has changed it since that revision.
        """
        note(target=rollout_id)
        async with self._begin(tenant) as work:
            await work.claim_once()
            standing = await work.rollout(rollout_id)
            if revision not in (None, standing.revision):
                raise RolloutDecided(rollout_id, state=f"at revision {standing.revision}")
            rollout = standing.promoted(now=self._clock.now(), by=by, reason=reason)
            await work.put_rollout(rollout)
            if rollout.state is RolloutState.PROMOTED:
                await _put_in_place(work, rollout)
            note(details={"state": rollout.state.value, "share_permille": rollout.share_permille})
            await work.commit(rollout)
        return rollout

    async def roll_back(self, tenant: TenantId, rollout_id: str, *, by: str, reason: str = BY_COMMAND) -> Rollout:
        """Takes a rollout back; the first decision stands. Raises: RolloutNotFound, RolloutDecided: it is promoted."""
        note(target=rollout_id, details={"reason": reason})
        async with self._begin(tenant) as work:
            await work.claim_once()
            standing = await work.rollout(rollout_id)
            rollout = standing.rolled_back(now=self._clock.now(), by=by, reason=reason)
            if rollout is not standing:
                await work.put_rollout(rollout)
                await _refuse_canary(work, rollout)
            await work.commit(rollout)
        return rollout

    async def _version(self, work: RegistryWork, name: VersionName) -> DeploymentVersion:
        if name.version == 0:
            for one in self._installed.all:
                if one.name == name.deployment:
                    return one
            raise ModelNotFound(str(name))
        deployment = await work.named(name.deployment)
        if deployment is None:
            raise ModelNotFound(str(name))
        return deployment.version(name.version).version


def _check_fits(stable: DeploymentVersion, canary: DeploymentVersion) -> None:
    differs: list[str] = []
    if canary.state is not VersionState.READY:
        differs.append(f"it is {canary.state.value}")
    if stable.task is not canary.task:
        differs.append(f"it does not {stable.task.value}")
    if missing := sorted((stable.capabilities or frozenset()) - (canary.capabilities or frozenset())):
        differs.append(f"it lacks {', '.join(missing)}")
    if 0 < canary.context_tokens < stable.context_tokens:
        differs.append(
            f"its window holds {canary.context_tokens} tokens, that of the stable version {stable.context_tokens}"
        )
    if differs:
        raise ModelIncompatible(canary.name, differs=tuple(differs))


async def _put_in_place(work: RegistryWork, rollout: Rollout) -> None:
    """Makes the canary what the route asks from now on. The newest ready version of a deployment is asked anyway."""
    if rollout.canary.deployment == rollout.stable.deployment:
        return
    route = await work.route(rollout.route)
    if route is not None:
        members = tuple(
            replace(one, deployment=rollout.canary.deployment) if one.deployment == rollout.stable.deployment else one
            for one in route.members
        )
        await work.put_route(replace(route, members=members, revision=route.revision + 1))


async def _refuse_canary(work: RegistryWork, rollout: Rollout) -> None:
    """Has the newest version of a deployment asked no more, where that was the canary."""
    if rollout.canary.deployment != rollout.stable.deployment:
        return
    deployment = await work.named(rollout.canary.deployment)
    if deployment is not None:
        await work.save(deployment.checked(rollout.canary.version, (f"rolled back: {rollout.reason}",)))
