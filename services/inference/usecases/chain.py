"""Asks one deployment after the other until one answers, each as often and as early as it may be asked.

Who is left alone, after failures or because it asked for that, is passed over. When all others have failed, too, and
the time allows, the call waits for the one that may be asked first.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Final

from services.inference.domain.answer import AttemptNote, Continued, Restarted
from services.inference.domain.cheaper import cheapest_of
from services.inference.domain.deployment import DEFAULT, DeploymentVersion, Task
from services.inference.domain.errors import (
    OutputInvalid,
    ProviderRateLimited,
    most_hopeful,
)
from services.inference.domain.reliability.hop_policy import Move, move_after, pause_before_repeat
from services.inference.domain.reliability.mid_stream import continued_prompt
from services.inference.domain.repair import repaired
from services.inference.domain.route import Arm, AttemptOutcome, Candidate, Plan
from services.inference.usecases.asked import Asked
from services.inference.usecases.attempt import Attempt, RawAnswer
from services.inference.usecases.calls_in_flight import Release
from services.inference.usecases.course import Course, end_of, take_over
from services.inference.usecases.deployment_gates import BREAKER_OPEN, RETRIES_SPENT
from services.inference.usecases.ports import (
    Gatekeeper,
    HoldClient,
    ModelProvider,
    OpenModels,
    Permit,
    PriceList,
    Registry,
    Router,
    Wait,
)
from services.inference.usecases.race import Race
from services.meshkit.calls.ports import LawGate
from services.meshkit.content.law import Verdict
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import DeadlineExceeded, MeshError
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.finish import finish
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: What cost says when a budget lets only the cheapest through: the chain goes on with what costs less.
_BUDGET_DEGRADES: Final = "BUDGET_DEGRADES"
#: What an attempt came to whose caller went away.
CANCELLED: Final = "CANCELLED"
#: A call waits this share of its time for a deployment that asked to be left alone, and so long for one that failed.
_SHARE_TO_WAIT: Final = 0.5
_MOST_FOR_A_BREAKER: Final = 2.0
#: A call that is still being made so long after its deadline is ended, whatever it waits for, seconds.
_GRACE_SECONDS: Final = 0.5


#: What was answered, by whom, and what came of asking for it.
_Answered = tuple[RawAnswer, Candidate, AttemptOutcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Concluded:
    """An answer, and what came before it."""

    raw: RawAnswer
    #: Who answered, and what came of asking it, but for what it cost: to be told to the router once that is known.
    candidate: Candidate
    outcome: AttemptOutcome
    #: All deployments that were asked, in order; the one that answered last.
    attempts: tuple[AttemptNote, ...]
    #: Why others did not answer, as `deployment: reason`.
    failed: tuple[str, ...]
    #: Deployment that continued the text of another; empty: nobody had to.
    continued_by: str


class Chain:
    """Gets an answer from the candidates of a plan, without claim and record."""

    def __init__(
        self,
        *,
        registry: Registry,
        models: OpenModels,
        router: Router,
        gates: Gatekeeper,
        law: LawGate,
        holds: HoldClient,
        prices: PriceList,
        tenants: KnowsTenants,
        clock: Clock,
        dice: Random,
    ) -> None:
        self._registry = registry
        self._models = models
        self._router = router
        self._gates = gates
        self._law = law
        self._holds = holds
        self._prices = prices
        self._tenants = tenants
        self._clock = clock
        self._dice = dice
        self._model_label = metrics.BoundedLabel()
        self._payee_label = metrics.BoundedLabel()

    def first_asked(self, plan: Plan) -> Candidate:
        """Gives who will most likely be asked first: the first that is not left alone just now."""
        now = self._clock.monotonic()
        return next((one for one in plan.candidates if self._gates.is_open(one, now=now)), plan.candidates[0])

    async def run(
        self,
        asked: Asked,
        plan: Plan,
        release: Release | None,
        *,
        first: Candidate,
        before: Awaitable[Verdict] | None = None,
    ) -> Concluded:
        """Gives the answer of the first candidate that has one.

        Args:
            release: shows text while it comes, once the law has passed it; None to wait for the whole answer.
            first: what `first_asked` gave, for which law and money were asked already.
            before: verdict on what is sent to it.
        Raises: ProviderFailure, the most hopeful of all; AnswerBrokeOff; DeadlineExceeded, at the latest half a second
            after the deadline; LawBlocked, and what law and money raise.
        """
        course = Course(
            asked=asked,
            plan=plan,
            release=release,
            first=first,
            before=before,
            waiting=list(plan.candidates),
            failed=list(plan.unbounded),
        )
        timeout = asyncio.timeout(max(self._left(course), 0.0) + _GRACE_SECONDS)
        try:
            async with timeout:
                return await self._answered(course)
        except TimeoutError as cause:
            if not timeout.expired():
                raise
            raise DeadlineExceeded("the time of this call is used up") from cause

    async def _answered(self, course: Course) -> Concluded:
        while True:
            candidate, permit = await self._next(course)
            answered = await self._ask(course, candidate, permit)
            if answered is not None:
                raw, candidate, outcome = answered
                return Concluded(
                    raw=raw,
                    candidate=candidate,
                    outcome=outcome,
                    attempts=tuple(course.notes),
                    failed=tuple(course.failed),
                    continued_by=course.continued_by,
                )

    async def _next(self, course: Course) -> tuple[Candidate, Permit]:
        """Gives the next one that may be asked; waits for one that was passed over when there is no other.

        Raises: what the caller is to hear, when nobody is left.
        """
        while course.waiting:
            candidate = course.waiting.pop(0)
            given = self._allowed(course, candidate)
            if isinstance(given, Permit):
                return candidate, given
            course.passed.append((candidate, given))
            course.failed.append(f"{candidate.version.full_name}: {given.reason}")
        while course.passed:
            soonest = min(course.passed, key=lambda one: one[1].seconds)
            candidate, wait = soonest
            if not self._worth_waiting(course, wait):
                break
            await self._wait(course, wait)
            course.passed.remove(soonest)
            given = self._allowed(course, candidate)
            if isinstance(given, Permit):
                return candidate, given
            course.passed.append((candidate, given))
        raise end_of(course)

    def _allowed(self, course: Course, candidate: Candidate, *, repeat: bool = False) -> Permit | Wait:
        bound = course.asked.bound(candidate.version)
        return self._gates.allow(candidate, bound=bound, now=self._clock.monotonic(), repeat=repeat)

    async def _once_allowed(self, course: Course, candidate: Candidate, *, repeat: bool = False) -> Permit | None:
        """Gives leave to ask one that is not given up for another; None: it would have to be waited for too long."""
        while isinstance(given := self._allowed(course, candidate, repeat=repeat), Wait):
            if not self._worth_waiting(course, given):
                return None
            # Others who share it may be told to wait meanwhile: then so is this call.
            await self._wait(course, given)
        return given

    def _worth_waiting(self, course: Course, wait: Wait) -> bool:
        if wait.reason == RETRIES_SPENT:
            return False
        most = (self._left(course) + course.waited) * _SHARE_TO_WAIT
        if wait.reason == BREAKER_OPEN:
            most = min(most, _MOST_FOR_A_BREAKER)
        return course.waited + wait.seconds <= most

    async def _wait(self, course: Course, wait: Wait) -> None:
        course.waited += wait.seconds
        await self._clock.sleep(wait.seconds)

    async def _ask(self, course: Course, candidate: Candidate, permit: Permit) -> _Answered | None:
        """Asks a candidate, again if that may help; None: the next one is to be asked.

        Raises: what no other candidate could do better.
        """
        tried = repairs = 0
        course.repaired = None
        while True:
            tried += 1
            try:
                return await self._hedged(course, candidate, permit)
            except MeshError as failure:
                log.warning("a model did not answer", deployment=candidate.version.name, reason=failure.reason)
                course.fail(candidate, failure)
                if failure.reason == _BUDGET_DEGRADES and not course.cheapest:
                    await self._go_on_with_the_cheapest(course, candidate)
                    return None
                repair = await self._repair(course, candidate, failure, repairs)
                if repair is not None:
                    repairs, permit = repairs + 1, repair
                    continue
                move = move_after(failure.reason, tried=tried, tries=candidate.hop.tries)
                if move is Move.END:
                    raise
                take_over(course, candidate, failure)
                again = await self._again(course, candidate, failure, tried) if move is Move.AGAIN else None
            if again is None:
                return None
            permit = again

    async def _repair(self, course: Course, candidate: Candidate, failure: MeshError, repairs: int) -> Permit | None:
        """Prepares to have an answer repaired that has not the wanted form; None: it has, or that was tried enough."""
        course.repaired = None
        if not isinstance(failure, OutputInvalid) or repairs >= candidate.hop.repairs:
            return None
        # The answer is paid for: it is not given up because another call was told to come again shortly.
        given = await self._once_allowed(course, candidate)
        if given is not None:
            course.repaired = repaired(course.asked.prompt, failure, model=candidate.version.model)
        return given

    async def _again(self, course: Course, candidate: Candidate, failure: MeshError, tried: int) -> Permit | None:
        """Waits for the time of a repeat, and gives leave for it; None: there is none."""
        asked_for = 0.0
        if isinstance(failure, ProviderRateLimited) and failure.retry_after is not None:
            asked_for = failure.retry_after.total_seconds()
        pause = pause_before_repeat(tried=tried, asked_for=asked_for, left=self._left(course), dice=self._dice.random())
        if pause is None:
            return None
        await self._clock.sleep(pause)
        if not course.waiting:
            return await self._once_allowed(course, candidate, repeat=True)
        given = self._allowed(course, candidate, repeat=True)
        return given if isinstance(given, Permit) else None

    async def _hedged(self, course: Course, candidate: Candidate, permit: Permit) -> _Answered | None:
        """Asks once; a second one beside it when the call wants that and nothing comes for so long.

        None: the second one took over and failed, so that the next is to be asked.
        Raises: why the first one failed, when nobody answered.
        """
        seconds, attempt = course.asked.policy.hedge_seconds, self._opened(course, candidate, permit)
        if seconds is None or not course.may_be_hedged(candidate):
            return await self._run(course, permit, attempt, course.release)
        race = Race[_Answered](course.release, decides=_ends_the_call)
        race.start(0, self._run(course, permit, attempt, race.release_of(0)))
        beside: tuple[Candidate, Attempt] | None = None
        try:
            if await race.silent_until(self._silence(attempt, seconds)) and not attempt.answers:
                beside = self._beside(course, race)
            ended = await race.end()
        finally:
            await race.stop()
        second = None
        if beside is not None:
            second, other = beside
            # Not what the one that ended last let go: the reader saw the text of one of them at most.
            course.released = "" if ended.shown is None else (attempt, other)[ended.shown].released
        for lane, (raw, _, _) in ended.answers.items():
            if lane != ended.winner:
                await finish(attempt.settle(raw))
        if second is not None and 1 in ended.failures:
            course.fail(second, ended.failures[1])
        if ended.winner is not None:
            if 0 in ended.failures:
                course.fail(candidate, ended.failures[0])
            answered = ended.answers[ended.winner]
            course.notes.sort(key=lambda note: note.hold_id == answered[0].hold.id)
            return answered
        if second is None or (0 in ended.failures and ended.shown != 1):
            raise ended.failures[0]
        if 0 in ended.failures:
            course.fail(candidate, ended.failures[0])
        if _ends_the_call(ended.failures[1]):
            raise ended.failures[1]
        take_over(course, second, ended.failures[1])
        return None

    async def _silence(self, attempt: Attempt, seconds: float) -> None:
        await attempt.sent.wait()
        await self._clock.sleep(seconds)

    def _beside(self, course: Course, race: Race[_Answered]) -> tuple[Candidate, Attempt] | None:
        """Begins to ask the next one that may be asked beside another, on its purse of repeats; None: there is none."""
        for place, candidate in enumerate(tuple(course.waiting)):
            given = self._allowed(course, candidate, repeat=True)
            if not isinstance(given, Permit):
                continue
            # Before it is opened: it has less time while somebody else waits who could still answer.
            del course.waiting[place]
            try:
                attempt = self._opened(course, candidate, given)
            except MeshError:
                course.waiting.insert(place, candidate)
                continue
            course.hedged = True
            metrics.MODEL_HEDGES.inc()
            race.start(1, self._run(course, given, attempt, race.release_of(1)))
            return candidate, attempt
        return None

    def _opened(self, course: Course, candidate: Candidate, permit: Permit) -> Attempt:
        try:
            provider = self._models.provider(candidate.version)
        except MeshError:
            # Nobody was asked, so nobody learns from it.
            self._gates.done(permit, AttemptOutcome(reason=CANCELLED, latency_us=0), now=self._clock.monotonic())
            raise
        return self._made(course, candidate, provider)

    async def _run(self, course: Course, permit: Permit, attempt: Attempt, release: Release | None) -> _Answered:
        """Asks once. What failed is told to those who learn from it; what answered, once its cost is known."""
        started, reason, after = perf_counter(), CANCELLED, None
        try:
            raw = await attempt.run(release)
            reason = ""
            return raw, permit.candidate, attempt.outcome(reason, retry_after=None)
        except MeshError as failure:
            reason, after = failure.reason, failure.retry_after
            raise
        finally:
            course.notes.append(attempt.note(reason))
            if reason != CANCELLED:
                course.released = attempt.released
            self._tell(permit, attempt.outcome(reason, retry_after=after), perf_counter() - started)

    def _made(self, course: Course, candidate: Candidate, provider: ModelProvider) -> Attempt:
        """Makes an attempt; tells the caller when it takes over what another one began."""
        version, asked, prompt = candidate.version, course.asked, course.repaired
        if course.release is not None and course.void:
            course.release(Restarted(version.name))
        if course.release is not None and course.label is not None:
            course.release(Continued(version.name))
            course.continued_by = version.name
            prompt = continued_prompt(asked.prompt, shown=course.shown, label=course.label)
        return Attempt(
            asked,
            candidate,
            provider,
            law=self._law,
            holds=self._holds,
            clock=self._clock,
            prompt=prompt,
            shown=course.shown,
            alone=not course.passed and all(_is_twin(candidate, one) for one in course.waiting),
            cheapest=course.cheapest,
            before=course.before if prompt is None and candidate is course.first else None,
        )

    def _tell(self, permit: Permit, outcome: AttemptOutcome, seconds: float) -> None:
        version = permit.candidate.version
        self._gates.done(permit, outcome, now=self._clock.monotonic())
        if outcome.reason:
            self._router.told(permit.candidate, outcome)
        metrics.INFERENCE_LATENCY.labels(
            self._payee_label(version.payee), self._model_label(version.model), outcome.reason.lower() or "ok"
        ).observe(seconds)

    async def _go_on_with_the_cheapest(self, course: Course, refused: Candidate) -> None:
        """Keeps those to go on with when a budget lets only the cheapest through.

        Raises: the most hopeful failure, when none is left.
        """
        asked, candidates = course.asked, [one.version for one in course.plan.candidates]
        rules = rules_of(self._tenants, asked.principal.tenant)
        by_name = asked.model not in ("", DEFAULT)
        default = self._default(asked, regions=asked.regions(rules)) if by_name else ()
        rates = await self._prices.rates(asked.principal, [*candidates, *default])
        left = [refused, *course.waiting, *(candidate for candidate, _ in course.passed)]
        cheapest = {
            one.full_name
            for one in cheapest_of(
                [one.version for one in left], (*candidates, *default), rates=rates, prompt=asked.prompt
            )
        }
        course.cheapest = True
        course.waiting = [one for one in left if one.version.full_name in cheapest]
        course.passed = []
        if not course.waiting:
            raise most_hopeful(course.failures)

    def _default(self, asked: Asked, *, regions: tuple[str, ...]) -> tuple[DeploymentVersion, ...]:
        """Gives what would be asked if nobody named a model."""
        found = self._registry.resolve(asked.principal.tenant, DEFAULT).versions
        return tuple(one for one in found if one.task is Task.GENERATE and one.keeps_in(*regions))

    def _left(self, course: Course) -> float:
        return course.asked.deadline - self._clock.monotonic()


def _ends_the_call(failure: MeshError) -> bool:
    """Says of a failure that nobody else could do better."""
    return failure.reason != _BUDGET_DEGRADES and move_after(failure.reason, tried=1, tries=1) is Move.END


def _is_twin(canary: Candidate, other: Candidate) -> bool:
    """Tells whether the other is the stable version that a canary is compared with.

    The canary has no less time for it: an answer that both take long for would be a failure of the canary.
    """
    if canary.trial is None or canary.arm is not Arm.CANARY:
        return False
    stable = canary.trial.rollout.stable
    return (other.version.name, other.version.version) == (stable.deployment, stable.version)
