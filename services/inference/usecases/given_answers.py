"""Answers of this replica that the database does not know yet, for whoever says how good they were."""

from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from typing import Final

from services.inference.domain.route import AttemptOutcome, Candidate
from services.inference.domain.routing.reward import Earned
from services.inference.usecases.arm_index import Has, has_all
from services.inference.usecases.learning_ports import GivenAnswer, LearntAnswer, TriedAnswer
from services.meshkit.core.identity import TenantId

#: Answers that wait to be kept while the database is away; beyond, the oldest can be judged by nobody.
_MOST: Final = 10_000


class GivenAnswers:
    """Keeps them for about a second, or for as long as the database is away."""

    def __init__(self) -> None:
        self._answers = deque[GivenAnswer](maxlen=_MOST)
        self._has_route: Has = has_all

    def keep_to(self, has_route: Has) -> None:
        """Has nothing kept of routes that are gone."""
        self._has_route = has_route

    def forget_gone(self, tenants: Collection[TenantId] | None) -> None:
        """Forgets answers of routes that are gone, as those of a tenant that was erased.

        Args:
            tenants: whose may be; None: anybody's.
        """
        kept = (
            one
            for one in self._answers
            if (tenants is not None and one.tenant not in tenants) or self._has_route(one.tenant, one.route)
        )
        self._answers = deque(kept, maxlen=_MOST)

    def note(self, candidate: Candidate, outcome: AttemptOutcome, earned: Earned | None) -> None:
        """Takes in what a candidate answered, where a bandit or the judge of a rollout cares how good it was.

        Args:
            earned: what its bandit makes of it; None: there is none, or it learnt nothing.
        """
        if outcome.reason or not outcome.hold_id:
            return
        if candidate.lesson is not None and earned is not None:
            self._answers.append(LearntAnswer(hold_id=outcome.hold_id, lesson=candidate.lesson, earned=earned))
        if candidate.trial is not None:
            self._answers.append(TriedAnswer(hold_id=outcome.hold_id, trial=candidate.trial))

    def taken(self) -> dict[TenantId, list[GivenAnswer]]:
        """Takes all out, by tenant."""
        found: dict[TenantId, list[GivenAnswer]] = defaultdict(list)
        for one in self._answers:
            found[one.tenant].append(one)
        self._answers.clear()
        return found

    def put_back(self, answers: Sequence[GivenAnswer]) -> None:
        """Puts back what could not be kept, but for what is gone meanwhile."""
        standing = (one for one in answers if self._has_route(one.tenant, one.route))
        self._answers = deque((*standing, *self._answers), maxlen=_MOST)
