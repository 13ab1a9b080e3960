"""A changed split of a route between two versions."""

from dataclasses import dataclass
from enum import StrEnum


class RolloutKind(StrEnum):
    """How a rollout goes on."""

    #: Step by step, as the judge allows.
    CANARY = "canary"
    #: Step by step, as somebody promotes it.
    WEIGHTED = "weighted"
    #: All at once.
    BLUE_GREEN = "blue_green"


class RolloutState(StrEnum):
    """How far a rollout is."""

    RUNNING = "running"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionName:
    """Which version of which deployment; version 0 is one of the settings."""

    deployment: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A changed split of a route between two versions, as it stands now."""

    id: str
    route: str
    stable: VersionName
    canary: VersionName
    kind: RolloutKind
    #: The canary's share step by step, thousandths, growing.
    steps_permille: tuple[int, ...]
    step: int
    #: The canary's share now, thousandths.
    share_permille: int
    state: RolloutState
    #: Grows by one with each change.
    revision: int
