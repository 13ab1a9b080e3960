"""How fast and how dear the versions are that this replica asks, by their last answers."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.route import AttemptOutcome
from services.inference.domain.routing.tiered import Pace, keeps, tiered
from services.meshkit.core.clock import Clock

#: Versions that are remembered; beyond, the one not heard of for longest is forgotten.
_MOST: Final = 2_000


class Paces:
    """Remembers what answers took and cost, and orders versions by it."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._paces = OrderedDict[tuple[str, str, int], Pace]()

    def note(self, version: DeploymentVersion, outcome: AttemptOutcome) -> None:
        """Takes in an answer; what failed says nothing of how fast answers are."""
        if outcome.reason:
            return
        key = _key(version)
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = Pace()
            if len(self._paces) > _MOST:
                self._paces.popitem(last=False)
        self._paces.move_to_end(key)
        pace.note(latency_us=outcome.latency_us, cost_nano_usd=outcome.cost_nano_usd, now=self._clock.monotonic())

    def ordered(self, versions: Sequence[DeploymentVersion], *, sla_seconds: float | None) -> list[DeploymentVersion]:
        """Gives the versions, in the order of `tiered`."""
        known = {one.full_name: pace for one in versions if (pace := self._paces.get(_key(one))) is not None}
        return tiered(versions, known, sla_seconds=sla_seconds, now=self._clock.monotonic())

    def keeps(self, version: DeploymentVersion, *, sla_seconds: float) -> bool:
        """Tells whether a version is likely to answer in time."""
        return keeps(self._paces.get(_key(version)), sla_seconds=sla_seconds, now=self._clock.monotonic())


def _key(version: DeploymentVersion) -> tuple[str, str, int]:
    return version.deployment_id, version.name, version.version
