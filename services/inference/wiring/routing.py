"""Puts together where calls may go, and who goes first."""

from services.inference.providers.egress import Egress, EgressRule
from services.inference.settings import InferenceSettings


def egress_rule(settings: InferenceSettings) -> EgressRule:
    """Gives the rule of what prompts may be sent to."""
    return EgressRule(Egress(settings.egress), networks=settings.mesh_networks, hosts=settings.egress_hosts)
