"""What scores of answers show, at any time one cares to look."""

from collections import deque
from dataclasses import replace
from datetime import timedelta
from math import isfinite
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.rollout.judgement import ALPHA, ENOUGH, GOOD, Kind, Seen, Verdict, judge
from services.inference.domain.rollout.scores import USUAL_OF, Score, Scores
from services.inference.domain.route import Arm
from tests.unit.inference.test_rollout import NOON, a_rollout

SHARES = st.integers(1, 999)
PARTS = st.floats(0, 1)


def a_score(arm: Arm, score: float, *, share: int = 100, usual: float | None = 0.8, times: int = 1) -> Score:
    return Score(arm=arm, share_permille=share, score=score, usual=usual, times=times)


def noted(*scores: Score, margin: float = 0.0) -> Scores:
    return Scores().note(scores, margin=margin)


def alike(canary: float, stable: float, *, times: int, margin: float = 0.0, in_step: bool = True) -> Seen:
    """What is seen of both sides at a share of one half."""
    both = [a_score(arm, one, share=500, times=times) for arm, one in ((Arm.CANARY, canary), (Arm.STABLE, stable))]
    seen = Seen(scores=noted(*(replace(one, in_step=in_step) for one in both), margin=margin))
    for arm in Arm:
        seen.tallies[arm].units = 5_000
    return seen


@given(SHARES, PARTS, PARTS)
def test_the_next_bet_is_fair_when_both_sides_are_alike_whatever_is_usual(
    share: int, usual: float, score: float
) -> None:
    values = {arm: noted(a_score(arm, score, share=share, usual=usual)).lower for arm in Arm}
    assert share / 1000 * values[Arm.CANARY] + (1 - share / 1000) * values[Arm.STABLE] == pytest.approx(1.0, rel=1e-9)


@given(SHARES, PARTS, PARTS, st.floats(0, 0.99), st.sampled_from(Arm))
def test_no_score_loses_all_that_is_bet(share: int, usual: float, score: float, margin: float, arm: Arm) -> None:
    scores = noted(a_score(arm, score, share=share, usual=usual, times=3), margin=margin)
    for value in (scores.lower, scores.kept):
        assert isfinite(value)
        assert value > 0


@given(SHARES, PARTS, PARTS, st.floats(0, 0.99))
def test_a_canary_that_is_lower_by_just_the_margin_is_a_fair_bet_both_ways(
    share: int, usual: float, score: float, margin: float
) -> None:
    if score < margin:
        return
    part, sides = share / 1000, {Arm.STABLE: score, Arm.CANARY: score - margin}
    found = {arm: noted(a_score(arm, one, share=share, usual=usual), margin=margin) for arm, one in sides.items()}
    canary, stable = found[Arm.CANARY], found[Arm.STABLE]
    assert part * canary.lower + (1 - part) * stable.lower == pytest.approx(1.0, rel=1e-9)
    assert part * canary.kept + (1 - part) * stable.kept == pytest.approx(1.0, rel=1e-9)


def test_scores_before_anything_is_usual_or_where_one_side_has_all_say_nothing() -> None:
    scores = noted(a_score(Arm.CANARY, 0.0, usual=None, times=90), a_score(Arm.CANARY, 0.0, share=1000, times=90))
    assert scores.lower == scores.kept == 1.0
    assert scores.units[Arm.CANARY] == 180


def test_who_is_scored_more_often_than_its_share_explains_is_not_thought_worse_for_that() -> None:
    often = noted(a_score(Arm.CANARY, 0.8, share=10, times=5_000), a_score(Arm.STABLE, 0.8, share=10, times=50))
    assert often.lower == pytest.approx(1.0)


def test_no_scores_of_the_canary_show_nothing() -> None:
    seen = alike(0.8, 0.8, times=600)
    seen.scores = noted(a_score(Arm.STABLE, 0.8, times=600), margin=0.1)
    assert seen.scores.kept == seen.scores.lower == pytest.approx(1.0)
    assert judge(a_rollout(quality_margin=0.1), seen, now=NOON + timedelta(hours=1)).verdict is Verdict.STAY


def test_a_canary_scored_half_or_twice_as_often_is_judged_by_the_margin_that_was_asked_for() -> None:
    half = noted(a_score(Arm.CANARY, 0.65, times=1_000), a_score(Arm.STABLE, 0.8, times=19_000), margin=0.1)
    assert half.kept < 1
    twice = noted(a_score(Arm.CANARY, 0.74, times=4_000), a_score(Arm.STABLE, 0.8, times=16_000), margin=0.1)
    assert twice.lower < 1


