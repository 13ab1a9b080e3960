"""Looks at deployments that nobody asks just now, without a prompt and so without money."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import AdapterUnusable, ProviderUnavailable
from services.inference.usecases.ports import Probe, ProbedProvider
from services.meshkit.core.clock import Clock
from services.meshkit.telemetry.logs import logger

_EVERY_SECONDS: Final = 1.0
#: Longest wait for an answer, seconds.
_PROBE_SECONDS: Final = 5.0
#: Deployments that are looked at at once.
_AT_ONCE: Final = 16

log = logger(__name__)


class ProbedGates(Protocol):
    """Knows which versions are to be looked at."""

    def due(self, *, now: float) -> Sequence[DeploymentVersion]:
        """Gives those whose time has come, each once until it comes again."""
        ...

    def probed(self, version: DeploymentVersion, probe: Probe, *, now: float) -> None:
        """Hears how one was found."""
        ...


class OpensProbes(Protocol):
    """Opens what looks at versions."""

    def prober(self, version: DeploymentVersion) -> ProbedProvider | None:
        """Gives what looks at a version; None: it cannot be looked at without a prompt.

        Raises: AdapterUnusable, ProviderUnavailable: as `OpenModels.provider`.
        """
        ...


class ProbeHealth:
    """Background work: looks at each deployment that is left alone or idle, now and then.

    One that answers is asked by the next call, which finds out the rest: no look closes a breaker.

    Args:
        stands: says whether a version is there to be asked at all.
    """

    def __init__(
        self, gates: ProbedGates, models: OpensProbes, *, stands: Callable[[DeploymentVersion], bool], clock: Clock
    ) -> None:
        self._gates = gates
        self._models = models
        self._stands = stands
        self._clock = clock
        self._seats = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self) -> None:
        """Looks until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Looks once at all that are due."""
        await asyncio.gather(*(self._look_at(version) for version in self._gates.due(now=self._clock.monotonic())))

    async def _look_at(self, version: DeploymentVersion) -> None:
        try:
            prober = self._prober(version)
            if prober is None:
                return
            async with self._seats:
                probe = await prober.probe(version, seconds=_PROBE_SECONDS)
            self._gates.probed(version, probe, now=self._clock.monotonic())
        except Exception:
            # An adapter of others may do anything, also as it opens and in what it finds; the rest are looked at.
            log.exception("a model cannot be looked at", deployment=version.name)

    def _prober(self, version: DeploymentVersion) -> ProbedProvider | None:
        try:
            return self._models.prober(version) if self._stands(version) else None
        except (AdapterUnusable, ProviderUnavailable):
            return None
