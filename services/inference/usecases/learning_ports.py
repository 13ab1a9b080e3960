"""What bandits need from outside: a memory that all replicas add to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from services.inference.domain.route import Trial
from services.inference.domain.routing.lesson import ArmName, Learnt, Lesson
from services.inference.domain.routing.reward import Earned
from services.meshkit.core.identity import TenantId

#: Arms that a replica knows, and reads at once. Of one that it does not know it hears again when it learns of it.
MOST_ARMS: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntAnswer:
    """An answer that was learnt from, kept until somebody says how good it was."""

    hold_id: str
    lesson: Lesson
    earned: Earned

    @property
    def tenant(self) -> TenantId:
        """Whose it is."""
        return self.lesson.arm.tenant

    @property
    def route(self) -> str:
        """Which route gave it."""
        return self.lesson.arm.route


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedAnswer:
    """An answer of one side of a rollout, kept until somebody says how good it was."""

    hold_id: str
    trial: Trial

    @property
    def tenant(self) -> TenantId:
        """Whose it is."""
        return self.trial.tenant

    @property
    def route(self) -> str:
        """Which route gave it."""
        return self.trial.rollout.route


GivenAnswer = LearntAnswer | TriedAnswer


class LessonRecords(Protocol):
    """Remembers what bandits have learnt, and from which answers."""

    async def add(
        self, tenant: TenantId, lessons: Mapping[ArmName, Learnt], answers: Sequence[GivenAnswer]
    ) -> Mapping[ArmName, Learnt]:
        """Adds to what arms have learnt and keeps answers. Gives all that these arms have learnt, on all replicas."""
        ...

    async def since(self, moment: datetime | None) -> tuple[datetime, Mapping[ArmName, Learnt]]:
        """Gives all that those arms have learnt to which somebody has added since; any time for None.

        Of more than a replica can know it gives those to which somebody has added last.

        Returns: the moment to ask for next, and what was learnt, the newest first.
        """
        ...

    async def judge(
        self, tenant: TenantId, hold_id: str, quality: float, *, project: str | None
    ) -> Mapping[ArmName, Learnt]:
        """Takes in how good an answer was, once, for its bandit, its rollout or both. Gives all its arm has learnt.

        Args:
            project: of who says so, if bound to one: answers of others are not there.
        Raises: Invalid: the id is none. NotFound: there is no such answer, or it is older than a day. AlreadyExists.
        """
        ...

    async def forget(self) -> None:
        """Forgets answers of which nobody may say more, those of rollouts that ended, and arms unasked for long."""
        ...
