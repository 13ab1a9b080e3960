"""What one call has come to, while one deployment after the other is asked."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta

from services.inference.domain.answer import AttemptNote
from services.inference.domain.errors import AnswerBrokeOff, ProviderRateLimited, ProviderUnavailable, most_hopeful
from services.inference.domain.prompt import Prompt
from services.inference.domain.reliability.mid_stream import Resumption, resumption
from services.inference.domain.route import Candidate, Plan
from services.inference.usecases.asked import Asked
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.deployment_gates import AT_ITS_LIMIT, COOLING_DOWN
from services.inference.usecases.ports import Wait
from services.meshkit.content import Label
from services.meshkit.content.law import Verdict
from services.meshkit.core.errors import MeshError


@dataclass(slots=True, kw_only=True)
class Course:
    """What one call has come to."""

    asked: Asked
    plan: Plan
    release: Release | None
    #: Who is most likely asked first, and the verdict on what is sent to it.
    first: Candidate
    before: Awaitable[Verdict] | None
    #: Who may still be asked.
    waiting: list[Candidate]
    #: Who was passed over, and why.
    passed: list[tuple[Candidate, Wait]] = field(default_factory=list[tuple[Candidate, Wait]])
    failures: list[MeshError] = field(default_factory=list[MeshError])
    notes: list[AttemptNote] = field(default_factory=list[AttemptNote])
    failed: list[str] = field(default_factory=list[str])
    #: True once the caller's budget lets only the cheapest through.
    cheapest: bool = False
    #: True once what the caller saw is to be started again.
    void: bool = False
    #: What the caller saw and another is to continue, its label, and whose it is.
    shown: str = ""
    label: Label | None = None
    broke_off: str = ""
    #: All that the caller saw when the last attempt ended.
    released: str = ""
    continued_by: str = ""
    #: What is sent in place of the prompt to have an answer repaired.
    repaired: Prompt | None = None
    #: How long the call has waited for those that were to be left alone, seconds.
    waited: float = 0.0
    #: True once a second one was asked beside the first: that happens once.
    hedged: bool = False

    def fail(self, candidate: Candidate, failure: MeshError) -> None:
        """Takes down that a candidate did not answer."""
        self.failures.append(failure)
        self.failed.append(f"{candidate.version.full_name}: {failure.reason}")

    def may_be_hedged(self, candidate: Candidate) -> bool:
        """Says whether a second one may be asked beside this one: not once anything was shown, or is to be repaired.

        Who is on trial is watched to the end, or a slow one would never be seen to be slow.
        """
        begun = self.hedged or self.void or self.label is not None or self.repaired is not None or self.cheapest
        return candidate.trial is None and not begun


def take_over(course: Course, candidate: Candidate, failure: MeshError) -> None:
    """Prepares for the next attempt what the caller has seen of this one.

    Raises: AnswerBrokeOff: the caller wants no other attempt, or there can be none.
    """
    asked, shown = course.asked, course.released
    match resumption(asked.policy.mid_stream, asked.prompt, shown=shown):
        case Resumption.SILENT:
            pass
        case Resumption.RESTART:
            course.void = True
        case Resumption.CONTINUE:
            label = asked.prompt.label(model=candidate.version.model)
            course.label = label if course.label is None else label.joined(course.label)
            course.shown, course.broke_off = shown, candidate.version.name
        case Resumption.FAIL:
            raise AnswerBrokeOff(candidate.version.name) from failure


def end_of(course: Course) -> MeshError:
    """Gives what the caller hears when nobody is left."""
    if course.broke_off:
        return AnswerBrokeOff(course.broke_off)
    failures = list(course.failures)
    for candidate, wait in course.passed:
        kind = ProviderRateLimited if wait.reason in (COOLING_DOWN, AT_ITS_LIMIT) else ProviderUnavailable
        name = candidate.version.name
        failures.append(
            kind(
                f"{name} is left alone for now; try again later",
                deployment=name,
                retry_after=timedelta(seconds=wait.seconds),
                said={"why": wait.reason},
            )
        )
    return most_hopeful(failures)
