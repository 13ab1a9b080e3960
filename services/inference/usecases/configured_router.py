"""Asks the deployments of the settings in their order. A `Router`."""

from services.inference.domain.deployment import Deployments
from services.inference.domain.route import AttemptOutcome, Candidate, HopLimits, Plan
from services.inference.usecases.asked import Asked


class ConfiguredRouter:
    """Knows no routes: `default` is all of them, and each can be asked for by name.

    Args:
        hop: how long and how often each is asked in one call.
    """

    def __init__(self, deployments: Deployments, *, hop: HopLimits) -> None:
        self._deployments = deployments
        self._hop = hop

    def plan(self, asked: Asked, *, regions: tuple[str, ...]) -> Plan:
        """See `Router.plan`."""
        found = self._deployments.generators(asked.model, regions=regions)
        return Plan(candidates=tuple(Candidate(version=one, hop=self._hop) for one in found))

    def told(self, candidate: Candidate, outcome: AttemptOutcome) -> None:
        """See `Router.told`. An order that stands in the settings learns nothing."""
