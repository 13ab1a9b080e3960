"""Tiered routes, and what routes say for calls that do not say it themselves."""

from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from comitia.inference.v1 import generation_pb2, model_pb2
from services.inference.domain.answer import RouteChoice
from services.inference.domain.call_policy import USUAL, CacheUse, CallPolicy, MidStream, OnDisconnect, WorkClass
from services.inference.domain.deployment import Tier
from services.inference.domain.errors import ProviderUnavailable
from services.inference.domain.route import AttemptOutcome, HopLimits, RouteMode
from services.inference.domain.routing.tiered import Pace, keeps, tiered
from services.inference.storage.outcome_codec import decode_outcome, encode_outcome
from services.inference.transport.call_policy import policy_of, policy_to_proto
from services.inference.transport.convert import generation_to_proto
from services.inference.transport.doors.door import Asking, Calls, Visit
from services.inference.transport.model_convert import route_of, route_to_proto
from services.inference.usecases.paces import Paces
from services.meshkit.core.errors import Invalid
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from services.meshkit.testing.seeded_ids import SeededIds
from tests.support.inference import ANNA, ANTHROPIC, LOCAL, OPENAI, a_context, a_prompt, an_asked, failing
from tests.unit.inference.conftest import Room
from tests.unit.inference.test_registry import a_route, a_version, held

SMALL, MIDDLE, LARGE = (
    a_version(name, tier=tier) for name, tier in (("small", Tier.BRONZE), ("middle", Tier.SILVER), ("large", Tier.GOLD))
)


def an_answer(seconds: float, cost: int | None = None) -> AttemptOutcome:
    return AttemptOutcome(latency_us=round(seconds * 1_000_000), cost_nano_usd=cost)


def a_pace(seconds: float, cost: int | None = None, *, times: int = 20, now: float = 0.0) -> Pace:
    pace = Pace()
    for _ in range(times):
        pace.note(latency_us=round(seconds * 1_000_000), cost_nano_usd=cost, now=now)
    return pace


def order(paces: dict[str, Pace], *, sla: float | None = 2.0, now: float = 0.0) -> list[str]:
    return [one.name for one in tiered((LARGE, MIDDLE, SMALL), paces, sla_seconds=sla, now=now)]


def test_the_cheapest_that_keeps_the_time_comes_first_and_then_the_fastest_of_the_others() -> None:
    paces = {"large@1": a_pace(1.0, 900), "middle@1": a_pace(1.5, 300), "small@1": a_pace(3.0, 10)}
    assert order(paces) == ["middle", "large", "small"]
    assert order(paces, sla=0.5) == ["large", "middle", "small"]
    assert order(paces, sla=None) == ["small", "middle", "large"]


def test_of_equal_cost_the_better_tier_comes_first_and_who_is_not_known_is_tried() -> None:
    assert order({}) == ["large", "middle", "small"]
    assert order({"large@1": a_pace(1.0, 900), "middle@1": a_pace(1.0, 300)}) == ["small", "middle", "large"]


def test_one_slow_answer_of_twenty_is_forgiven_and_two_are_not() -> None:
    pace = a_pace(1.0, times=99)
    pace.note(latency_us=9_000_000, cost_nano_usd=None, now=0.0)
    assert keeps(pace, sla_seconds=2.0, now=0.0)
    for _ in range(5):
        pace.note(latency_us=9_000_000, cost_nano_usd=None, now=0.0)
    assert not keeps(pace, sla_seconds=2.0, now=0.0)


def test_who_was_slow_a_minute_ago_is_tried_anew_and_judged_by_that() -> None:
    pace = a_pace(9.0, 100)
    assert not keeps(pace, sla_seconds=2.0, now=60.0)
    assert keeps(pace, sla_seconds=2.0, now=60.1)
    pace.note(latency_us=1_000_000, cost_nano_usd=100, now=61.0)
    assert keeps(pace, sla_seconds=2.0, now=61.0)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300))
def test_an_average_cost_is_that_of_the_last_hundred_answers(costs: list[int]) -> None:
    pace = Pace()
    for cost in costs:
        pace.note(latency_us=1, cost_nano_usd=cost, now=0.0)
    last = costs[-100:]
    assert pace.cost == pytest.approx(sum(last) / len(last))


def test_what_fails_says_nothing_of_how_fast_answers_are() -> None:
    paces = Paces(clock=FakeClock())
    paces.note(SMALL, replace(an_answer(9.0), reason=ProviderUnavailable.reason))
    assert paces.keeps(SMALL, sla_seconds=1.0)
    paces.note(SMALL, an_answer(9.0))
    assert not paces.keeps(SMALL, sla_seconds=1.0)


