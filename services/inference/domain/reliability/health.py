"""How a replica finds a version, by the calls that it made of it."""

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Final

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import (
    EgressRefused,
    OutputInvalid,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
)
from services.inference.domain.reliability.breaker import BreakerState
from services.inference.domain.route import AttemptOutcome

#: Answers whose times are remembered.
_LATEST: Final = 200
#: Failures that are the version's; others are the caller's, the law's or the money's.
ITS_FAULTS: Final = frozenset(
    one.reason for one in (EgressRefused, OutputInvalid, ProviderRateLimited, ProviderRefused, ProviderUnavailable)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of one version."""

    version: DeploymentVersion
    breaker: BreakerState = BreakerState.CLOSED
    #: Why it failed last, and how long ago; empty: it has not.
    last_failure: str = ""
    failed_seconds_ago: float = 0.0
    #: Time to the whole answer of the last calls: half, and 19 of 20, took less. 0: there were none.
    p50_us: int = 0
    p95_us: int = 0
    #: How long ago it was looked at without a prompt; None: it was not.
    probed_seconds_ago: float | None = None
    #: Why it did not answer then; empty: it did.
    probe_failure: str = ""
    #: How long that took.
    probe_us: int = 0


class HealthNotes:
    """Takes down what came of the calls of one version."""

    def __init__(self) -> None:
        self._latencies = deque[int](maxlen=_LATEST)
        self._last_failure = ""
        self._failed = 0.0
        #: When something was heard of it last; that it was looked at does not count.
        self.heard = -inf
        self._probed: float | None = None
        self._probe_failure, self._probe_us = "", 0

    def probed(self, failure: str, latency_us: int, now: float) -> None:
        """Hears how it was found without a prompt."""
        self._probed, self._probe_failure, self._probe_us = now, failure, latency_us

    def note(self, outcome: AttemptOutcome, now: float) -> None:
        """Hears what came of a call."""
        self.heard = now
        if not outcome.reason:
            self._latencies.append(outcome.latency_us)
        elif outcome.reason in ITS_FAULTS:
            self._last_failure, self._failed = outcome.reason, now

    def read(self, version: DeploymentVersion, *, breaker: BreakerState, now: float) -> Health:
        """Gives what is known now."""
        ordered = sorted(self._latencies) or [0]
        return Health(
            version=version,
            breaker=breaker,
            last_failure=self._last_failure,
            failed_seconds_ago=now - self._failed if self._last_failure else 0.0,
            p50_us=ordered[len(ordered) // 2],
            p95_us=ordered[len(ordered) * 19 // 20],
            probed_seconds_ago=None if self._probed is None else now - self._probed,
            probe_failure=self._probe_failure,
            probe_us=self._probe_us,
        )
