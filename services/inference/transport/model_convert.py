"""What ModelService says, proto to domain and back, pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.inference.v1 import model_pb2
from services.inference.domain.call_policy import USUAL
from services.inference.domain.deployment import AdapterForm, Capability, DeploymentVersion, Task, Tier, VersionState
from services.inference.domain.errors import ModelUnreadable
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.domain.reliability.breaker import BreakerState
from services.inference.domain.reliability.health import Health
from services.inference.domain.rollout.judgement import Kind, Seen
from services.inference.domain.rollout.rollout import (
    Rollout,
    RolloutKind,
    RolloutState,
    VersionName,
    checked_steps,
)
from services.inference.domain.route import Arm, HopLimits, Route, RouteMember, RouteMode, Shadow
from services.inference.domain.routing.comparison import Compared
from services.inference.domain.routing.reward import RewardPolicy
from services.inference.transport.call_policy import policy_of, policy_to_proto
from services.inference.usecases.shadow import Pair
from services.meshkit.core.errors import Invalid

Value = TypeVar("Value")

_TASKS: Final = {
    Task.GENERATE: model_pb2.MODEL_TASK_GENERATE,
    Task.EMBED: model_pb2.MODEL_TASK_EMBED,
}
_TASKS_OF: Final[Mapping[int, Task]] = {
    model_pb2.MODEL_TASK_UNSPECIFIED: Task.GENERATE,
    **{number: task for task, number in _TASKS.items()},
}
_STATES: Final = {
    VersionState.CHECKING: model_pb2.MODEL_VERSION_STATE_CHECKING,
    VersionState.READY: model_pb2.MODEL_VERSION_STATE_READY,
    VersionState.REFUSED: model_pb2.MODEL_VERSION_STATE_REFUSED,
    VersionState.RETIRED: model_pb2.MODEL_VERSION_STATE_RETIRED,
}
_FORMS: Final = {AdapterForm.WIRE: model_pb2.ADAPTER_FORM_WIRE, AdapterForm.SDK: model_pb2.ADAPTER_FORM_SDK}
_FORMS_OF: Final[Mapping[int, AdapterForm]] = {
    model_pb2.ADAPTER_FORM_UNSPECIFIED: AdapterForm.WIRE,
    **{number: form for form, number in _FORMS.items()},
}
_CAPABILITIES: Final = {
    Capability.TOOLS: model_pb2.MODEL_CAPABILITY_TOOLS,
    Capability.JSON_SCHEMA: model_pb2.MODEL_CAPABILITY_JSON_SCHEMA,
    Capability.IMAGES: model_pb2.MODEL_CAPABILITY_IMAGES,
    Capability.DOCUMENTS: model_pb2.MODEL_CAPABILITY_DOCUMENTS,
}
_CAPABILITIES_OF: Final[Mapping[int, Capability]] = {number: capability for capability, number in _CAPABILITIES.items()}
_MODES: Final = {
    RouteMode.WEIGHTED: model_pb2.ROUTE_MODE_WEIGHTED,
    RouteMode.CHAIN: model_pb2.ROUTE_MODE_CHAIN,
    RouteMode.TIERED: model_pb2.ROUTE_MODE_TIERED,
    RouteMode.BANDIT_THOMPSON: model_pb2.ROUTE_MODE_BANDIT_THOMPSON,
    RouteMode.BANDIT_LINUCB: model_pb2.ROUTE_MODE_BANDIT_LINUCB,
}
_MODES_OF: Final = {
    model_pb2.ROUTE_MODE_UNSPECIFIED: RouteMode.CHAIN,
    **{number: mode for mode, number in _MODES.items()},
}
_KINDS: Final = {
    RolloutKind.CANARY: model_pb2.ROLLOUT_KIND_CANARY,
    RolloutKind.WEIGHTED: model_pb2.ROLLOUT_KIND_WEIGHTED,
    RolloutKind.BLUE_GREEN: model_pb2.ROLLOUT_KIND_BLUE_GREEN,
    RolloutKind.UNKNOWN: model_pb2.ROLLOUT_KIND_UNSPECIFIED,
}
_KINDS_OF: Final[Mapping[int, RolloutKind]] = {
    **{number: kind for kind, number in _KINDS.items()},
    model_pb2.ROLLOUT_KIND_UNSPECIFIED: RolloutKind.CANARY,
}
_BREAKERS: Final = {
    BreakerState.CLOSED: model_pb2.BREAKER_STATE_CLOSED,
    BreakerState.HALF_OPEN: model_pb2.BREAKER_STATE_HALF_OPEN,
    BreakerState.OPEN: model_pb2.BREAKER_STATE_OPEN,
}
_ROLLOUT_STATES: Final = {
    RolloutState.RUNNING: model_pb2.ROLLOUT_STATE_RUNNING,
    RolloutState.PROMOTED: model_pb2.ROLLOUT_STATE_PROMOTED,
    RolloutState.ROLLED_BACK: model_pb2.ROLLOUT_STATE_ROLLED_BACK,
}


def deployments_to_proto(listed: Sequence[tuple[DeploymentVersion, bool]]) -> list[model_pb2.ModelDeployment]:
    """Writes deployments, each with whether it is priced."""
    return [
        model_pb2.ModelDeployment(
            name=deployment.name,
            adapter=deployment.adapter,
            model=deployment.model,
            task=_TASKS[deployment.task],
            in_default_chain=deployment.in_default_chain,
            priced=priced,
            region=deployment.region,
        )
        for deployment, priced in listed
    ]


def listed_to_proto(deployment: RegisteredDeployment, *, priced: bool) -> model_pb2.ModelDeployment:
    """Writes a deployment of a tenant as lists show it: with its newest version."""
    message = deployment_to_proto(deployment, priced=priced)
    del message.versions[1:]
    return message


def deployment_to_proto(deployment: RegisteredDeployment, *, priced: bool = False) -> model_pb2.ModelDeployment:
    """Writes a deployment of a tenant."""
    newest = deployment.versions[0].version if deployment.versions else None
    return model_pb2.ModelDeployment(
        name=deployment.name,
        adapter="" if newest is None else newest.adapter,
        model="" if newest is None else newest.model,
        task=_TASKS[deployment.task],
        priced=priced,
        region="" if newest is None else newest.region,
        deployment_id=deployment.id,
        versions=[version_to_proto(one) for one in deployment.versions],
        retire_time=_time(deployment.retired),
    )


def version_to_proto(registered: RegisteredVersion) -> model_pb2.ModelVersion:
    """Writes a version. Its key is shown to nobody."""
    version = registered.version
    return model_pb2.ModelVersion(
        version=version.version,
        state=_STATES[version.state],
        adapter=version.adapter,
        form=_FORMS[version.form],
        provider=version.provider,
        model=version.model,
        base_url=version.base_url,
        region=version.region,
        context_tokens=version.context_tokens,
        max_output_tokens=version.max_output_tokens,
        capabilities=sorted(_CAPABILITIES[one] for one in version.capabilities or ()),
        tier=model_pb2.ModelTier.ValueType(version.tier.value),
        max_concurrency=version.max_concurrency,
        requests_per_minute=version.requests_per_minute,
        tokens_per_minute=version.tokens_per_minute,
        image_tokens=version.image_tokens,
        check_failures=registered.failures,
        create_time=_time(registered.created),
    )


def health_to_proto(health: Health, *, replica: str, now: datetime) -> model_pb2.ModelHealth:
    """Writes how a replica finds a version."""
    failed = now - timedelta(seconds=health.failed_seconds_ago) if health.last_failure else None
    probed = None if health.probed_seconds_ago is None else now - timedelta(seconds=health.probed_seconds_ago)
    return model_pb2.ModelHealth(
        deployment=health.version.name,
        version=health.version.version,
        replica=replica,
        breaker=_BREAKERS[health.breaker],
        last_failure=health.last_failure,
        last_failure_time=_time(failed),
        p50_us=health.p50_us,
        p95_us=health.p95_us,
        probe_time=_time(probed),
        probe_failure=health.probe_failure,
        probe_us=health.probe_us,
    )


def unreadable_to_proto(name: str, *, replica: str) -> model_pb2.ModelHealth:
    """Writes that a replica cannot read what a name stands for, so that nobody is asked there."""
    return model_pb2.ModelHealth(
        deployment=name,
        replica=replica,
        breaker=model_pb2.BREAKER_STATE_OPEN,
        last_failure=ModelUnreadable.reason,
    )


def task_of(number: int) -> Task:
    """Reads a task; unspecified means GENERATE."""
    return _known(_TASKS_OF, number, "task")


def version_of(message: model_pb2.ModelVersion) -> DeploymentVersion:
    """Reads a version as it is to be registered; what is output only is passed over."""
    return DeploymentVersion(
        name="",
        adapter=message.adapter,
        model=message.model,
        in_default_chain=False,
        region=message.region,
        state=VersionState.CHECKING,
        form=_known(_FORMS_OF, message.form, "version.form"),
        provider=message.provider,
        base_url=message.base_url,
        context_tokens=message.context_tokens,
        max_output_tokens=message.max_output_tokens,
        capabilities=frozenset(
            _known(_CAPABILITIES_OF, one, f"version.capabilities[{index}]")
            for index, one in enumerate(message.capabilities)
        ),
        tier=_tier(message.tier, "version.tier"),
        max_concurrency=message.max_concurrency,
        requests_per_minute=message.requests_per_minute,
        tokens_per_minute=message.tokens_per_minute,
        image_tokens=message.image_tokens,
    )


def route_of(message: model_pb2.ModelRoute, *, usual: HopLimits) -> tuple[Route, int | None]:
    """Reads a route, and which revision of it was read before; None: it does not matter.

    Args:
        usual: what holds where the route does not say how its members are asked.
    """
    if message.mode not in _MODES_OF:
        raise Invalid("route.mode", "is not one of the contract's values")
    if message.policy.sticky_key:
        raise Invalid("route.policy.sticky_key", "is for calls to say")
    if message.etag and not (message.etag.isdecimal() and len(message.etag) < 19):
        raise Invalid("route.etag", "must be what was read")
    route = Route(
        name=message.name,
        mode=_MODES_OF[message.mode],
        members=tuple(
            RouteMember(deployment=one.deployment, weight_permille=one.weight_permille) for one in message.members
        ),
        hop=_hop(message.hop, usual),
        policy=policy_of(message.policy, field="route.policy"),
        cache_seconds=_seconds(message.cache.exact_ttl),
        semantic_threshold=message.cache.semantic_threshold,
        shadow=_shadow(message.shadow) if message.HasField("shadow") else None,
        sla_seconds=_seconds(message.sla) if message.HasField("sla") else None,
        min_tier=_tier(message.min_tier, "route.min_tier"),
        reward=_reward(message.reward) if message.HasField("reward") else None,
    )
    return route, int(message.etag) if message.etag else None


def route_to_proto(route: Route) -> model_pb2.ModelRoute:
    """Writes a route."""
    return model_pb2.ModelRoute(
        name=route.name,
        mode=_MODES[route.mode],
        members=[
            model_pb2.RouteMember(deployment=one.deployment, weight_permille=one.weight_permille)
            for one in route.members
        ],
        hop=model_pb2.HopPolicy(
            tries=route.hop.tries,
            first_byte=_duration(route.hop.first_byte_seconds),
            between_bytes=_duration(route.hop.between_seconds),
            repairs=route.hop.repairs,
        ),
        policy=policy_to_proto(route.policy) if route.policy != USUAL else None,
        shadow=_shadow_to_proto(route.shadow) if route.shadow is not None else None,
        sla=None if route.sla_seconds is None else _duration(route.sla_seconds),
        cache=_cache(route),
        min_tier=model_pb2.ModelTier.ValueType(route.min_tier.value),
        reward=None if route.reward is None else _reward_to_proto(route.reward),
        etag=str(route.revision),
    )


def rollout_of(message: model_pb2.ModelRollout, *, rollout_id: str, now: datetime) -> Rollout:
    """Reads a rollout that is to begin now."""
    kind = _known(_KINDS_OF, message.kind, "rollout.kind")
    steps = checked_steps(kind, message.steps_permille)
    return Rollout(
        id=rollout_id,
        route=message.route,
        stable=VersionName(deployment=message.stable.deployment, version=message.stable.version),
        canary=VersionName(deployment=message.canary.deployment, version=message.canary.version),
        kind=kind,
        steps_permille=steps,
        step=0,
        share_permille=steps[0],
        state=RolloutState.RUNNING,
        revision=1,
        step_min_seconds=_seconds(message.step_min) if message.HasField("step_min") else 60.0,
        quality_margin=message.quality_margin,
        started=now,
        step_began=now,
    )


def rollout_to_proto(rollout: Rollout, seen: Seen | None = None) -> model_pb2.ModelRollout:
    """Writes a rollout, with what its judge has seen where that is asked for."""
    return model_pb2.ModelRollout(
        rollout_id=rollout.id,
        route=rollout.route,
        stable=model_pb2.ModelVersionRef(deployment=rollout.stable.deployment, version=rollout.stable.version),
        canary=model_pb2.ModelVersionRef(deployment=rollout.canary.deployment, version=rollout.canary.version),
        kind=_KINDS[rollout.kind],
        steps_permille=rollout.steps_permille,
        step_min=_duration(rollout.step_min_seconds),
        quality_margin=rollout.quality_margin,
        state=_ROLLOUT_STATES[rollout.state],
        share_permille=rollout.share_permille,
        evidence=[] if seen is None else [_evidence(seen, kind) for kind in Kind],
        reason=rollout.reason,
        decided_by=rollout.decided_by,
        start_time=_time(rollout.started),
        decide_time=_time(rollout.decided),
    )


def _evidence(seen: Seen, kind: Kind) -> model_pb2.RolloutEvidence:
    return model_pb2.RolloutEvidence(
        metric=kind.value,
        canary_events=seen.events(kind, Arm.CANARY),
        stable_events=seen.events(kind, Arm.STABLE),
        e_value=seen.value(kind),
    )


def comparison_to_proto(pair: Pair, found: Compared) -> model_pb2.ModelComparison:
    """Writes how a route and a shadow compare, each sum as the mean of its pairs."""
    pairs = found.pairs or 1
    return model_pb2.ModelComparison(
        shadow=pair.shadow,
        pairs=found.pairs,
        same_form_permille=round(1000 * found.same_form / pairs),
        similarity=found.similarity / pairs,
        skipped=found.skipped,
        route_side=model_pb2.ComparedSide(
            failed=found.main_failed,
            latency_us=round(found.main_us / pairs),
            cost_nano_usd=round(found.main_nano_usd / pairs),
            characters=round(found.main_characters / pairs),
        ),
        shadow_side=model_pb2.ComparedSide(
            failed=found.shadow_failed,
            latency_us=round(found.shadow_us / pairs),
            cost_nano_usd=round(found.shadow_nano_usd / pairs),
            characters=round(found.shadow_characters / pairs),
        ),
    )


def _shadow(message: model_pb2.ShadowPolicy) -> Shadow:
    return Shadow(deployment=message.deployment, permille=message.permille)


def _shadow_to_proto(shadow: Shadow) -> model_pb2.ShadowPolicy:
    return model_pb2.ShadowPolicy(deployment=shadow.deployment, permille=shadow.permille)


def _reward(message: model_pb2.RewardPolicy) -> RewardPolicy:
    usual = RewardPolicy()
    weights = message.quality_permille, message.cost_permille, message.latency_permille
    usual_weights = usual.quality_permille, usual.cost_permille, usual.latency_permille
    quality, cost, latency = weights if any(weights) else usual_weights
    return RewardPolicy(
        quality_permille=quality,
        cost_permille=cost,
        latency_permille=latency,
        dear_nano_usd=message.dear_nano_usd or usual.dear_nano_usd,
    )


def _reward_to_proto(reward: RewardPolicy) -> model_pb2.RewardPolicy:
    return model_pb2.RewardPolicy(
        quality_permille=reward.quality_permille,
        cost_permille=reward.cost_permille,
        latency_permille=reward.latency_permille,
        dear_nano_usd=reward.dear_nano_usd,
    )


def _hop(message: model_pb2.HopPolicy, usual: HopLimits) -> HopLimits:
    return HopLimits(
        tries=message.tries or usual.tries,
        first_byte_seconds=_seconds(message.first_byte) if message.HasField("first_byte") else usual.first_byte_seconds,
        between_seconds=_seconds(message.between_bytes) if message.HasField("between_bytes") else usual.between_seconds,
        repairs=message.repairs if message.HasField("repairs") else usual.repairs,
    )


def _known(values: Mapping[int, Value], number: int, field: str) -> Value:
    if number not in values:
        raise Invalid(field, "is not one of the contract's values")
    return values[number]


def _tier(number: int, field: str) -> Tier:
    return _known({tier.value: tier for tier in Tier}, number, field)


def _cache(route: Route) -> model_pb2.CachePolicy | None:
    if not route.cache_seconds:
        return None
    return model_pb2.CachePolicy(exact_ttl=_duration(route.cache_seconds), semantic_threshold=route.semantic_threshold)


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1_000_000_000


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromMicroseconds(round(seconds * 1_000_000))
    return message


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message