async def test_a_tiered_route_says_what_it_chose_and_goes_on_when_that_fails(room: Room) -> None:
    gold = replace(a_version("large", adapter=ANTHROPIC.adapter, tier=Tier.GOLD))
    silver = a_version("middle", adapter=OPENAI.adapter, tier=Tier.SILVER)
    route = a_route("w", "middle", "large", LOCAL.name, mode=RouteMode.TIERED, min_tier=Tier.SILVER, sla_seconds=2.0)
    room.registry.take({TENANT: held(gold, silver, routes=[route])}, whole=True)
    room.paces.note(silver, an_answer(1.0, 100))
    room.paces.note(gold, an_answer(1.0, 900))

    def asked(number: int) -> Any:
        return an_asked(model="w", context=a_context(f"step/{number}"))

    answer = await room.ask(asked(1))
    assert answer.choice == RouteChoice(route="w", mode="tiered", tier="silver", keeps_sla=True)
    room.openai.scripts = [failing(ProviderUnavailable)]
    answer = await room.ask(asked(2))
    assert (answer.deployment, answer.failed_attempts) == ("large", ("middle@1: PROVIDER_UNAVAILABLE",))
    assert answer.choice is not None
    assert answer.choice.tier == "gold"
    assert decode_outcome(encode_outcome(answer)) == replace(answer, cost_nano_usd=0)
    assert generation_to_proto(answer).choice.keeps_sla is True
    # Asked again it is given as it was.
    assert (await room.ask(asked(2))).choice == answer.choice
    named = await room.ask(an_asked(model="large", context=a_context("named")))
    assert named.choice is None


def test_what_a_call_does_not_say_is_as_its_route_says() -> None:
    usual = CallPolicy(
        mid_stream=MidStream.FAIL,
        on_disconnect=OnDisconnect.DRAIN,
        work_class=WorkClass.BATCH,
        cache=CacheUse.NO,
    )
    assert policy_of(generation_pb2.CallPolicy(), usual=usual) == usual
    said = generation_pb2.CallPolicy(work_class=generation_pb2.WORK_CLASS_INTERACTIVE, sticky_key="anna")
    expected = replace(usual, work_class=WorkClass.INTERACTIVE, sticky_key="anna")
    assert policy_of(said, usual=usual) == expected
    assert policy_of(generation_pb2.CallPolicy()) == USUAL
    assert policy_of(policy_to_proto(usual)) == usual


def test_a_route_keeps_its_policy_and_refuses_what_is_for_calls_to_say() -> None:
    message = model_pb2.ModelRoute(
        name="w",
        mode=model_pb2.ROUTE_MODE_TIERED,
        members=[model_pb2.RouteMember(deployment="a")],
        policy=generation_pb2.CallPolicy(mid_stream=generation_pb2.MID_STREAM_FAIL),
    )
    route, _ = route_of(message, usual=HopLimits())
    assert route.policy == CallPolicy(mid_stream=MidStream.FAIL)
    assert route_of(route_to_proto(route), usual=HopLimits())[0] == route
    for policy, field in (
        (generation_pb2.CallPolicy(sticky_key="anna"), "route.policy.sticky_key"),
        (generation_pb2.CallPolicy(mid_stream=99), "route.policy.mid_stream"),  # type: ignore[arg-type]
    ):
        message.policy.CopyFrom(policy)
        with pytest.raises(Invalid) as refused:
            route_of(message, usual=HopLimits())
        assert refused.value.field == field


def test_the_registry_knows_the_policy_of_a_route_and_of_a_name_that_is_none(room: Room) -> None:
    policy = CallPolicy(work_class=WorkClass.BATCH)
    room.registry.take({TENANT: held(routes=[a_route("w", OPENAI.name, policy=policy)])}, whole=True)
    assert room.registry.policy(TENANT, "w") == policy
    assert room.registry.policy(TENANT, OPENAI.name) == USUAL
    assert room.registry.policy(TENANT, "") == USUAL


async def test_at_a_door_a_route_says_all_but_that_what_was_shown_is_void(room: Room) -> None:
    policies = {"w": CallPolicy(work_class=WorkClass.BATCH), "v": CallPolicy(mid_stream=MidStream.FAIL)}
    routes = [a_route(name, OPENAI.name, policy=policy) for name, policy in policies.items()]
    room.registry.take({TENANT: held(routes=routes)}, whole=True)
    calls = Calls(answer=room.generate, stream=room.stream_generate)
    asking = Asking(
        keyed=calls,
        unkeyed=calls,
        check_seats=lambda _: None,
        registry=room.registry,
        clock=room.clock,
        ids=SeededIds(1),
    )
    visit = Visit(request=make_mocked_request("POST", "/"), id="req_1", rest="", deadline=60.0)
    visit.principal = ANNA
    said = {name: asking.asked(visit, name, a_prompt(), door="/", user="anna").policy for name in ("w", "v", "stub")}
    assert said["w"] == CallPolicy(
        mid_stream=MidStream.CONTINUE, work_class=WorkClass.BATCH, sticky_key=f"{ANNA.subject}\x00anna"
    )
    assert said["v"].mid_stream is MidStream.FAIL
    assert said["stub"].mid_stream is MidStream.CONTINUE
