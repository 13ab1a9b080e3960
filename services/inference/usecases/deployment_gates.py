"""Lets this replica ask each deployment as often as that is good for both. A `Gatekeeper`."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from math import inf
from random import Random
from typing import Final

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import OutputInvalid, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from services.inference.domain.fairness.provider_limit import ProviderLimit
from services.inference.domain.reliability.breaker import Breaker, BreakerState
from services.inference.domain.reliability.cooldown import Cooldown
from services.inference.domain.reliability.health import Health, HealthNotes
from services.inference.domain.reliability.retry_budget import RetryBudget
from services.inference.domain.route import AttemptOutcome, Candidate
from services.inference.usecases.ports import Permit, Probe, Wait
from services.meshkit.content import Usage
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

BREAKER_OPEN: Final = "BREAKER_OPEN"
COOLING_DOWN: Final = "COOLING_DOWN"
AT_ITS_LIMIT: Final = "AT_ITS_LIMIT"
RETRIES_SPENT: Final = "RETRIES_SPENT"
#: A bound counts a token for each byte; providers that limit tokens count about as many as there are.
_BYTES_OF_A_TOKEN: Final = 4
#: Versions that are remembered; of more, those asked the longest ago begin anew.
_MOST: Final = 4096
#: One of which nothing was heard for so long is looked at; so far are the times of looks spread; so many are at once.
_IDLE_SECONDS: Final = 30.0
_SPREAD: Final = 0.2
_MOST_LOOKED_AT: Final = 256
#: What shows that a deployment is there, whatever it thinks of the call.
_ALIVE: Final = ("", ProviderRefused.reason, ProviderRateLimited.reason, OutputInvalid.reason)


class _Gate:
    """What is known of one version."""

    def __init__(self, version: DeploymentVersion, *, failures: int, probe_at: float) -> None:
        self.version = version
        #: When it may be looked at.
        self.probe_at = probe_at
        self.limit = ProviderLimit(version)
        self.breaker = Breaker(in_a_row=failures)
        self.cooldown = Cooldown()
        self.repeats = RetryBudget()
        self.health = HealthNotes()


class DeploymentGates:
    """A breaker, a cooldown, the provider's limits and a purse of repeats for each version.

    Args:
        failures: in a row, that open a breaker.
        probe_seconds: pause between two looks at a version that is left alone or idle; 0: it is not looked at.
    """

    def __init__(self, *, failures: int, dice: Random, probe_seconds: float = 0.0) -> None:
        self._failures = failures
        self._dice = dice
        self._probe_seconds = probe_seconds
        self._gates = OrderedDict[tuple[str, str, int], _Gate]()
        for state in BreakerState:
            metrics.MODEL_BREAKERS.labels(str(state)).set_function(partial(self._in, state))

    def allow(self, candidate: Candidate, *, bound: Usage, now: float, repeat: bool = False) -> Permit | Wait:
        """See `Gatekeeper.allow`."""
        tokens = bound.input // _BYTES_OF_A_TOKEN + bound.output
        gate = self._gate(candidate, now)
        if (seconds := gate.cooldown.wait(now)) > 0:
            return Wait(seconds=seconds, reason=COOLING_DOWN)
        if (seconds := gate.breaker.wait(now)) > 0:
            return Wait(seconds=seconds, reason=BREAKER_OPEN)
        if (seconds := gate.limit.wait(tokens=tokens, now=now)) > 0:
            return Wait(seconds=seconds, reason=AT_ITS_LIMIT)
        if not repeat:
            gate.repeats.first()
        elif not gate.repeats.take():
            return Wait(seconds=0.0, reason=RETRIES_SPENT)
        gate.limit.begin(tokens=tokens)
        return Permit(candidate=candidate, probing=gate.breaker.enter())

    def is_open(self, candidate: Candidate, *, now: float) -> bool:
        """See `Gatekeeper.is_open`."""
        gate = self._gates.get(_key(candidate.version))
        return gate is None or (gate.cooldown.wait(now) <= 0 and gate.breaker.wait(now) <= 0)

    def done(self, permit: Permit, outcome: AttemptOutcome, *, now: float) -> None:
        """See `Gatekeeper.done`."""
        gate = self._gate(permit.candidate, now)
        gate.limit.end()
        gate.health.note(outcome, now)
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
            gate.probe_at = self._next_look(now)
            self._tell(permit.candidate.version, gate.breaker.state)

    def due(self, *, now: float) -> Sequence[DeploymentVersion]:
        """See `ProbedGates.due`."""
        found: list[DeploymentVersion] = []
        # Those that were asked last come first, if there are too many.
        for gate in reversed(self._gates.values()):
            idle = now - gate.health.heard > _IDLE_SECONDS
            if now < gate.probe_at or not (idle or gate.breaker.state is BreakerState.OPEN):
                continue
            gate.probe_at = self._next_look(now)
            found.append(gate.version)
            if len(found) == _MOST_LOOKED_AT:
                break
        return found

    def probed(self, version: DeploymentVersion, probe: Probe, *, now: float) -> None:
        """See `ProbedGates.probed`. One that answers may be asked by one call; what it says is not believed further."""
        gate = self._gates.get(_key(version))
        if gate is None:
            return
        gate.health.probed(probe.failure, probe.latency_us, now)
        if not probe.failure and gate.breaker.state is BreakerState.OPEN:
            gate.breaker.looked_at()
            self._tell(version, gate.breaker.state)

    def _next_look(self, now: float) -> float:
        if not self._probe_seconds:
            return inf
        return now + self._probe_seconds * (1 + _SPREAD * (2 * self._dice.random() - 1))

    def health(self, versions: Sequence[DeploymentVersion], *, now: float) -> Sequence[Health]:
        """See `KnowsHealth.health`."""
        found: list[Health] = []
        for version in versions:
            gate = self._gates.get(_key(version))
            if gate is None:
                found.append(Health(version=version))
            else:
                found.append(gate.health.read(version, breaker=gate.breaker.state, now=now))
        return found

    def _gate(self, candidate: Candidate, now: float) -> _Gate:
        version = candidate.version
        key = _key(version)
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _Gate(version, failures=self._failures, probe_at=self._next_look(now))
            if len(self._gates) > _MOST:
                self._gates.popitem(last=False)
        self._gates.move_to_end(key)
        return gate

    def _in(self, state: BreakerState) -> int:
        return sum(gate.breaker.state is state for gate in self._gates.values())

    def _tell(self, version: DeploymentVersion, state: BreakerState) -> None:
        metrics.MODEL_BREAKER_CHANGES.labels(str(state)).inc()
        log.warning("the breaker of a model changed", deployment=version.name, state=str(state))


def _key(version: DeploymentVersion) -> tuple[str, str, int]:
    return version.deployment_id, version.name, version.version
