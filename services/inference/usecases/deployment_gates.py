"""Lets this replica ask each deployment as often as that is good for both. A `Gatekeeper`."""

from collections import OrderedDict
from random import Random
from typing import Final

from services.inference.domain.errors import OutputInvalid, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from services.inference.domain.reliability.breaker import Breaker, BreakerState
from services.inference.domain.reliability.cooldown import Cooldown
from services.inference.domain.reliability.retry_budget import RetryBudget
from services.inference.domain.route import AttemptOutcome, Candidate
from services.inference.usecases.ports import Permit, Wait
from services.meshkit.content import Usage
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

BREAKER_OPEN: Final = "BREAKER_OPEN"
COOLING_DOWN: Final = "COOLING_DOWN"
RETRIES_SPENT: Final = "RETRIES_SPENT"
#: Versions that are remembered; of more, those asked the longest ago begin anew.
_MOST: Final = 4096
#: What shows that a deployment is there, whatever it thinks of the call.
_ALIVE: Final = ("", ProviderRefused.reason, ProviderRateLimited.reason, OutputInvalid.reason)


class _Gate:
    """What is known of one version."""

    def __init__(self, *, failures: int) -> None:
        self.breaker = Breaker(in_a_row=failures)
        self.cooldown = Cooldown()
        self.repeats = RetryBudget()


class DeploymentGates:
    """A breaker, a cooldown and a purse of repeats for each version.

    Args:
        failures: in a row, that open a breaker.
    """

    def __init__(self, *, failures: int, dice: Random) -> None:
        self._failures = failures
        self._dice = dice
        self._gates = OrderedDict[tuple[str, str, int], _Gate]()

    def allow(self, candidate: Candidate, *, bound: Usage, now: float, repeat: bool = False) -> Permit | Wait:
        """See `Gatekeeper.allow`."""
        del bound  # No limit counts tokens here.
        gate = self._gate(candidate)
        if (seconds := gate.cooldown.wait(now)) > 0:
            return Wait(seconds=seconds, reason=COOLING_DOWN)
        if (seconds := gate.breaker.wait(now)) > 0:
            return Wait(seconds=seconds, reason=BREAKER_OPEN)
        if not repeat:
            gate.repeats.first()
        elif not gate.repeats.take():
            return Wait(seconds=0.0, reason=RETRIES_SPENT)
        return Permit(candidate=candidate, probing=gate.breaker.enter())

    def done(self, permit: Permit, outcome: AttemptOutcome, *, now: float) -> None:
        """See `Gatekeeper.done`."""
        gate = self._gate(permit.candidate)
        before = gate.breaker.state
        if outcome.reason == ProviderRateLimited.reason:
            gate.cooldown.asked(outcome.retry_after_seconds, now)
        if outcome.reason in _ALIVE:
            gate.breaker.answered(now, probing=permit.probing)
        elif outcome.reason == ProviderUnavailable.reason:
            gate.breaker.failed(now, probing=permit.probing, dice=self._dice.random())
        else:
            gate.breaker.left(probing=permit.probing)
        if gate.breaker.state is not before:
            self._tell(permit.candidate, gate.breaker.state)

    def _gate(self, candidate: Candidate) -> _Gate:
        version = candidate.version
        key = (version.deployment_id, version.name, version.version)
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _Gate(failures=self._failures)
            if len(self._gates) > _MOST:
                self._gates.popitem(last=False)
        self._gates.move_to_end(key)
        return gate

    def _tell(self, candidate: Candidate, state: BreakerState) -> None:
        metrics.MODEL_BREAKER_CHANGES.labels(str(state)).inc()
        log.warning("the breaker of a model changed", deployment=candidate.version.name, state=str(state))
