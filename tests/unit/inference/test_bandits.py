"""Bandits: beside an oracle, what an answer is worth, and what replicas learn from each other."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import ProviderUnavailable
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.registered import check_route
from services.inference.domain.registry import Holdings
from services.inference.domain.route import Arm, AttemptOutcome, Candidate, Route, RouteMember, RouteMode, Trial
from services.inference.domain.routing.lesson import (
    NOTHING,
    ArmName,
    BanditKind,
    Learnt,
    corrected,
    learnt,
)
from services.inference.domain.routing.linucb import FEATURES, Ridge, features_of
from services.inference.domain.routing.reward import Earned, RewardPolicy, earned
from services.inference.domain.routing.thompson import thompson_draw
from services.inference.usecases.arm_index import ArmIndex
from services.inference.usecases.bandits import Bandits
from services.inference.usecases.given_answers import GivenAnswers
from services.inference.usecases.learn import LearnRoutes
from services.inference.usecases.learning_ports import GivenAnswer, LearntAnswer
from services.meshkit.core.errors import Invalid, NotFound, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import ANNA, ANTHROPIC, LOCAL, OPENAI, a_context, a_prompt, an_asked, failing
from tests.unit.inference.conftest import Room
from tests.unit.inference.test_registry import a_route, held
from tests.unit.inference.test_rollout import a_rollout

ORACLE: Any = json.loads((Path(__file__).parent / "fixtures" / "bandits.json").read_text())
MODES = (RouteMode.BANDIT_THOMPSON, RouteMode.BANDIT_LINUCB)
GOOD = AttemptOutcome(latency_us=500_000, cost_nano_usd=100_000, hold_id="hold_1")
POOR = AttemptOutcome(latency_us=29_000_000, cost_nano_usd=9_900_000, hold_id="hold_2")
FAILED = AttemptOutcome(latency_us=100, reason=ProviderUnavailable.reason)


def a_bandit(mode: RouteMode = RouteMode.BANDIT_THOMPSON, **changes: Any) -> Route:
    return a_route("w", OPENAI.name, ANTHROPIC.name, LOCAL.name, mode=mode, **changes)


def an_arm(route: Route, version: DeploymentVersion) -> ArmName:
    kind = BanditKind(route.mode.value.removeprefix("bandit_"))
    return ArmName(tenant=TENANT, route=route.name, kind=kind, arm=version.full_name)


def first(bandits: Bandits, route: Route, prompt: Any = None) -> DeploymentVersion:
    features = bandits.features(route, prompt or a_prompt())
    return bandits.ordered(TENANT, route, (OPENAI, ANTHROPIC, LOCAL), features)[0]


def teach(bandits: Bandits, route: Route, version: DeploymentVersion, outcome: AttemptOutcome, times: int = 1) -> None:
    lesson = bandits.lesson(TENANT, route, version, bandits.features(route, a_prompt()), "")
    for _ in range(times):
        bandits.note(lesson, outcome)


def by_arm(kind: BanditKind, lessons: Sequence[tuple[str, tuple[float, ...], float]]) -> dict[str, Learnt]:
    arms: dict[str, Learnt] = {}
    for arm, features, reward in lessons:
        arms[arm] = arms.get(arm, NOTHING).plus(learnt(kind, features, reward))
    return arms


def test_linucb_finds_arms_worth_what_the_oracle_does() -> None:
    lessons = list(zip(ORACLE["arms"], map(tuple, ORACLE["contexts"]), ORACLE["rewards"], strict=True))
    arms = {arm: Ridge(one.sums) for arm, one in by_arm(BanditKind.LINUCB, lessons).items()}
    grown = {arm: Ridge(()) for arm in arms}
    for arm, features, reward in lessons:
        grown[arm].learn(features, reward)
    for features, expected in zip(ORACLE["asked"], ORACLE["linucb"], strict=True):
        for arm, worth in expected.items():
            assert arms[arm].worth(features) == pytest.approx(worth, abs=1e-9)
            assert grown[arm].worth(features) == pytest.approx(worth, abs=1e-9)


def test_thompson_believes_and_chooses_what_the_oracle_does() -> None:
    seen = ORACLE["thompson"]
    lessons = [(arm, (), float(round(reward))) for arm, reward in zip(ORACLE["arms"], ORACLE["rewards"], strict=True)]
    arms = by_arm(BanditKind.THOMPSON, lessons[: seen["lessons"]])
    for arm, one in arms.items():
        assert 1 + one.sums[0] == seen["alpha"][arm]
        assert 1 + one.pulls - one.sums[0] == seen["beta"][arm]
    dice, draws = Random(1933), seen["draws"]
    chosen = Counter(
        max(arms, key=lambda arm: thompson_draw(arms[arm].pulls, arms[arm].sums, dice)) for _ in range(draws)
    )
    # Two samples of the same size from one distribution: chi squared with 2 degrees, at 0.1 %.
    distance = sum((chosen[arm] - seen["chosen"][arm]) ** 2 / (chosen[arm] + seen["chosen"][arm]) for arm in arms)
    assert distance < 13.8


def test_an_answer_is_worth_what_is_known_of_it() -> None:
    policy = RewardPolicy(quality_permille=500, cost_permille=300, latency_permille=200, dear_nano_usd=1_000)
    known = earned(policy, latency_us=1_000_000, cost_nano_usd=250, slow_seconds=4.0)
    assert known.reward == pytest.approx((0.3 * 0.75 + 0.2 * 0.75) / 0.5)
    assert known.judged(1.0).reward == pytest.approx(0.3 * 0.75 + 0.2 * 0.75 + 0.5)
    unpaid = earned(policy, latency_us=8_000_000, cost_nano_usd=None, slow_seconds=4.0)
    assert unpaid.reward == 0.0
    assert unpaid.judged(1.0).reward == pytest.approx(0.5 / 0.7)
    only_quality = RewardPolicy(quality_permille=1000, cost_permille=0, latency_permille=0)
    assert earned(only_quality, latency_us=1, cost_nano_usd=1, slow_seconds=4.0).reward is None


@given(
    st.integers(0, 10**9),
    st.none() | st.integers(0, 10**11),
    st.floats(0, 1),
    st.integers(0, 1000),
    st.floats(0.1, 300),
)
def test_a_reward_is_never_beyond_0_and_1(
    latency: int, cost: int | None, quality: float, weight: int, slow: float
) -> None:
    policy = RewardPolicy(quality_permille=weight, cost_permille=1000 - weight, latency_permille=0)
    before = earned(policy, latency_us=latency, cost_nano_usd=cost, slow_seconds=slow)
    for one in (before, before.judged(quality)):
        assert one.reward is None or 0 <= one.reward <= 1


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(BanditKind))
def test_a_quality_that_comes_later_leaves_what_it_would_have_left_at_once(
    points: float, quality: float, kind: BanditKind
) -> None:
    features = features_of(a_prompt()) if kind is BanditKind.LINUCB else ()
    before = Earned(points=points, weight=1.0, quality_weight=1.0)
    later = corrected(kind, features, before, quality)
    reward, judged = before.reward, before.judged(quality).reward
    assert later is not None
    assert reward is not None
    assert judged is not None
    at_once = learnt(kind, features, judged)
    together = learnt(kind, features, reward).plus(later)
    assert together.pulls == at_once.pulls
    assert together.sums == pytest.approx(at_once.sums)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_dice_draw_the_same_and_what_does_best_is_soon_asked_most(mode: RouteMode) -> None:
    route, asked = a_bandit(mode), list[list[str]]()
    for _ in range(2):
        bandits, order = Bandits(dice=Random(5)), list[str]()
        for _ in range(600):
            chosen = first(bandits, route)
            order.append(chosen.name)
            teach(bandits, route, chosen, GOOD if chosen is ANTHROPIC else POOR)
        asked.append(order)
    assert asked[0] == asked[1]
    assert Counter(asked[0][-200:])[ANTHROPIC.name] > 180
    # One of fifty goes to anybody, so those that did badly are heard of again.
    assert len(set(asked[0][-200:])) > 1


def test_linucb_tells_calls_apart_and_thompson_does_not() -> None:
    form = OutputFormat(kind=OutputKind.JSON_OBJECT)
    prompts = {"text": a_prompt(), "json": a_prompt(output_format=form)}
    shares: dict[RouteMode, Counter[str]] = {}
    for mode in MODES:
        bandits, route, right = Bandits(dice=Random(8)), a_bandit(mode), Counter[str]()
        for number in range(1_200):
            kind = "json" if number % 2 else "text"
            chosen = first(bandits, route, prompts[kind])
            fits = chosen is (OPENAI if kind == "json" else LOCAL)
            lesson = bandits.lesson(TENANT, route, chosen, bandits.features(route, prompts[kind]), "")
            bandits.note(lesson, GOOD if fits else FAILED)
            right[kind] += fits and number >= 800
        shares[mode] = right
    assert all(shares[RouteMode.BANDIT_LINUCB][kind] > 180 for kind in prompts)
    assert sum(shares[RouteMode.BANDIT_THOMPSON].values()) < 300


def test_features_keep_to_0_and_1() -> None:
    long = a_prompt("x" * 200_000, max_output_tokens=32_768, output_format=OutputFormat(kind=OutputKind.JSON_OBJECT))
    for prompt in (a_prompt(), long):
        features = features_of(prompt)
        assert len(features) == FEATURES
        assert all(0 <= one <= 1 for one in features)


def test_what_failed_through_no_fault_of_an_arm_teaches_nothing() -> None:
    bandits, route = Bandits(dice=Random(5)), a_bandit()
    teach(bandits, route, OPENAI, replace(FAILED, reason="LAW_BLOCKED"))
    teach(bandits, route, OPENAI, replace(FAILED, reason="CANCELLED"))
    assert bandits.known(an_arm(route, OPENAI)) == NOTHING
    teach(bandits, route, OPENAI, FAILED)
    assert bandits.known(an_arm(route, OPENAI)) == Learnt(pulls=1, sums=(0.0,))


class MemoryLessons:
    """A `LessonRecords` that all replicas of a test share."""

    def __init__(self) -> None:
        self.arms: dict[ArmName, Learnt] = {}
        self.answers: dict[str, GivenAnswer] = {}
        self.away = False
        #: Tenants whose rows cannot be written.
        self.refused: set[TenantId] = set()

    async def add(
        self, tenant: TenantId, lessons: Mapping[ArmName, Learnt], answers: Sequence[GivenAnswer]
    ) -> Mapping[ArmName, Learnt]:
        if self.away:
            raise Unavailable("postgres")
        if tenant in self.refused:
            raise Invalid("row", "cannot be written")
        self.answers |= {one.hold_id: one for one in answers}
        for name, one in lessons.items():
            self.arms[name] = self.arms.get(name, NOTHING).plus(one)
        return {name: self.arms[name] for name in lessons}

    async def since(self, moment: datetime | None) -> tuple[datetime, Mapping[ArmName, Learnt]]:
        if self.away:
            raise Unavailable("postgres")
        return datetime(2026, 6, 1, tzinfo=UTC), dict(self.arms)

    async def judge(
        self, tenant: TenantId, hold_id: str, quality: float, *, project: str | None
    ) -> Mapping[ArmName, Learnt]:
        answer = self.answers.pop(hold_id, None)
        if not isinstance(answer, LearntAnswer):
            raise NotFound("answer", hold_id)
        change = corrected(answer.lesson.arm.kind, answer.lesson.features, answer.earned, quality)
        return await self.add(tenant, {} if change is None else {answer.lesson.arm: change}, ())

    async def forget(self) -> None: ...


def a_replica(records: MemoryLessons) -> tuple[Bandits, LearnRoutes]:
    bandits = Bandits(dice=Random(5))
    return bandits, LearnRoutes(bandits, GivenAnswers(), records, clock=FakeClock())


async def test_replicas_add_to_what_the_others_learnt_and_a_new_one_knows_all_of_it() -> None:
    records, route = MemoryLessons(), a_bandit()
    (one, tell_one), (other, tell_other) = a_replica(records), a_replica(records)
    teach(one, route, OPENAI, GOOD, 3)
    teach(other, route, OPENAI, FAILED, 2)
    await tell_one.look(whole=False)
    teach(one, route, OPENAI, FAILED)
    await tell_other.look(whole=True)
    await tell_one.look(whole=True)
    third, tell_third = a_replica(records)
    await tell_third.look(whole=False)
    name = an_arm(route, OPENAI)
    assert one.known(name) == third.known(name) == records.arms[name]
    assert third.known(name).pulls == 6


async def test_what_is_learnt_while_the_database_is_away_is_told_later_and_once() -> None:
    records, route = MemoryLessons(), a_bandit()
    bandits, tell = a_replica(records)
    teach(bandits, route, OPENAI, GOOD)
    records.away = True
    with pytest.raises(Unavailable):
        await tell.look(whole=True)
    teach(bandits, route, OPENAI, GOOD)
    records.away = False
    await tell.look(whole=True)
    await tell.look(whole=True)
    name = an_arm(route, OPENAI)
    assert records.arms[name].pulls == bandits.known(name).pulls == 2


async def test_what_goes_wrong_with_one_tenant_keeps_no_other_from_being_told() -> None:
    records, route, other = MemoryLessons(), a_bandit(), TenantId(uuid4())
    bandits, tell = a_replica(records)
    teach(bandits, route, OPENAI, GOOD)
    bandits.note(bandits.lesson(other, route, OPENAI, (), ""), GOOD)
    records.refused.add(TENANT)
    with pytest.raises(Invalid):
        await tell.look(whole=False)
    assert {name.tenant for name in records.arms} == {other}
    records.refused.clear()
    await tell.look(whole=False)
    assert records.arms[an_arm(route, OPENAI)].pulls == 1


async def test_a_reported_quality_changes_what_was_learnt_of_the_answer() -> None:
    records, route = MemoryLessons(), a_bandit()
    bandits, given = Bandits(dice=Random(5)), GivenAnswers()
    tell = LearnRoutes(bandits, given, records, clock=FakeClock())
    lesson = bandits.lesson(TENANT, route, OPENAI, (), "")
    given.note(Candidate(version=OPENAI, lesson=lesson), GOOD, bandits.note(lesson, GOOD))
    before = bandits.known(an_arm(route, OPENAI))
    await tell.judge(ANNA, GOOD.hold_id, 0.0)
    after = bandits.known(an_arm(route, OPENAI))
    assert (after.pulls, after.sums[0] < before.sums[0]) == (1, True)


async def test_a_quality_is_taken_in_whatever_goes_wrong_with_another_tenant() -> None:
    records, route, other = MemoryLessons(), a_bandit(), TenantId(uuid4())
    bandits, given = Bandits(dice=Random(5)), GivenAnswers()
    tell = LearnRoutes(bandits, given, records, clock=FakeClock())
    lesson = bandits.lesson(TENANT, route, OPENAI, (), "")
    given.note(Candidate(version=OPENAI, lesson=lesson), GOOD, bandits.note(lesson, GOOD))
    bandits.note(bandits.lesson(other, route, OPENAI, (), ""), GOOD)
    records.refused.add(other)
    await tell.judge(ANNA, GOOD.hold_id, 0.0)
    assert GOOD.hold_id not in records.answers
    records.refused = {TENANT}
    bandits.note(lesson, GOOD)
    with pytest.raises(Invalid, match="row"):
        await tell.judge(ANNA, GOOD.hold_id, 0.0)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
async def test_a_quality_that_is_none_is_refused(score: float) -> None:
    with pytest.raises(Invalid, match="score"):
        await a_replica(MemoryLessons())[1].judge(ANNA, "hold_1", score)


def test_of_too_many_arms_the_one_that_was_not_used_for_longest_is_forgotten() -> None:
    bandits, route = Bandits(dice=Random(5), most_arms=2), a_bandit()
    names = [an_arm(route, one) for one in (OPENAI, ANTHROPIC, LOCAL)]
    for one in (OPENAI, ANTHROPIC):
        teach(bandits, route, one, GOOD)
        bandits.taken()
    assert bandits.known(names[0]).pulls == 1
    teach(bandits, route, LOCAL, GOOD)
    bandits.taken()
    assert [bandits.known(name).pulls for name in names] == [1, 0, 1]
    assert REGISTRY.get_sample_value("comitia_cache_items", {"cache": "inference.bandit_arms"}) == len(bandits) == 2


def test_of_what_others_have_learnt_the_newest_is_kept() -> None:
    bandits, route = Bandits(dice=Random(5), most_arms=2), a_bandit()
    names = [an_arm(route, one) for one in (OPENAI, ANTHROPIC, LOCAL)]
    bandits.know({name: Learnt(pulls=3, sums=(1.0,)) for name in names})
    assert [bandits.known(name).pulls for name in names] == [3, 3, 0]


async def test_an_arm_whose_lesson_is_not_told_yet_stays_until_it_is() -> None:
    records, route = MemoryLessons(), a_bandit()
    bandits = Bandits(dice=Random(5), most_arms=1)
    tell = LearnRoutes(bandits, GivenAnswers(), records, clock=FakeClock())
    records.away = True
    for one in (OPENAI, ANTHROPIC, LOCAL):
        teach(bandits, route, one, GOOD)
    with pytest.raises(Unavailable):
        await tell.look(whole=False)
    names = [an_arm(route, one) for one in (OPENAI, ANTHROPIC, LOCAL)]
    assert [bandits.known(name).pulls for name in names] == [1, 1, 1]
    records.away = False
    await tell.look(whole=False)
    assert [records.arms[name].pulls for name in names] == [1, 1, 1]
    assert len(bandits) == 1


def test_an_arm_that_was_forgotten_is_heard_of_again_once_it_is_learnt_of() -> None:
    bandits, route = Bandits(dice=Random(5), most_arms=1), a_bandit()
    name = an_arm(route, OPENAI)
    bandits.know({name: Learnt(pulls=3, sums=(1.0,))})
    bandits.know({an_arm(route, LOCAL): Learnt(pulls=3, sums=(1.0,))})
    teach(bandits, route, OPENAI, GOOD)
    assert bandits.known(name).pulls == 1
    bandits.taken()
    bandits.know({name: Learnt(pulls=4, sums=(2.0,))})
    assert bandits.known(name).pulls == 4


VERSION = replace(OPENAI, name="acme/a", version=2, deployment_id="dep_a")
GONE = {
    "tenant": Holdings(),
    "route": held(VERSION),
    "version": held(replace(VERSION, version=3), routes=[a_bandit()]),
}


@pytest.mark.parametrize("gone", GONE)
def test_an_arm_is_dropped_with_its_tenant_its_route_or_its_version_and_does_not_come_back(
    room: Room, gone: str
) -> None:
    route, other, bandits = a_bandit(), TenantId(uuid4()), room.bandits
    room.registry.take({one: held(VERSION, routes=[route]) for one in (TENANT, other)}, whole=True)
    name = an_arm(route, VERSION)
    names = [name, replace(name, tenant=other)]
    bandits.know({one: Learnt(pulls=3, sums=(1.0,)) for one in names})
    teach(bandits, route, VERSION, GOOD)
    room.registry.take({TENANT: GONE[gone]}, whole=False)
    assert len(bandits) == 1
    # What was on its way meanwhile.
    teach(bandits, route, VERSION, GOOD)
    bandits.put_back({name: Learnt(pulls=1, sums=(1.0,))})
    bandits.know({name: Learnt(pulls=3, sums=(1.0,))})
    assert [bandits.known(one).pulls for one in names] == [0, 3]
    assert not bandits.taken()
    room.registry.take({}, whole=True)
    assert len(bandits) == 0


def test_answers_of_a_tenant_that_is_erased_are_forgotten_before_anybody_keeps_them(room: Room) -> None:
    route, given, rollout = a_bandit(), room.given, a_rollout(route="w")
    other = TenantId(uuid4())

    def answer() -> None:
        for whose in (TENANT, other):
            lesson = room.bandits.lesson(whose, route, VERSION, (), "")
            trial = Trial(tenant=whose, rollout=rollout, unit=b"", arm=Arm.CANARY, project="")
            given.note(Candidate(version=VERSION, lesson=lesson, trial=trial), GOOD, room.bandits.note(lesson, GOOD))

    room.registry.take({one: held(VERSION, routes=[route]) for one in (TENANT, other)}, whole=True)
    answer()
    taken = given.taken()
    assert {tenant: len(answers) for tenant, answers in taken.items()} == {TENANT: 2, other: 2}
    answer()
    room.registry.take({TENANT: Holdings()}, whole=False)
    # Those that could not be written meanwhile.
    for answers in taken.values():
        given.put_back(answers)
    assert {tenant: len(answers) for tenant, answers in given.taken().items()} == {other: 4}


def test_of_many_arms_only_routes_and_versions_are_looked_at() -> None:
    index, looked = ArmIndex(), list[str]()
    name = ArmName(tenant=TENANT, route="r0", kind=BanditKind.THOMPSON, arm="a0@1")
    for number in range(400):
        index.add(replace(name, route=f"r{number % 20}", arm=f"a{number // 20}@1"))

    def has(_: TenantId, what: str) -> bool:
        looked.append(what)
        return what not in ("r3", "a7@1")

    gone = index.gone([TENANT, TenantId(uuid4())], has_route=has, has_version=has)
    assert (len(gone), len(looked)) == (39, 40)
    for one in gone:
        index.remove(one)
    assert not index.gone(None, has_route=has, has_version=has)


def test_arms_are_kept_while_nobody_knows_whether_they_stand(room: Room) -> None:
    route = a_bandit()
    name = an_arm(route, VERSION)
    room.bandits.know({name: Learnt(pulls=3, sums=(1.0,))})
    assert room.bandits.known(name).pulls == 3
    room.registry.take({TENANT: replace(held(), unreadable=frozenset({"w"}))}, whole=True)
    assert room.bandits.known(name).pulls == 3


@pytest.mark.parametrize("mode", MODES)
async def test_calls_of_a_route_teach_its_bandit_and_failures_go_on_to_the_next(room: Room, mode: RouteMode) -> None:
    route = a_bandit(mode)
    room.registry.take({TENANT: held(routes=[route])}, whole=True)
    room.openai.scripts = [failing(ProviderUnavailable)]
    teach(room.bandits, route, OPENAI, GOOD, 20)
    room.bandits.taken()
    asked = [room.ask(an_asked(model="w", context=a_context(f"step/{number}"))) for number in range(12)]
    answers = [await one for one in asked]
    assert OPENAI.name not in {one.deployment for one in answers}
    assert any(one.failed_attempts for one in answers)
    known = {one.name: room.bandits.known(an_arm(route, one)) for one in (OPENAI, ANTHROPIC, LOCAL)}
    assert sum(one.pulls for one in known.values()) == 32 + sum(len(one.failed_attempts) for one in answers)
    assert {one.hold_id for one in room.given.taken()[TENANT]} == {one.hold_id for one in answers}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reward": RewardPolicy(quality_permille=500)}, ""),
        ({"reward": RewardPolicy(quality_permille=501)}, "route.reward"),
        ({"reward": RewardPolicy(quality_permille=-1)}, "route.reward.quality_permille"),
        ({"reward": RewardPolicy(dear_nano_usd=-5)}, "route.reward.dear_nano_usd"),
        ({"mode": RouteMode.CHAIN, "reward": RewardPolicy()}, "route.reward"),
        ({"mode": RouteMode.WEIGHTED, "sla_seconds": 1.0}, "route.sla"),
        ({"sla_seconds": 301.0}, "route.sla"),
        ({"sla_seconds": 2.0}, ""),
    ],
)
def test_a_route_says_nothing_that_nobody_goes_by(changes: dict[str, Any], field: str) -> None:
    route = replace(a_bandit(), members=(RouteMember(deployment="a"),), **changes)
    if not field:
        check_route(route)
        return
    with pytest.raises(Invalid) as refused:
        check_route(route)
    assert refused.value.field == field