def scored(seed: int, *, lower: float, often: float = 1.0) -> Scores:
    """2,000 scores, good or not, against what was usual before; of the stable version's answers 0.8 are good.

    The margin is 0.1.

    Args:
        lower: how much fewer of the canary's are.
        often: how often an answer of the canary's is scored where one of the stable version's is once.
    """
    dice, usual, scores = Random(seed), deque([0.0, *[1.0] * 4] * 40, maxlen=USUAL_OF), Scores()
    for _ in range(2_000):
        arm = Arm.CANARY if dice.random() < 0.1 * often else Arm.STABLE
        score = float(dice.random() < (0.8 - lower if arm is Arm.CANARY else 0.8))
        scores.note([a_score(arm, score, usual=round(fmean(usual), 3))], margin=0.1)
        if arm is Arm.STABLE:
            usual.append(score)
    return scores


@pytest.mark.long
@pytest.mark.parametrize(("often", "broken_by", "kept_by"), [(0.5, 0.15, 0.05), (1.0, 0.1, 0.1), (2.0, 0.15, 0.05)])
def test_one_of_twenty_trials_is_wrong_at_most_however_often_the_canary_is_scored(
    often: float, broken_by: float, kept_by: float
) -> None:
    kept = [scored(seed, lower=broken_by, often=often).kept for seed in range(200)]
    assert sum(one >= 1 / ALPHA for one in kept) <= 200 * ALPHA
    lower = [scored(seed, lower=kept_by, often=often).lower for seed in range(200)]
    assert sum(one >= ENOUGH for one in lower) <= 200 * ALPHA


def test_a_canary_of_lower_quality_is_taken_back_and_the_reason_says_by_what() -> None:
    found = judge(a_rollout(), alike(0.5, 0.8, times=60), now=NOON)
    assert found.verdict is Verdict.BACK
    assert found.reason.startswith(
        "quality: 60 scores of the canary, 0.50 on average, and 60 of the stable version, 0.80"
    )
    within = a_rollout(quality_margin=0.4)
    assert judge(within, alike(0.5, 0.8, times=60, margin=0.4), now=NOON).verdict is Verdict.STAY


def test_with_a_margin_no_step_is_taken_before_scores_of_that_step_show_that_it_is_kept() -> None:
    later, asked = NOON + timedelta(seconds=61), a_rollout(quality_margin=0.2)
    assert judge(a_rollout(), alike(0.8, 0.8, times=3), now=later).verdict is Verdict.STEP
    assert judge(asked, alike(0.8, 0.8, times=3, margin=0.2), now=later).verdict is Verdict.STAY
    assert judge(asked, alike(0.8, 0.8, times=200, margin=0.2), now=later).reason == GOOD
    elsewhere = alike(0.8, 0.8, times=200, margin=0.2, in_step=False)
    assert judge(asked, elsewhere, now=later).verdict is Verdict.STAY


@given(st.lists(st.tuples(SHARES, PARTS, st.sampled_from(Arm), st.booleans(), st.booleans())), st.floats(0, 0.99))
def test_sums_of_scores_add_up_however_they_are_divided(
    given: list[tuple[int, float, Arm, bool, bool]], margin: float
) -> None:
    scores = [
        replace(a_score(arm, score, share=share), in_step=now, first=first) for share, score, arm, now, first in given
    ]
    whole, parts = noted(*scores, margin=margin), Scores()
    for one in scores:
        parts.add(noted(replace(one, in_step=True), margin=margin), in_step=one.in_step)
    assert (parts.units, parts.totals) == (whole.units, pytest.approx(whole.totals))
    assert parts.lower_logs == pytest.approx(whole.lower_logs)
    assert parts.kept_logs == pytest.approx(whole.kept_logs)


def test_a_unit_that_had_a_score_in_an_earlier_step_is_evidence_of_harm_once() -> None:
    again = [Score(arm=Arm.CANARY, share_permille=500, score=0.0, usual=0.8, times=500, first=False)]
    seen = Seen(scores=noted(*again, margin=0.1))
    assert seen.value(Kind.QUALITY) == 1.0
    assert seen.events(Kind.QUALITY, Arm.CANARY) == 0
    assert seen.scores.kept < 1 / ENOUGH
