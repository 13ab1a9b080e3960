"""Chooses whom a call asks: by route, weights and rollout."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from services.inference.domain.answer import RouteChoice
from services.inference.domain.deployment import DeploymentVersion, Task, VersionState
from services.inference.domain.errors import CallNotBounded, ModelNotFound, ModelNotReady, NoModelConfigured
from services.inference.domain.money_bound import bounded_everywhere
from services.inference.domain.registry import Names
from services.inference.domain.rollout.assignment import arm_of
from services.inference.domain.rollout.rollout import Rollout, RolloutState
from services.inference.domain.route import Arm, AttemptOutcome, Candidate, HopLimits, Plan, Route, RouteMode, Trial
from services.inference.domain.routing.weighted import weighted
from services.inference.usecases.asked import Asked
from services.inference.usecases.bandits import Bandits
from services.inference.usecases.given_answers import GivenAnswers
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.paces import Paces
from services.inference.usecases.ports import Resolved
from services.inference.usecases.registry import MemoryRegistry
from services.meshkit.core.identity import TenantId


class RouteCalls:
    """Implements `Router` over the registry. Nothing here waits.

    A canary that fails is followed by the stable version of its route, so callers hear of its failures in their latency
    only. What is asked because another failed says nothing about a rollout.

    Args:
        hop: how long and how often one is asked in a call whose route does not say.
    """

    def __init__(
        self,
        registry: MemoryRegistry,
        observe: ObserveRollouts,
        *,
        bandits: Bandits,
        given: GivenAnswers,
        paces: Paces,
        hop: HopLimits,
    ) -> None:
        self._registry = registry
        self._observe = observe
        self._bandits = bandits
        self._given = given
        self._paces = paces
        self._hop = hop
        bandits.keep_to(has_route=self._has_route, has_version=self._has_version)
        given.keep_to(self._has_route)
        registry.follow(bandits.forget_gone)
        registry.follow(given.forget_gone)

    def plan(self, asked: Asked, *, regions: tuple[str, ...]) -> Plan:
        """See `Router.plan`."""
        tenant, unit = asked.principal.tenant, unit_of(asked)
        resolved = self._registry.resolve(tenant, asked.model, checking=asked.checking)
        if resolved.route is None:
            candidates = [Candidate(version=one, hop=self._hop) for one in resolved.versions]
            if any(one.version.task is not Task.GENERATE for one in candidates):
                raise ModelNotFound(asked.model)
        else:
            candidates = self._of_route(asked, resolved, resolved.route, unit)
            if not candidates:
                raise _not_ready(resolved.route, self._registry.names(tenant))
        allowed = tuple(one for one in candidates if one.version.keeps_in(*regions))
        if not allowed:
            raise NoModelConfigured(region=" and ".join(sorted(set(filter(None, regions)))) if candidates else "")
        left_out = tuple(f"{one.version.name}: region" for one in candidates if one not in allowed)
        bounded, unbounded = _by_bound(asked, allowed)
        return Plan(candidates=bounded, route=resolved.route, left_out=left_out, unbounded=unbounded)

    def told(self, candidate: Candidate, outcome: AttemptOutcome) -> None:
        """See `Router.told`."""
        if candidate.trial is not None:
            self._observe.note(candidate.trial, outcome)
        self._paces.note(candidate.version, outcome)
        earned = None if candidate.lesson is None else self._bandits.note(candidate.lesson, outcome)
        self._given.note(candidate, outcome, earned)

    def _has_route(self, tenant: TenantId, route: str) -> bool:
        """Says whether calls may still come to a route; of what nobody knows yet, that they may."""
        return self._unsure(tenant) or self._registry.names(tenant).route(route) is not None

    def _has_version(self, tenant: TenantId, full_name: str) -> bool:
        """Says the same of a version."""
        return self._unsure(tenant) or self._registry.names(tenant).has(full_name)

    def _unsure(self, tenant: TenantId) -> bool:
        return not self._registry.known or bool(self._registry.names(tenant).own.unreadable)

    def _of_route(self, asked: Asked, resolved: Resolved, route: Route, unit: bytes) -> list[Candidate]:
        features = self._bandits.features(route, asked.prompt)
        ordered = self._ordered(asked, resolved, route, unit, features)
        candidates = [Candidate(version=one, hop=route.hop) for one in ordered]
        if resolved.rollout is not None:
            candidates = self._split(asked, resolved.rollout, candidates, unit)
        return [self._explained(asked, route, one, features) for one in candidates]

    def _explained(self, asked: Asked, route: Route, candidate: Candidate, features: tuple[float, ...]) -> Candidate:
        """Says why a candidate is asked, and what a bandit learns from it."""
        version, sla = candidate.version, route.sla_seconds
        lesson = None
        if route.mode.learns:
            lesson = self._bandits.lesson(asked.principal.tenant, route, version, features, asked.context.project)
        choice = RouteChoice(
            route=route.name,
            mode=route.mode.value,
            tier=version.tier.name.lower(),
            keeps_sla=None if sla is None else self._paces.keeps(version, sla_seconds=sla),
        )
        return replace(candidate, lesson=lesson, choice=choice)

    def _ordered(
        self, asked: Asked, resolved: Resolved, route: Route, unit: bytes, features: tuple[float, ...]
    ) -> Sequence[DeploymentVersion]:
        by_name = {
            one.name: one for one in resolved.versions if one.task is Task.GENERATE and one.tier >= route.min_tier
        }
        members = weighted(route.name, route.members, unit) if route.mode is RouteMode.WEIGHTED else route.members
        ordered = [by_name[member.deployment] for member in members if member.deployment in by_name]
        if route.mode is RouteMode.TIERED:
            return self._paces.ordered(ordered, sla_seconds=route.sla_seconds)
        if not route.mode.learns:
            return ordered
        return self._bandits.ordered(asked.principal.tenant, route, ordered, features)

    def _split(self, asked: Asked, rollout: Rollout, candidates: Sequence[Candidate], unit: bytes) -> list[Candidate]:
        """Puts the versions of a rollout in the place of the member that it is about."""
        tenant, project = asked.principal.tenant, asked.context.project
        names = self._registry.names(tenant)
        stable, canary = names.version(rollout.stable), names.version(rollout.canary)
        split: list[Candidate] = []
        for candidate in candidates:
            if stable is None or candidate.version.name != rollout.stable.deployment:
                split.append(candidate)
                continue
            sides: list[tuple[Arm, DeploymentVersion]] = [(Arm.STABLE, stable)]
            if canary is not None and canary.state is VersionState.READY and arm_of(rollout, unit) is Arm.CANARY:
                sides.insert(0, (Arm.CANARY, canary))
            for arm, version in sides:
                # Only who is asked first is on trial.
                first = not split and rollout.state is RolloutState.RUNNING
                trial = None
                if first:
                    trial = Trial(tenant=tenant, rollout=rollout, unit=unit, arm=arm, project=project)
                split.append(Candidate(version=version, hop=candidate.hop, arm=arm if first else None, trial=trial))
        return split


def _by_bound(asked: Asked, candidates: tuple[Candidate, ...]) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Parts those for whom money can be held from those for whom nobody knows how much.

    Raises: CallNotBounded: nobody is left.
    """
    if bounded_everywhere(asked.prompt):
        return candidates, ()
    found: list[Candidate] = []
    refused: list[tuple[Candidate, CallNotBounded]] = []
    for one in candidates:
        try:
            asked.bound(one.version)
        except CallNotBounded as error:
            refused.append((one, error))
        else:
            found.append(one)
    if not found:
        raise refused[0][1]
    return tuple(found), tuple(f"{one.version.full_name}: {error.reason}" for one, error in refused)


def _not_ready(route: Route, names: Names) -> ModelNotReady:
    """Says of each member of a route that answers nobody why it does not."""
    found = ((member.deployment, names.current(member.deployment)) for member in route.members)
    states = (names.state(name) if one is None else f"{name} is below the lowest tier" for name, one in found)
    return ModelNotReady(route.name, states=tuple(states))


def generators(resolved: Resolved) -> tuple[DeploymentVersion, ...]:
    """Gives those behind a name that answer with text. Raises: NoModelConfigured: there is none."""
    found = tuple(one for one in resolved.versions if one.task is Task.GENERATE)
    if not found:
        raise NoModelConfigured
    return found


def unit_of(asked: Asked) -> bytes:
    """Gives what stays with one side of a split: what the call names as such, its run, or the call itself.

    As a hash, since it is recorded with what went wrong for it, and may be somebody's name.
    """
    call_id = asked.context.call_id
    return sha256((asked.policy.sticky_key or call_id.run_id or call_id.path).encode()).digest()
