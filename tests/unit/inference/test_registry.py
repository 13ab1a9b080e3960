"""What stands behind the names that callers ask for, and a judge without its database."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.deployment import Adapter, Deployments, DeploymentVersion, Tier, VersionState
from services.inference.domain.errors import ModelNotFound, ModelNotReady, ProviderUnavailable, RolloutDecided
from services.inference.domain.registered import check_version, same_place
from services.inference.domain.registry import Holdings, Names
from services.inference.domain.rollout.judgement import GOOD, Judgement, Seen, Verdict
from services.inference.domain.rollout.rollout import Rollout, RolloutState, VersionName
from services.inference.domain.rollout.watch import BadEvent, Tally
from services.inference.domain.route import Arm, AttemptOutcome, HopLimits, Route, RouteMember, RouteMode, Trial
from services.inference.domain.routing.weighted import weighted
from services.inference.usecases import judge_rollouts
from services.inference.usecases.bandits import Bandits
from services.inference.usecases.given_answers import GivenAnswers
from services.inference.usecases.judge_rollouts import JudgeRollouts, RollBack
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.paces import Paces
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.registry_news import RegistryNews
from services.inference.usecases.registry_ports import Keys, RegistryState
from services.inference.usecases.route_calls import RouteCalls
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import NO_SECRET, Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import ANTHROPIC, LOCAL, OPENAI, STUB, a_context, an_asked
from tests.unit.inference.test_rollout import a_rollout

INSTALLED = Deployments((OPENAI, ANTHROPIC, LOCAL, STUB))
CALLS = range(400)


def a_version(name: str, number: int = 1, **changes: Any) -> DeploymentVersion:
    values: dict[str, Any] = {"name": name, "adapter": Adapter.OPENAI, "model": f"{name}-model", "version": number}
    values |= {"deployment_id": f"dep_{name}", "in_default_chain": False}
    return DeploymentVersion(**{**values, **changes})


def a_route(name: str, *members: str, **changes: Any) -> Route:
    values: dict[str, Any] = {"name": name, "mode": RouteMode.CHAIN}
    values["members"] = tuple(RouteMember(deployment=one) for one in members)
    return Route(**{**values, **changes})


def held(*versions: DeploymentVersion, routes: Sequence[Route] = (), rollouts: Sequence[Rollout] = ()) -> Holdings:
    by_name: dict[str, list[DeploymentVersion]] = {}
    for one in sorted(versions, key=lambda version: -version.version):
        by_name.setdefault(one.name, []).append(one)
    return Holdings(by_name, {one.name: one for one in routes}, {one.route: one for one in rollouts})


def a_registry(holdings: Holdings, tenant: TenantId = TENANT) -> MemoryRegistry:
    registry = MemoryRegistry(INSTALLED, clock=FakeClock())
    registry.take({tenant: holdings}, whole=True)
    return registry


def planned(registry: MemoryRegistry, model: str, *, run: str = "run_1") -> list[str]:
    plan = RouteCalls(
        registry,
        ObserveRollouts(),
        bandits=Bandits(dice=Random(3)),
        given=GivenAnswers(),
        paces=Paces(clock=FakeClock()),
        hop=HopLimits(),
    ).plan(an_asked(model=model, context=a_run(run)), regions=("", ""))
    return [f"{one.version.name}@{one.version.version}" for one in plan.candidates]


def a_run(run: str) -> Any:
    context = a_context()
    return replace(context, call_id=replace(context.call_id, run_id=run))


def test_a_tenants_names_come_before_those_of_the_installation() -> None:
    own = held(a_version(OPENAI.name), routes=[a_route("default", OPENAI.name)])
    assert planned(a_registry(own), "default") == [f"{OPENAI.name}@1"]
    assert planned(a_registry(own), OPENAI.name) == [f"{OPENAI.name}@1"]
    assert planned(a_registry(Holdings()), "default") == [f"{one.name}@0" for one in (OPENAI, ANTHROPIC, LOCAL)]


def test_the_newest_ready_version_is_asked_unless_it_is_on_trial() -> None:
    versions = a_version("w", 1), a_version("w", 2), a_version("w", 3, state=VersionState.CHECKING)
    assert Names(held(*versions), INSTALLED).named("w").version == 2
    assert Names(held(*versions), INSTALLED).named("w@1").version == 1
    trial = a_rollout(
        stable=VersionName(deployment="w", version=1), canary=VersionName(deployment="w", version=2), route="r"
    )
    assert Names(held(*versions, rollouts=[trial]), INSTALLED).named("w").version == 1


@pytest.mark.parametrize("provider", ["local", "Local", "STUB"])
def test_nobody_registers_a_model_as_what_runs_in_the_mesh_and_is_free(provider: str) -> None:
    with pytest.raises(Invalid, match="provider"):
        check_version(a_version("w", provider=provider), needs_address=False)
    check_version(a_version("w", provider="acme"), needs_address=False)


@pytest.mark.parametrize(
    ("base_url", "same"),
    [
        ("https://Models.example:443/v2", True),
        ("http://models.example/v1", False),
        ("https://models.example:8443/v1", False),
        ("https://models.example.evil/v1", False),
        ("", False),
    ],
)
def test_a_place_is_an_adapter_a_scheme_a_host_and_a_port(base_url: str, same: bool) -> None:
    before = a_version("w", base_url="https://models.example/v1")
    after = replace(before, base_url=base_url)
    assert same_place(before, after) is same
    assert not same_place(after, replace(after, adapter=Adapter.ANTHROPIC))


@pytest.mark.parametrize("state", [VersionState.CHECKING, VersionState.REFUSED])
def test_a_version_that_is_not_ready_is_asked_by_its_check_only(state: VersionState) -> None:
    names = Names(held(a_version("w", 1, state=state)), INSTALLED)
    for name in ("w", "w@1"):
        with pytest.raises(ModelNotReady, match=f"w@1 is {state.value}"):
            names.named(name)
    assert names.named("w@1", checking=True).state is state


def test_a_providers_name_of_a_model_is_enough_when_only_one_has_it() -> None:
    assert Names(Holdings(), INSTALLED).named("gpt-test").name == OPENAI.name
    doubled = held(a_version("other", model="gpt-test"))
    for name in ("gpt-test", "nobody", "w@1", "@", "w@999999999999"):
        with pytest.raises(ModelNotFound):
            Names(doubled, INSTALLED).named(name)


def test_a_route_leaves_out_who_is_below_its_tier() -> None:
    own = held(
        a_version("gold", tier=Tier.GOLD),
        a_version("poor"),
        routes=[a_route("w", "poor", "gold", min_tier=Tier.SILVER)],
    )
    assert planned(a_registry(own), "w") == ["gold@1"]


def test_a_route_that_answers_nobody_says_of_each_member_why() -> None:
    own = held(
        a_version("new", state=VersionState.REFUSED),
        a_version("poor"),
        routes=[a_route("w", "new", "gone", "poor", min_tier=Tier.SILVER)],
    )
    with pytest.raises(ModelNotReady, match=r"'w'.*new@1 is refused; gone is retired; poor is below the lowest tier"):
        planned(a_registry(own), "w")


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.binary(max_size=20))
def test_a_weighted_route_asks_each_member_once_and_the_same_first_for_a_unit(weights: list[int], unit: bytes) -> None:
    members = [RouteMember(deployment=str(index), weight_permille=one) for index, one in enumerate(weights)]
    order = weighted("route", members, unit)
    assert sorted(one.deployment for one in order) == sorted(one.deployment for one in members)
    assert order == weighted("route", members, unit)
    assert order[0].weight_permille > 0 or not any(weights)


def test_a_canary_is_followed_by_the_stable_version_and_a_stable_call_never_meets_it() -> None:
    rollout = a_rollout(
        stable=VersionName(deployment=OPENAI.name, version=0),
        canary=VersionName(deployment="new", version=1),
        route="w",
    )
    own = held(a_version("new"), routes=[a_route("w", OPENAI.name, ANTHROPIC.name)], rollouts=[rollout])
    registry = a_registry(own)
    plans = [planned(registry, "w", run=f"run_{number}") for number in CALLS]
    stable = [f"{OPENAI.name}@0", f"{ANTHROPIC.name}@0"]
    assert all(plan in (stable, ["new@1", *stable]) for plan in plans)
    assert plans.count(["new@1", *stable]) == pytest.approx(len(CALLS) / 10, abs=20)


class Records:
    """Records of a database that may be away."""

    def __init__(self) -> None:
        self.away = False
        #: How often a judge asked whether it is the one.
        self.asked = 0

    async def add(
        self, tenant: TenantId, rollout_id: str, events: Sequence[BadEvent], tallies: Mapping[Arm, Tally], *, step: int
    ) -> None:
        if self.away:
            raise Unavailable("postgres")

    async def judged(self, tenant: TenantId, rollout: Rollout) -> Seen:
        return Seen()

    async def forget(self) -> None: ...

    @asynccontextmanager
    async def judging(self) -> AsyncIterator[bool]:
        self.asked += 1
        if self.away:
            raise Unavailable("postgres")
        yield True


class Rollouts:
    """Rollouts as the database keeps them."""

    def __init__(self, records: Records, rollout: Rollout) -> None:
        self._records = records
        self.standing = rollout
        self.promoted: list[int | None] = []

    async def promote(
        self, tenant: TenantId, rollout_id: str, *, by: str, reason: str = "", revision: int | None = None
    ) -> Rollout:
        self.promoted.append(revision)
        if revision not in (None, self.standing.revision):
            raise RolloutDecided(rollout_id, state="another")
        self.standing = self.standing.promoted(now=FakeClock().now(), by=by, reason=reason)
        return self.standing

    async def roll_back(self, tenant: TenantId, rollout_id: str, *, by: str, reason: str = "") -> Rollout:
        if self._records.away:
            raise Unavailable("postgres")
        self.standing = self.standing.rolled_back(now=FakeClock().now(), by=by, reason=reason)
        return self.standing


async def test_a_judge_whose_database_is_away_takes_back_by_what_it_saw_itself_and_says_so_later() -> None:
    clock, records, observe = FakeClock(), Records(), ObserveRollouts()
    now = clock.now()
    rollout = a_rollout(
        stable=VersionName(deployment=OPENAI.name, version=0),
        canary=VersionName(deployment="new", version=1),
        route="w",
        started=now,
        step_began=now,
    )
    registry = a_registry(held(a_version("new"), routes=[a_route("w", OPENAI.name)], rollouts=[rollout]))
    rollouts: Any = Rollouts(records, rollout)
    judge = JudgeRollouts(registry=registry, observe=observe, records=records, rollouts=rollouts, clock=clock)
    router = RouteCalls(
        registry,
        observe,
        bandits=Bandits(dice=Random(3)),
        given=GivenAnswers(),
        paces=Paces(clock=FakeClock()),
        hop=HopLimits(),
    )
    records.away = True
    for number in CALLS:
        plan = router.plan(an_asked(model="w", context=a_run(f"run_{number}")), regions=("", ""))
        fails = plan.candidates[0].arm is Arm.CANARY
        for candidate in plan.candidates[: 2 if fails else 1]:
            failed = candidate.version.name == "new"
            router.told(candidate, AttemptOutcome(latency_us=1, reason="PROVIDER_UNAVAILABLE" if failed else ""))
    await judge.look()
    assert all(planned(registry, "w", run=f"run_{number}") == [f"{OPENAI.name}@0"] for number in CALLS)
    assert rollouts.standing.state is RolloutState.RUNNING
    records.away = False
    await judge.look()
    assert rollouts.standing.state is RolloutState.ROLLED_BACK
    assert (rollouts.standing.decided_by, rollouts.standing.reason[:7]) == ("judge", "errors:")


async def test_a_judge_takes_the_step_of_the_rollout_that_it_has_judged_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def good(rollout: Rollout, seen: Seen, **_: Any) -> Judgement:
        return Judgement(Verdict.STEP, GOOD)

    monkeypatch.setattr(judge_rollouts, "judge", good)
    clock, records, rollout = FakeClock(), Records(), a_rollout(route="w", revision=3)
    registry = a_registry(held(routes=[a_route("w", OPENAI.name)], rollouts=[rollout]))
    rollouts: Any = Rollouts(records, rollout)
    judge = JudgeRollouts(registry=registry, observe=ObserveRollouts(), records=records, rollouts=rollouts, clock=clock)
    await judge.look()
    assert rollouts.promoted == [3]
    await judge.look()
    assert (rollouts.promoted, rollouts.standing.step) == ([3, 3], 1)


async def test_a_judge_asks_for_nothing_while_no_rollout_runs_but_what_may_be_forgotten_now_and_then() -> None:
    clock, records = FakeClock(), Records()
    rollouts: Any = Rollouts(records, a_rollout())
    registry = a_registry(held(routes=[a_route("w", OPENAI.name)]))
    judge = JudgeRollouts(registry=registry, observe=ObserveRollouts(), records=records, rollouts=rollouts, clock=clock)
    for _ in range(3):
        await judge.look()
    assert records.asked == 1
    clock.advance(seconds=901)
    await judge.look()
    assert records.asked == 2


@pytest.mark.parametrize("error", [ValueError("math domain error"), ModelNotFound("w")])
@pytest.mark.parametrize("away", [False, True])
async def test_a_rollout_that_cannot_be_judged_stops_neither_the_judge_nor_the_other_rollouts(
    away: bool, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, records, observe = FakeClock(), Records(), ObserveRollouts()
    trials = [a_rollout(id=f"rollout_{route}", route=route) for route in ("a", "b")]
    registry = a_registry(held(routes=[a_route(one.route, OPENAI.name) for one in trials], rollouts=trials))
    judged: list[str] = []

    def broken_for_a(rollout: Rollout, seen: Seen, **_: Any) -> Judgement:
        judged.append(rollout.id)
        if rollout.route == "a":
            raise error
        return Judgement(Verdict.BACK, "why")

    monkeypatch.setattr(judge_rollouts, "judge", broken_for_a)
    for one in trials:
        observe.note(
            Trial(tenant=TENANT, rollout=one, unit=b"", arm=Arm.CANARY, project=""), AttemptOutcome(latency_us=1)
        )
    rollouts: Any = Rollouts(records, trials[1])
    judge = JudgeRollouts(registry=registry, observe=observe, records=records, rollouts=rollouts, clock=clock)
    records.away = away
    await judge.look()
    assert judged == ["rollout_a", "rollout_b"]
    records.away = False
    await judge.look()
    assert rollouts.standing.state is RolloutState.ROLLED_BACK


async def test_a_command_to_take_back_is_obeyed_at_once_while_the_database_is_away() -> None:
    clock, records = FakeClock(), Records()
    rollout = a_rollout(route="w")
    registry = a_registry(held(routes=[a_route("w", OPENAI.name)], rollouts=[rollout]))
    rollouts: Any = Rollouts(records, rollout)
    judge = JudgeRollouts(registry=registry, observe=ObserveRollouts(), records=records, rollouts=rollouts, clock=clock)
    roll_back = RollBack(rollouts=rollouts, judge_rollouts=judge)
    records.away = True
    with pytest.raises(Unavailable):
        await roll_back(TENANT, "rollout_of_nobody", by="anna")
    first = await roll_back(TENANT, rollout.id, by="anna")
    assert (first.state, first.decided_by, first.share_permille) == (RolloutState.ROLLED_BACK, "anna", 0)
    assert await roll_back(TENANT, rollout.id, by="berta") == first
    records.away = False
    await judge.look()
    assert (rollouts.standing.state, rollouts.standing.decided_by) == (RolloutState.ROLLED_BACK, "anna")


@dataclass
class MemoryFeed:
    """Implements `RegistryFeed`."""

    state: RegistryState
    asked_also: list[frozenset[TenantId]] = field(default_factory=list[frozenset[TenantId]])

    async def version(self) -> int:
        return self.state.version

    async def whole(self) -> RegistryState:
        return replace(self.state, whole=True)

    async def since(self, version: int, *, also: Collection[TenantId] = ()) -> RegistryState:
        self.asked_also.append(frozenset(also))
        return self.state

    async def forget_changes(self) -> None: ...


def news_of(feed: MemoryFeed) -> RegistryNews:
    clock = FakeClock()
    return RegistryNews(feed, MemoryRegistry(INSTALLED, clock=clock), ObserveRollouts(), clock=clock)


def a_state(version: int, keys: Keys, *versions: DeploymentVersion) -> RegistryState:
    return RegistryState(version=version, holdings={TENANT: held(*versions)}, keys={TENANT: keys})


async def test_a_key_that_cannot_be_opened_is_tried_again_and_its_model_not_asked_without_it() -> None:
    first, second = a_version("w", 1), a_version("w", 2)
    feed = MemoryFeed(a_state(1, {("dep_w", 1): Secret("one"), ("dep_w", 2): None}, first, second))
    news = news_of(feed)
    await news.look()
    assert news.key(first) == Secret("one")
    with pytest.raises(ProviderUnavailable):
        news.key(second)
    # Nothing has changed; what was open stays so while the key service is away.
    feed.state = a_state(1, {("dep_w", 1): None, ("dep_w", 2): Secret("two")}, first, second)
    await news.look()
    assert feed.asked_also == [{TENANT}]
    assert (news.key(first), news.key(second)) == (Secret("one"), Secret("two"))
    await news.look()
    assert len(feed.asked_also) == 1


async def test_keys_of_what_a_tenant_has_no_more_are_forgotten() -> None:
    version = a_version("w")
    feed = MemoryFeed(a_state(1, {("dep_w", 1): Secret("one")}, version))
    news = news_of(feed)
    await news.look()
    feed.state = a_state(2, {})
    await news.look()
    assert news.key(version) == NO_SECRET


async def test_what_cannot_be_read_ends_nothing_and_is_read_once_it_can_be() -> None:
    class Odd(MemoryFeed):
        odd = True

        async def whole(self) -> RegistryState:
            if self.odd:
                raise ValueError("a state that this release does not know")
            return await super().whole()

    feed, clock = Odd(a_state(1, {}, a_version("w"))), FakeClock()
    registry = MemoryRegistry(INSTALLED, clock=clock)
    following = asyncio.ensure_future(RegistryNews(feed, registry, ObserveRollouts(), clock=clock)())
    await clock.until_someone_sleeps()
    feed.odd = False
    clock.advance(seconds=1)
    await clock.until_someone_sleeps()
    assert registry.names(TENANT).named("w").version == 1
    following.cancel()
