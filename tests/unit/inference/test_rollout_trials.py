"""What the judge does in virtual time: 50 calls a second, a share of 10 %, 200 seeds each."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import fmean
from typing import Final

import pytest

from services.inference.domain.rollout.assignment import arm_of
from services.inference.domain.rollout.judgement import Seen, Verdict, judge
from services.inference.domain.rollout.rollout import JUDGE, Rollout, RolloutState
from services.inference.domain.rollout.scores import USUAL_FROM, USUAL_OF, Score, Scores
from services.inference.domain.rollout.watch import Watch
from services.inference.domain.route import Arm, AttemptOutcome
from tests.unit.inference.test_rollout import a_rollout

SEEDS: Final = 200
PER_SECOND: Final = 50
NOON: Final = datetime(2026, 6, 1, 12, tzinfo=UTC)
Outcomes = Callable[[Random, Arm], AttemptOutcome]


class Scored:
    """Scores as the database puts them together: alike ones are counted, against what was usual before."""

    def __init__(self, dice: Random, canary: float) -> None:
        self._dice = dice
        self._good = {Arm.STABLE: 0.8, Arm.CANARY: canary}
        self._usual = deque[float](maxlen=USUAL_OF)
        self._alike = Counter[tuple[Arm, int, float, float | None, int]]()

    def note(self, rollout: Rollout, arm: Arm) -> None:
        score = float(self._dice.random() < self._good[arm])
        usual = round(fmean(self._usual), 3) if len(self._usual) >= USUAL_FROM else None
        self._alike[arm, rollout.share_permille, score, usual, rollout.step] += 1
        if arm is Arm.STABLE:
            self._usual.append(score)

    def scores(self, rollout: Rollout) -> Scores:
        scores = (
            Score(arm=arm, share_permille=share, score=score, usual=usual, times=times, in_step=step == rollout.step)
            for (arm, share, score, usual, step), times in self._alike.items()
        )
        return Scores().note(scores, margin=rollout.quality_margin)


def answered(dice: Random, *, errors: float, slower: float = 1.0) -> AttemptOutcome:
    if dice.random() < errors:
        return AttemptOutcome(latency_us=1_000, reason="PROVIDER_UNAVAILABLE")
    return AttemptOutcome(
        latency_us=int(slower * dice.lognormvariate(12.7, 0.3)), cost_nano_usd=dice.randrange(900, 1100)
    )


def alike(dice: Random, arm: Arm) -> AttemptOutcome:
    return answered(dice, errors=0.01)


def failing(dice: Random, arm: Arm) -> AttemptOutcome:
    return answered(dice, errors=0.2 if arm is Arm.CANARY else 0.01)


def slow(dice: Random, arm: Arm) -> AttemptOutcome:
    return answered(dice, errors=0.01, slower=1.5 if arm is Arm.CANARY else 1.0)


@dataclass(frozen=True)
class Trial:
    rollout: Rollout
    #: Virtual time until it was decided, or until the trial ended.
    seconds: int
    calls: int
    asked_canary: int
    failed_canary: int


def a_trial(seed: int, outcomes: Outcomes, *, seconds: int, quality: float = 0.8, margin: float = 0.0) -> Trial:
    """Tries a canary; one call of five is scored, as good or not.

    Args:
        quality: part of the canary's answers that are good; of the stable version's it is 0.8.
    """
    dice, watch, seen = Random(seed), Watch(), Seen()
    scored = Scored(Random(seed + 1), quality)
    rollout = a_rollout(id=f"rollout_{seed}", quality_margin=margin)
    seen.tallies = watch.tallies
    calls = asked = failed = 0
    for second in range(1, seconds + 1):
        now = NOON + timedelta(seconds=second)
        for _ in range(PER_SECOND):
            unit = dice.randbytes(8)
            arm = arm_of(rollout, unit)
            outcome = outcomes(dice, arm)
            calls += 1
            asked += arm is Arm.CANARY
            failed += arm is Arm.CANARY and bool(outcome.reason)
            seen.note(watch.note(unit, arm, outcome, share_permille=rollout.share_permille, step=rollout.step))
            if calls % 5 == 0 and not outcome.reason:
                scored.note(rollout, arm)
        seen.scores = scored.scores(rollout)
        verdict = judge(rollout, seen, now=now)
        if verdict.verdict is Verdict.BACK:
            rollout = rollout.rolled_back(now=now, by=JUDGE, reason=verdict.reason)
        elif verdict.verdict is Verdict.STEP:
            rollout = rollout.promoted(now=now, by=JUDGE, reason=verdict.reason)
        if rollout.state is not RolloutState.RUNNING:
            return Trial(rollout, second, calls, asked, failed)
    return Trial(rollout, seconds, calls, asked, failed)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_canary_that_is_no_worse_is_taken_back_in_one_of_twenty_trials_at_most() -> None:
    ended = [a_trial(seed, alike, seconds=300).rollout.state for seed in range(SEEDS)]
    assert ended.count(RolloutState.ROLLED_BACK) <= SEEDS * 0.05


@pytest.mark.parametrize("harm", [failing, slow])
def test_a_canary_that_does_harm_is_taken_back_within_half_a_minute(harm: Outcomes) -> None:
    for seed in range(SEEDS):
        trial = a_trial(seed, harm, seconds=30)
        assert trial.rollout.state is RolloutState.ROLLED_BACK, seed
        share = trial.rollout.steps_permille[0] / 1000
        # A call of the stable side is never harmed; of all calls the canary's failures stay within its share.
        assert trial.failed_canary <= trial.calls * (share + 0.01)


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_canary_whose_answers_are_worse_is_taken_back_for_its_quality(margin: float) -> None:
    for seed in range(5):
        trial = a_trial(seed, alike, seconds=300, quality=0.4, margin=margin)
        assert (trial.rollout.state, trial.rollout.reason[:8]) == (RolloutState.ROLLED_BACK, "quality:"), seed


@pytest.mark.parametrize("seeds", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_canary_as_good_as_its_margin_asks_is_promoted_and_none_that_is_worse(seeds: int) -> None:
    kept = [a_trial(seed, alike, seconds=1200, margin=0.2).rollout.state for seed in range(seeds)]
    assert kept.count(RolloutState.PROMOTED) >= seeds * 0.95
    # As low as the margin allows is not shown to keep it, nor to break it.
    edge = [a_trial(seed, alike, seconds=300, quality=0.6, margin=0.2).rollout.step for seed in range(seeds)]
    assert edge.count(0) >= seeds * 0.95


@pytest.mark.parametrize("seeds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_good_canary_is_promoted(seeds: int) -> None:
    ended = [a_trial(seed, alike, seconds=900).rollout.state for seed in range(seeds)]
    assert ended.count(RolloutState.PROMOTED) >= seeds * 0.95
    assert RolloutState.RUNNING not in ended
