"""An equal call is given the answer that was given before, and nobody else's."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from services.inference.domain.answer import Answer, StopReason, TextDelta
from services.inference.domain.answer_cache import KeptAnswers, cache_key
from services.inference.domain.call_policy import CacheUse, CallPolicy
from services.inference.domain.errors import LawBlocked, ProviderUnavailable
from services.inference.domain.route import Candidate, Plan, Route, RouteMode
from services.inference.usecases.attempt import judged_before
from services.inference.usecases.cached_answers import CachedAnswers
from services.meshkit.content import Usage, text_of
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import (
    ANNA,
    OPENAI,
    STUB,
    a_context,
    a_message,
    a_prompt,
    an_asked,
    failing,
    says,
)
from tests.unit.inference.conftest import Room, make_room, until


@pytest.fixture
def room() -> Room:
    return make_room((OPENAI, STUB), cache_seconds=60.0, most=256, seats=256)


async def ask(room: Room, path: str, **changes: Any) -> Answer:
    return await room.ask(an_asked(context=a_context(path), **changes))


async def test_an_equal_call_gets_the_kept_answer_without_a_model_and_without_a_hold(room: Room) -> None:
    first = await ask(room, "first")
    second = await ask(room, "second")
    assert (first.cached, second.cached) == (False, True)
    assert second.parts == first.parts
    assert (second.hold_id, second.cost_nano_usd, second.usage) == ("", 0, Usage())
    assert (len(room.openai.asked), room.holds.states) == (1, ["settled"])


async def test_a_kept_answer_carries_the_labels_of_what_was_read(room: Room) -> None:
    first = await ask(room, "first")
    second = await ask(room, "second")
    assert [part.label for part in second.parts] == [part.label for part in first.parts]
    assert "model:" + OPENAI.model in second.parts[0].label.sources


async def test_a_hundred_equal_calls_at_once_ask_the_model_once(room: Room) -> None:
    gate = asyncio.Event()
    room.openai.before_piece = gate.wait
    calls = [asyncio.ensure_future(ask(room, f"call {n}")) for n in range(100)]
    await until(lambda: room.openai.asked)
    gate.set()
    answers = await asyncio.gather(*calls)
    assert len(room.openai.asked) == 1
    assert len(room.holds.holds) == 1
    assert sum(one.cached for one in answers) == 99
    assert len({text_of(one.parts) for one in answers}) == 1


async def test_a_call_that_fails_fails_alone_and_the_next_is_made(room: Room) -> None:
    gate = asyncio.Event()
    room.openai.before_piece = gate.wait
    room.openai.scripts = [failing(ProviderUnavailable), says("Yes.")]
    calls = [asyncio.ensure_future(ask(room, f"call {n}")) for n in range(10)]
    await until(lambda: room.openai.asked)
    gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, ProviderUnavailable) for one in answers) == 1
    assert len(room.openai.asked) == 2


async def test_those_who_wait_for_an_answer_of_no_use_are_answered_by_themselves(room: Room) -> None:
    gate = asyncio.Event()
    room.openai.before_piece = gate.wait
    room.openai.scripts = [says("Cut", stop_reason=StopReason.LENGTH)]
    calls = [asyncio.ensure_future(ask(room, f"call {n}")) for n in range(5)]
    await until(lambda: room.openai.asked)
    gate.set()
    answers = await asyncio.gather(*calls)
    assert (len(room.openai.asked), sum(one.cached for one in answers)) == (5, 0)


async def test_a_stream_gets_the_kept_answer_at_once(room: Room) -> None:
    first = await ask(room, "first")
    events = await room.watch(an_asked(context=a_context("second")))
    assert events[0] == TextDelta(text_of(first.parts))
    assert isinstance(events[-1], Answer)
    assert events[-1].cached


async def test_tenants_share_nothing(room: Room) -> None:
    for number in range(10):
        answer = await ask(room, "same", principal=replace(ANNA, tenant=TenantId(UUID(int=number + 1))))
        assert not answer.cached
    assert len(room.openai.asked) == 10


async def test_projects_share_nothing(room: Room) -> None:
    for project in ("atlas", "borea", ""):
        context = replace(a_context(f"same {project}"), project=project)
        assert not (await room.ask(an_asked(context=context))).cached
    assert (await room.ask(an_asked(context=replace(a_context("again"), project="atlas")))).cached
    assert len(room.openai.asked) == 3


async def test_another_prompt_limit_or_label_is_another_call(room: Room) -> None:
    await ask(room, "first")
    for number, prompt in enumerate(
        (a_prompt(messages=(a_message("Something else?"),)), a_prompt(max_output_tokens=7), a_prompt(temperature=0.5))
    ):
        assert not (await ask(room, f"other {number}", prompt=prompt)).cached
    assert len(room.openai.asked) == 4


async def test_what_other_rules_passed_is_not_given_under_these(room: Room) -> None:
    await ask(room, "first")
    room.law.bundle_digest = "cd" * 32
    assert not (await ask(room, "second")).cached
    assert (await ask(room, "third")).cached


async def test_the_law_judges_a_kept_answer_for_each_caller(room: Room) -> None:
    await ask(room, "first")
    room.law.block("Yes.", stage="after")
    with pytest.raises(LawBlocked):
        await ask(room, "second")
    assert len(room.openai.asked) == 1


async def test_a_call_that_the_law_could_not_judge_is_not_lost(room: Room) -> None:
    room.law.faults.next(Unavailable("the law is away"))
    with pytest.raises(Unavailable):
        await ask(room, "first")
    assert (await ask(room, "first")).lost_attempts == 0


async def test_another_version_of_a_model_and_another_route_are_other_calls(room: Room) -> None:
    answer = await room.ask()
    cached = CachedAnswers(KeptAnswers(most_bytes=10_000), seconds=60.0, clock=room.clock)

    async def kept(version: int, route: Route | None = None) -> bool:
        plan = Plan(candidates=(Candidate(version=replace(OPENAI, version=version)),), route=route)
        before = asyncio.ensure_future(judged_before(an_asked(), OPENAI, law=room.law))
        await before
        async with cached.turn(an_asked(), plan, before) as turn:
            turn.made = answer
            return turn.answer is not None

    assert [await kept(1), await kept(1), await kept(2), await kept(2)] == [False, True, False, True]
    route = Route(name="fast", mode=RouteMode.CHAIN, members=(), cache_seconds=5.0)
    assert [await kept(1, route), await kept(1, route)] == [False, True]
    never = replace(route, cache_seconds=0.0)
    assert [await kept(3, never), await kept(3, never)] == [False, False]


async def test_what_the_law_rewrites_is_not_kept(room: Room) -> None:
    room.law.redact("cars", "bikes")
    await ask(room, "first")
    assert not (await ask(room, "second")).cached


async def test_an_answer_is_kept_as_long_as_it_may_be(room: Room) -> None:
    await ask(room, "first")
    room.clock.advance(seconds=59.0)
    assert (await ask(room, "second", deadline=200.0)).cached
    room.clock.advance(seconds=1.0)
    assert not (await ask(room, "third", deadline=200.0)).cached


async def test_a_caller_may_want_no_kept_answer_or_a_fresh_one(room: Room) -> None:
    await ask(room, "first")
    assert not (await ask(room, "second", policy=CallPolicy(cache=CacheUse.NO))).cached
    room.openai.scripts = [says("No.")]
    assert not (await ask(room, "third", policy=CallPolicy(cache=CacheUse.REFRESH))).cached
    assert text_of((await ask(room, "fourth")).parts) == "No."


async def test_the_stub_and_failures_are_not_kept(room: Room) -> None:
    for path in ("first", "second"):
        assert not (await ask(room, path, model="stub")).cached
    room.openai.scripts = [failing(ProviderUnavailable), says("Yes.")]
    with pytest.raises(ProviderUnavailable):
        await ask(room, "third")
    assert not (await ask(room, "fourth")).cached


async def test_a_repeat_of_a_call_answered_from_memory_gets_its_record(room: Room) -> None:
    await ask(room, "first")
    await ask(room, "second")
    room.clock.advance(seconds=61.0)
    again = await ask(room, "second", deadline=200.0)
    assert (again.replayed, again.cost_nano_usd, len(room.openai.asked)) == (True, 0, 1)


async def test_without_a_setting_nothing_is_kept() -> None:
    room = make_room((OPENAI,))
    await ask(room, "first")
    assert not (await ask(room, "second")).cached


async def test_memory_is_bounded_in_bytes() -> None:
    room = make_room((OPENAI,))
    answer = await room.ask()
    kept = KeptAnswers(most_bytes=5_000)
    keys = [cache_key(b"secret", "tenant", (bytes([n]),)) for n in range(3)]
    for key in keys:
        kept.keep(TENANT, key, answer, until=10.0)
    assert kept.bytes <= 5_000
    assert [kept.look(key, now=0.0) is not None for key in keys] == [False, True, True]
    # Another tenant needs room; what it adds beyond its share pushes out its own.
    theirs = [cache_key(b"secret", "other", (bytes([n]),)) for n in range(3)]
    for key in theirs:
        kept.keep(TenantId(UUID(int=7)), key, answer, until=10.0)
    assert [kept.look(key, now=0.0) is not None for key in (*keys, *theirs)] == [False, False, True, False, False, True]


def test_keys_tell_their_parts_and_tenants_apart() -> None:
    keys = {
        cache_key(b"s", tenant, parts)
        for tenant in ("a", "b")
        for parts in ((b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""))
    }
    assert len(keys) == 8
