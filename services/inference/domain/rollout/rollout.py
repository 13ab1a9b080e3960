"""A changed split of a route between two versions: its steps, and how it ends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Final, Self

from services.inference.domain.errors import RolloutDecided
from services.meshkit.core.errors import Invalid

#: All calls, thousandths.
ALL: Final = 1000
MOST_STEPS: Final = 20
#: Who decides when nobody else does.
JUDGE: Final = "judge"
_CANARY_STEPS: Final = (100, 500)
#: Blue-green leaves this much with the stable version: without anything beside it, nobody can say who is worse.
_BLUE_GREEN_STEPS: Final = (950,)


class RolloutKind(StrEnum):
    """How a rollout goes on."""

    #: Step by step, as the judge allows.
    CANARY = "canary"
    #: Step by step, as somebody promotes it.
    WEIGHTED = "weighted"
    #: At once, but for what is left to compare with.
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

    def __str__(self) -> str:
        return f"{self.deployment}@{self.version}" if self.version else self.deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A changed split of a route between two versions, as it stands now."""

    id: str
    route: str
    stable: VersionName
    canary: VersionName
    kind: RolloutKind
    #: The canary's share step by step, thousandths, growing; after the last one it has all.
    steps_permille: tuple[int, ...]
    step: int
    #: The canary's share now, thousandths.
    share_permille: int
    state: RolloutState
    #: Grows by one with each change.
    revision: int
    #: Shortest time of a step.
    step_min_seconds: float = 60.0
    #: By how much the canary's scores may be lower on average, 0 to 1. Above 0 no step is taken before it is shown that
    #: they are not; at 0 nobody waits for scores.
    quality_margin: float = 0.0
    started: datetime
    #: When the step began.
    step_began: datetime
    decided: datetime | None = None
    #: Why it was decided so; empty while it is not.
    reason: str = ""
    #: `judge`, or whose command it was.
    decided_by: str = ""

    def promoted(self, *, now: datetime, by: str, reason: str) -> Self:
        """Takes the next step; after the last one the canary has all.

        Raises: RolloutDecided.
        """
        self._check_running()
        step = self.step + 1
        if step < len(self.steps_permille):
            share = self.steps_permille[step]
            return replace(self, step=step, share_permille=share, step_began=now, revision=self.revision + 1)
        return self._ended(RolloutState.PROMOTED, share=ALL, now=now, by=by, reason=reason)

    def rolled_back(self, *, now: datetime, by: str, reason: str) -> Self:
        """Gives all back to the stable version. What is rolled back stays so.

        Raises: RolloutDecided: it is promoted.
        """
        if self.state is RolloutState.ROLLED_BACK:
            return self
        self._check_running()
        return self._ended(RolloutState.ROLLED_BACK, share=0, now=now, by=by, reason=reason)

    def _ended(self, state: RolloutState, *, share: int, now: datetime, by: str, reason: str) -> Self:
        return replace(
            self,
            state=state,
            share_permille=share,
            decided=now,
            decided_by=by,
            reason=reason,
            revision=self.revision + 1,
        )

    def _check_running(self) -> None:
        if self.state is not RolloutState.RUNNING:
            raise RolloutDecided(self.id, state=self.state.value)


def checked_steps(kind: RolloutKind, steps_permille: Sequence[int]) -> tuple[int, ...]:
    """Gives the steps of a new rollout; those usual for its kind when none are named.

    Raises: Invalid: they do not grow, or there are too many.
    """
    if not steps_permille:
        return _BLUE_GREEN_STEPS if kind is RolloutKind.BLUE_GREEN else _CANARY_STEPS
    # The step to all is the promotion itself.
    steps: tuple[int, ...] = tuple(steps_permille[:-1] if steps_permille[-1] == ALL else steps_permille)
    if not 1 <= len(steps) <= MOST_STEPS:
        raise Invalid("rollout.steps_permille", f"must hold 1 to {MOST_STEPS} steps below {ALL}")
    if kind is RolloutKind.BLUE_GREEN and len(steps) > 1:
        raise Invalid("rollout.steps_permille", "must hold one step for BLUE_GREEN")
    if min(steps) < 1 or max(steps) >= ALL or any(one >= next_one for one, next_one in pairwise(steps)):
        raise Invalid("rollout.steps_permille", f"must grow, from 1 to {ALL}")
    return steps
