"""Puts together where calls may go, and who goes first."""

from services.inference.domain.fairness.fair_queue import FairQueue
from services.inference.providers.egress import Egress, EgressRule
from services.inference.settings import InferenceSettings
from services.inference.usecases.admit import FairScheduler
from services.meshkit.core.clock import Clock


def egress_rule(settings: InferenceSettings) -> EgressRule:
    """Gives the rule of what prompts may be sent to."""
    return EgressRule(Egress(settings.egress), networks=settings.mesh_networks, hosts=settings.egress_hosts)


def scheduler(settings: InferenceSettings, *, clock: Clock) -> FairScheduler:
    """Makes the seats of this replica."""
    queue = FairQueue(
        seats=settings.max_model_calls,
        most_waiting=settings.max_waiting_calls,
        most_waiting_each=settings.max_waiting_calls_per_tenant,
    )
    return FairScheduler(queue, wait_seconds=settings.seat_wait_seconds, clock=clock)
