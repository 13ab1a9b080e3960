"""Makes, replaces and deletes routes."""

from dataclasses import replace

from services.inference.domain.deployment import Deployments, Task, Tier, VersionState
from services.inference.domain.errors import (
    ModelIncompatible,
    ModelNotFound,
    NothingCompares,
    RolloutInProgress,
    RouteChanged,
    TooManyRegistered,
)
from services.inference.domain.registered import MOST_ROUTES, check_route
from services.inference.domain.route import Route
from services.inference.usecases.registry_ports import BeginRegistryWork, RegistryWork, RunningRollout
from services.meshkit.core.audit import note
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId

#: Why a rollout ended that could not be read.
WITH_ITS_ROUTE = "its route was deleted"


class SetRoutes:
    """Changes the routes of a tenant.

    Args:
        compares: whether the installation can tell how near two questions are.
    """

    def __init__(self, *, begin: BeginRegistryWork, installed: Deployments, compares: bool) -> None:
        self._begin = begin
        self._installed = installed
        self._compares = compares

    async def set(self, tenant: TenantId, route: Route, *, seen: int | None) -> Route:
        """Makes a route or replaces it.

        Args:
            seen: revision that was read; None: whatever stands is replaced.
        Raises: Invalid, NothingCompares, ModelNotFound (a member), RouteChanged, ModelIncompatible,
            RolloutInProgress, TooManyRegistered.
        """
        check_route(route)
        if route.semantic_threshold and not self._compares:
            raise NothingCompares
        note(target=route.name, details={"mode": route.mode.value, "members": len(route.members)})
        async with self._begin(tenant) as work:
            await work.claim_once()
            standing = await work.revision(route.name)
            if seen is not None and seen != standing:
                raise RouteChanged(route.name)
            if not standing and await work.count_routes() >= MOST_ROUTES:
                raise TooManyRegistered("route", MOST_ROUTES)
            for rollout in await _rollouts_of(work, route.name):
                raise RolloutInProgress(route.name, rollout_id=rollout.id)
            named = [member.deployment for member in route.members]
            best = Tier.UNKNOWN
            for name in named:
                best = max(best, await self._check_member(work, name))
            if route.min_tier > best:
                raise Invalid("route.min_tier", f"is above the tier of every member; the best is {best.name}")
            if route.shadow is not None:
                await self._check_member(work, route.shadow.deployment)
            made = replace(route, revision=standing + 1)
            await work.put_route(made)
            await work.commit(made)
        return made

    async def delete(self, tenant: TenantId, name: str) -> None:
        """Deletes a route; its deployments stay. Raises: ModelNotFound, RolloutInProgress: by one that can be read."""
        note(target=name)
        async with self._begin(tenant) as work:
            await work.claim_once()
            if not await work.revision(name):
                raise ModelNotFound(name)
            for rollout in await _rollouts_of(work, name):
                if rollout.readable:
                    raise RolloutInProgress(name, rollout_id=rollout.id)
                # Nobody can take it back by itself, and it would stand in the way for ever.
                note(details={"rollout": rollout.id})
                await work.end_rollout(rollout.id, reason=WITH_ITS_ROUTE)
            await work.delete_route(name)
            await work.commit(None)

    async def _check_member(self, work: RegistryWork, name: str) -> Tier:
        """Gives the best tier of a member's versions that are not retired. Raises: ModelNotFound, ModelIncompatible."""
        own = await work.named(name)
        installed = next((one for one in self._installed.all if one.name == name), None)
        if own is None and installed is None:
            raise ModelNotFound(name)
        task = own.task if own is not None else installed.task if installed is not None else None
        if task is not Task.GENERATE:
            raise ModelIncompatible(name, differs=("it makes vectors",))
        if own is not None:
            asked = (one.version for one in own.versions)
            return max((one.tier for one in asked if one.state is not VersionState.RETIRED), default=Tier.UNKNOWN)
        return installed.tier if installed is not None else Tier.UNKNOWN


async def _rollouts_of(work: RegistryWork, route: str) -> list[RunningRollout]:
    return [rollout for rollout in await work.running() if rollout.route == route]
