"""Puts together where calls may go, and who goes first."""

from services.inference.domain.answer_cache import KeptAnswers
from services.inference.domain.deployment import Deployments, DeploymentVersion, Task
from services.inference.domain.fairness.fair_queue import FairQueue
from services.inference.domain.similar_answers import SimilarAnswers
from services.inference.providers.egress import Egress, EgressRule
from services.inference.settings import InferenceSettings
from services.inference.usecases.admit import FairScheduler
from services.inference.usecases.cached_answers import CachedAnswers
from services.inference.usecases.embed import Embed
from services.inference.usecases.near_answers import NearAnswers
from services.meshkit.core.clock import Clock
from services.meshkit.outward.addresses import AddressRule
from services.meshkit.telemetry import metrics


def egress_rule(settings: InferenceSettings) -> EgressRule:
    """Gives the rule of what prompts may be sent to."""
    return EgressRule(Egress(settings.egress), networks=settings.mesh_networks, hosts=settings.egress_hosts)


def addresses_of_tenants(settings: InferenceSettings) -> AddressRule:
    """Gives the rule of where models may stand that tenants register."""
    return AddressRule(allow_private=settings.private_endpoints)


def comparing(deployments: Deployments) -> list[DeploymentVersion]:
    """Gives the installation's models inside the mesh that make vectors: without one nothing compares questions."""
    return [one for one in deployments.all if one.task is Task.EMBED and one.inside_mesh]


def cached_answers(
    settings: InferenceSettings, *, deployments: Deployments, embed: Embed, clock: Clock
) -> CachedAnswers:
    """Makes the memory of answers. Questions are compared where a model inside the mesh makes vectors."""
    kept = KeptAnswers(most_bytes=settings.answer_cache_bytes)
    metrics.show_size("inference.answers", kept, size_bytes=lambda: kept.bytes)
    inside = comparing(deployments)
    near: NearAnswers | None = None
    if inside:
        # Costs memory that replicas without an embedder have no use for.
        from services.inference.domain.nearest import nearest

        similar = SimilarAnswers(nearest, most_bytes=settings.answer_cache_bytes)
        metrics.show_size("inference.similar_answers", similar, size_bytes=lambda: similar.bytes)
        near = NearAnswers(similar, embed=embed, embedder=inside[0], clock=clock)
    return CachedAnswers(kept, seconds=settings.answer_cache_seconds, clock=clock, near=near)


def scheduler(settings: InferenceSettings, *, clock: Clock) -> FairScheduler:
    """Makes the seats of this replica."""
    queue = FairQueue(
        seats=settings.max_model_calls,
        most_waiting=settings.max_waiting_calls,
        most_waiting_each=settings.max_waiting_calls_per_tenant,
    )
    return FairScheduler(queue, wait_seconds=settings.seat_wait_seconds, clock=clock)
