"""Rollouts: sides, steps, and the evidence by which a judge decides."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.errors import RolloutDecided
from services.inference.domain.rollout import watch as watch_module
from services.inference.domain.rollout.assignment import arm_of
from services.inference.domain.rollout.evidence import EProcess, rate_bounds
from services.inference.domain.rollout.judgement import UNDECIDED, Kind, Seen, Verdict, judge
from services.inference.domain.rollout.rollout import Rollout, RolloutKind, RolloutState, VersionName, checked_steps
from services.inference.domain.rollout.watch import BadEvent, Metric, Tally, Watch
from services.inference.domain.route import Arm, AttemptOutcome
from services.meshkit.core.errors import Invalid

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FINE = AttemptOutcome(latency_us=100_000, cost_nano_usd=1_000)
FAILED = AttemptOutcome(latency_us=100, reason="PROVIDER_UNAVAILABLE")


def a_rollout(**changes: Any) -> Rollout:
    values: dict[str, Any] = {
        "id": "rollout_01jx",
        "route": "writer",
        "stable": VersionName(deployment="acme/writer", version=1),
        "canary": VersionName(deployment="acme/writer", version=2),
        "kind": RolloutKind.CANARY,
        "steps_permille": (100, 500),
        "step": 0,
        "share_permille": 100,
        "state": RolloutState.RUNNING,
        "revision": 1,
        "started": NOON,
        "step_began": NOON,
    }
    return Rollout(**{**values, **changes})


@given(st.binary(max_size=64), st.integers(0, 1000), st.integers(0, 1000))
def test_a_growing_share_takes_no_unit_back(unit: bytes, one: int, other: int) -> None:
    small, large = sorted((one, other))
    before, after = (arm_of(a_rollout(share_permille=share), unit) for share in (small, large))
    assert before is Arm.STABLE or after is Arm.CANARY


@given(st.binary(max_size=64))
def test_no_share_is_nobody_and_the_whole_share_is_all(unit: bytes) -> None:
    assert arm_of(a_rollout(share_permille=0), unit) is Arm.STABLE
    assert arm_of(a_rollout(share_permille=1000), unit) is Arm.CANARY


def test_sides_are_divided_as_the_share_says_and_differently_by_each_rollout() -> None:
    units = [f"run_{number}".encode() for number in range(20_000)]
    first, second = (
        {unit for unit in units if arm_of(a_rollout(id=name), unit) is Arm.CANARY}
        for name in ("rollout_1", "rollout_2")
    )
    assert len(first) == pytest.approx(2_000, abs=150)
    assert len(first & second) == pytest.approx(200, abs=60)


@given(
    st.lists(st.sampled_from(["promote", "back"]), max_size=12), st.lists(st.integers(1, 999), min_size=1, max_size=5)
)
def test_a_rollout_ends_once_and_its_share_only_grows_until_then(verbs: list[str], steps: list[int]) -> None:
    rollout = a_rollout(steps_permille=tuple(sorted(set(steps))), share_permille=min(steps))
    seen = [rollout]
    for verb in verbs:
        decided = rollout.state is not RolloutState.RUNNING
        again = rollout.state is RolloutState.ROLLED_BACK and verb == "back"
        try:
            rollout = (rollout.promoted if verb == "promote" else rollout.rolled_back)(
                now=NOON, by="anna", reason="why"
            )
        except RolloutDecided:
            assert decided
        else:
            assert not decided or again
        seen.append(rollout)
    for before, after in pairwise(seen):
        if before.state is not RolloutState.RUNNING:
            assert after == before
        elif after.state is RolloutState.ROLLED_BACK:
            assert after.share_permille == 0
        else:
            assert after.share_permille >= before.share_permille
        assert (after.decided is None) == (after.state is RolloutState.RUNNING)
        assert (after.state is RolloutState.PROMOTED) == (after.share_permille == 1000)


def test_steps_that_do_not_grow_are_refused() -> None:
    assert checked_steps(RolloutKind.CANARY, []) == (100, 500)
    assert checked_steps(RolloutKind.CANARY, [10, 200, 1000]) == (10, 200)
    assert checked_steps(RolloutKind.BLUE_GREEN, []) == (950,)
    for steps in ([200, 100], [0, 10], [1001], [1000], [5, 5]):
        with pytest.raises(Invalid):
            checked_steps(RolloutKind.WEIGHTED, steps)


@given(st.integers(1, 999))
def test_the_next_bet_is_fair_when_the_canary_is_no_worse(share: int) -> None:
    values = {}
    for arm in Arm:
        process = EProcess()
        process.note(arm, share_permille=share)
        values[arm] = process.value
    expected = share / 1000 * values[Arm.CANARY] + (1 - share / 1000) * values[Arm.STABLE]
    assert expected == pytest.approx(1.0, rel=1e-9)


def test_where_one_side_has_all_an_event_says_nothing() -> None:
    process = EProcess()
    process.note(Arm.CANARY, share_permille=1000, times=50)
    assert process.value == 1.0


@given(st.integers(0, 400), st.integers(0, 400))
def test_bounds_hold_the_rate_and_get_narrower(bad: int, good: int) -> None:
    units = bad + good
    least, most = rate_bounds(bad, units, alpha=0.05)
    assert 0 <= least <= (bad / units if units else 0) <= most <= 1 or units == 0
    if units > 20:
        more_least, more_most = rate_bounds(bad * 10, units * 10, alpha=0.05)
        assert more_most - more_least < most - least


def test_a_unit_has_one_bad_event_of_a_kind() -> None:
    watch = Watch()
    assert [event.metric for event in watch.note(b"run_1", Arm.CANARY, FAILED, share_permille=100)] == [Metric.ERROR]
    assert watch.note(b"run_1", Arm.CANARY, FAILED, share_permille=100) == []
    assert watch.tallies[Arm.CANARY].units == watch.tallies[Arm.CANARY].bad[Metric.ERROR] == 1


def test_a_unit_that_changes_sides_counts_on_both() -> None:
    watch, seen = Watch(), Seen()
    seen.tallies = watch.tallies
    for number in range(1_500):
        watch.note(f"run_{number}".encode(), Arm.STABLE, FINE, share_permille=200)
    for number in range(1_000):
        seen.note(watch.note(f"run_{number}".encode(), Arm.CANARY, FAILED, share_permille=999))
    canary, stable = watch.tallies[Arm.CANARY], watch.tallies[Arm.STABLE]
    assert (canary.units, canary.bad[Metric.ERROR]) == (1_000, 1_000)
    assert (stable.units, stable.bad[Metric.ERROR]) == (1_500, 0)
    assert seen.evidence[Metric.ERROR].canary == 1_000
    later = NOON + timedelta(hours=1)
    assert judge(a_rollout(share_permille=999), seen, now=later).verdict is not Verdict.STEP


def test_a_step_is_taken_by_what_was_seen_in_it_while_evidence_of_harm_lasts() -> None:
    watch, seen = Watch(), Seen()
    seen.tallies = watch.tallies

    def note(arm: Arm, outcome: AttemptOutcome, *, step: int) -> None:
        seen.note(watch.note(b"run_1", arm, outcome, share_permille=100, step=step))

    note(Arm.CANARY, FAILED, step=0)
    note(Arm.CANARY, FINE, step=1)
    assert watch.tallies[Arm.CANARY] == Tally(1, dict.fromkeys(Metric, 0))
    # A call that began in the step before says nothing of this one.
    note(Arm.STABLE, FAILED, step=0)
    assert watch.tallies[Arm.STABLE].units == 0
    for _ in range(2):
        note(Arm.CANARY, FAILED, step=1)
    assert watch.tallies[Arm.CANARY] == Tally(1, {**dict.fromkeys(Metric, 0), Metric.ERROR: 1})
    assert seen.evidence[Metric.ERROR].canary == 1, "one unit is evidence once"


def test_who_fails_on_any_side_is_no_evidence_against_the_side_it_comes_to() -> None:
    watch = Watch()
    for arm, share, news in ((Arm.STABLE, 100, 1), (Arm.CANARY, 500, 0)):
        assert len(watch.note(b"run_1", arm, FAILED, share_permille=share)) == news
        assert watch.tallies[arm] == Tally(1, {**dict.fromkeys(Metric, 0), Metric.ERROR: 1})


def test_tallies_with_more_bad_units_than_units_can_be_judged() -> None:
    assert rate_bounds(1_500, 320, alpha=0.05) == rate_bounds(320, 320, alpha=0.05)


def test_a_replica_that_has_seen_many_units_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "MOST_UNITS", 3)
    watch = Watch()
    for number in range(3):
        watch.note(f"run_{number}".encode(), Arm.STABLE, FAILED, share_permille=100)
    # Whoever asks again is not among the first to be forgotten.
    assert watch.note(b"run_0", Arm.STABLE, FAILED, share_permille=100) == []
    found = watch.note(b"run_3", Arm.CANARY, FAILED, share_permille=100)
    assert found == [BadEvent(Metric.ERROR, b"run_3", Arm.CANARY, 100)]
    assert watch.note(b"run_0", Arm.STABLE, FAILED, share_permille=100) == []
    # The one that was forgotten is a new one, as a unit and as a bad one.
    assert len(watch.note(b"run_1", Arm.STABLE, FAILED, share_permille=100)) == 1
    assert watch.tallies[Arm.STABLE] == Tally(4, {**dict.fromkeys(Metric, 0), Metric.ERROR: 4})


def test_a_failure_that_is_not_the_models_says_nothing() -> None:
    watch = Watch()
    assert watch.note(b"run_1", Arm.CANARY, replace(FAILED, reason="LAW_BLOCKED"), share_permille=100) == []
    assert watch.tallies[Arm.CANARY].units == 0


def test_slow_and_dear_are_what_the_stable_version_is_not() -> None:
    watch = Watch()
    for number in range(100):
        usual = replace(FINE, latency_us=FINE.latency_us + number)
        watch.note(f"run_{number}".encode(), Arm.STABLE, usual, share_permille=100)
    worse = AttemptOutcome(latency_us=200_000, cost_nano_usd=1_300)
    found = watch.note(b"run_x", Arm.CANARY, worse, share_permille=100)
    assert {event.metric for event in found} == {Metric.SLOW_HALF, Metric.SLOW_TAIL, Metric.DEAR}


def test_latency_is_the_mean_of_its_two_kinds_and_errors_are_named_in_the_reason() -> None:
    seen = Seen()
    seen.evidence[Metric.SLOW_HALF].note(Arm.CANARY, share_permille=100, times=3)
    half = seen.evidence[Metric.SLOW_HALF].value
    assert seen.value(Kind.LATENCY) == pytest.approx((half + 1) / 2)
    seen.evidence[Metric.ERROR].note(Arm.CANARY, share_permille=100, times=6)
    verdict = judge(a_rollout(), seen, now=NOON)
    assert verdict.verdict is Verdict.BACK
    assert "errors: 6 bad events" in verdict.reason


def test_a_canary_is_undecided_by_the_time_of_its_step() -> None:
    begun = NOON + timedelta(hours=20)
    later = a_rollout(step=1, share_permille=500, step_began=begun)
    assert judge(later, Seen(), now=begun + timedelta(hours=23)).verdict is Verdict.STAY
    assert judge(later, Seen(), now=begun + timedelta(hours=24)).reason == UNDECIDED
    slow = replace(later, step_min_seconds=24 * 3600.0)
    assert judge(slow, Seen(), now=begun + timedelta(hours=47)).verdict is Verdict.STAY
    assert judge(slow, Seen(), now=begun + timedelta(hours=48)).reason == UNDECIDED


def test_only_a_canary_takes_steps_by_itself_and_none_is_tried_for_ever() -> None:
    seen = Seen()
    for arm in Arm:
        seen.tallies[arm].units = 5_000
    later = NOON + timedelta(seconds=61)
    assert judge(a_rollout(), seen, now=NOON + timedelta(seconds=59)).verdict is Verdict.STAY
    assert judge(a_rollout(), seen, now=later).verdict is Verdict.STEP
    assert judge(a_rollout(kind=RolloutKind.WEIGHTED), seen, now=later).verdict is Verdict.STAY
    old = judge(a_rollout(), Seen(), now=NOON + timedelta(days=1))
    assert (old.verdict, old.reason) == (Verdict.BACK, UNDECIDED)
    decided = a_rollout().rolled_back(now=NOON, by="anna", reason="")
    assert judge(decided, seen, now=later).verdict is Verdict.STAY
