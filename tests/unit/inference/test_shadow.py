"""Shadows: copies of calls that nobody waits for, pays with his own budgets, or sees."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.answer import Answer, StopReason, TextDelta
from services.inference.domain.errors import LawBlocked, ProviderUnavailable
from services.inference.domain.registered import check_route
from services.inference.domain.route import Shadow
from services.inference.domain.routing.comparison import Compared, compared, is_shadowed, similarity
from services.inference.usecases.shadow import Pair
from services.meshkit.content import (
    CallId,
    CallKey,
    Confidentiality,
    ImagePart,
    Integrity,
    Label,
    Message,
    MessageRole,
    Part,
    Usage,
)
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import ANTHROPIC, OPENAI, a_context, a_prompt, an_asked, failing, says
from tests.support.pictures import a_png
from tests.unit.inference.conftest import Room
from tests.unit.inference.test_registry import a_route, held

PAIR = Pair(tenant=TENANT, route="w", shadow=ANTHROPIC.full_name)


def shadowed(room: Room, *, permille: int = 1000) -> None:
    route = a_route("w", OPENAI.name, shadow=Shadow(deployment=ANTHROPIC.name, permille=permille))
    room.registry.take({TENANT: held(routes=[route])}, whole=True)


def asked(number: int = 1, **changes: Any) -> Any:
    return an_asked(model="w", context=a_context(f"step/{number}", agent_name="Athena", **changes))


@asynccontextmanager
async def at_work(room: Room) -> AsyncIterator[None]:
    """Has the copies made while the block runs."""
    work = asyncio.create_task(room.shadows())
    try:
        yield
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def found(room: Room) -> Compared:
    return dict(await room.shadows.compared(TENANT, "w")).get(PAIR, Compared())


async def counted(room: Room, **counts: int) -> Compared:
    """Waits until so much was counted, 5 seconds at most."""
    seen = await found(room)
    async with asyncio.timeout(5):
        while any(getattr(seen, name) < count for name, count in counts.items()):
            await asyncio.sleep(0.001)
            seen = await found(room)
    return seen


async def test_a_copy_is_compared_and_pays_and_works_for_itself(room: Room) -> None:
    shadowed(room)
    room.anthropic.scripts = [says("no, YES!", usage=Usage(input=10, output=20))]
    async with at_work(room):
        answer = await room.ask(asked(budget_ids=("budget_1",)))
        seen = await counted(room, pairs=1)
    assert (seen.pairs, seen.same_form, seen.similarity, seen.skipped) == (1, 1, 1.0, 0)
    assert (seen.main_characters, seen.shadow_characters) == (8, 8)
    assert seen.main_nano_usd == answer.cost_nano_usd
    main, copy = room.holds.holds.values()
    assert (main.provider, copy.provider) == ("openai", "anthropic")
    assert (copy.context.agent_name, copy.context.budget_ids) == ("shadow", ())
    assert copy.context.call_id.run_id.startswith("shadow_")
    # The law has seen both sides of both.
    assert [subject.context.agent_name for subject in room.law.at("after")] == ["Athena", "shadow"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_caller_has_its_answer_before_anything_is_copied(room: Room, streamed: bool) -> None:
    shadowed(room)
    if streamed:
        *texts, answer = await room.watch(asked())
        assert texts == [TextDelta("Yes. No.")]
    else:
        answer = await room.ask(asked())
    assert isinstance(answer, Answer)
    assert answer.deployment == OPENAI.name
    assert room.anthropic.asked == []
    assert len(room.holds.holds) == 1


async def test_what_goes_wrong_with_a_copy_is_counted_and_is_nobodys_failure(room: Room) -> None:
    shadowed(room)
    room.anthropic.scripts = [failing(ProviderUnavailable), says("A secret.")]
    async with at_work(room):
        await room.ask(asked(1))
        await counted(room, shadow_failed=1)
        room.law.block("secret", stage="after")
        await room.ask(asked(2))
        seen = await counted(room, skipped=1)
    assert (seen.pairs, seen.shadow_failed, seen.skipped) == (0, 1, 1)


async def test_calls_that_the_route_does_not_answer_are_counted_and_not_copied(room: Room) -> None:
    shadowed(room)
    room.openai.scripts = [failing(ProviderUnavailable)]
    with pytest.raises(ProviderUnavailable):
        await room.ask(asked(1))
    room.openai.scripts = [says("A secret.")]
    room.law.block("secret")
    with pytest.raises(LawBlocked):
        await room.ask(asked(2))
    assert await found(room) == Compared(main_failed=1)
    assert room.anthropic.asked == []


async def test_repeats_checks_and_calls_of_forks_are_not_copied(room: Room) -> None:
    shadowed(room)
    assert room.shadows.pair_of(asked()) == PAIR
    assert room.shadows.pair_of(replace(asked(), checking=True)) is None
    assert room.shadows.pair_of(asked(bundle="other@1.0.0")) is None
    assert room.shadows.pair_of(an_asked(model=OPENAI.name)) is None
    for _ in range(3):
        await room.ask(asked())
    async with at_work(room):
        assert (await counted(room, pairs=1)).pairs == 1
    assert len(room.holds.holds) == 2


async def test_a_shadow_that_has_become_a_member_is_not_asked_beside_itself(room: Room) -> None:
    route = a_route("w", ANTHROPIC.name, shadow=Shadow(deployment=ANTHROPIC.name, permille=1000))
    room.registry.take({TENANT: held(routes=[route])}, whole=True)
    assert room.shadows.pair_of(asked()) is None


async def test_a_full_queue_skips_copies_and_keeps_nobody_waiting(room: Room) -> None:
    shadowed(room)
    for number in range(70):
        await room.ask(asked(number))
    assert await found(room) == Compared(skipped=6)


async def test_long_pictures_are_not_kept_for_a_copy(room: Room) -> None:
    shadowed(room)
    label = Label(integrity=Integrity.USER, confidentiality=Confidentiality.TENANT)
    picture = Part(ImagePart(media_type="image/png", data=a_png(padding=300_000)), label)
    messages = (Message(role=MessageRole.USER, parts=(picture,)),)
    await room.ask(replace(asked(), prompt=a_prompt(messages=messages)))
    assert await found(room) == Compared(skipped=1)


async def test_what_cannot_be_told_now_is_told_later(room: Room) -> None:
    room.comparisons.faults.next(Unavailable("postgres"))
    room.shadows.note(PAIR, Compared(skipped=1))
    with pytest.raises(Unavailable):
        await found(room)
    room.shadows.note(PAIR, Compared(skipped=2))
    assert await found(room) == Compared(skipped=3)


@given(st.integers(1, 1000), st.integers(1, 1000), st.text(max_size=20))
def test_a_growing_share_drops_no_call(one: int, other: int, run: str) -> None:
    key = CallKey(tenant=TENANT, call_id=CallId(run_id=run))
    small, large = sorted((one, other))
    assert not is_shadowed("w", key, small) or is_shadowed("w", key, large)
    assert is_shadowed("w", key, 1000)


def test_a_share_is_what_it_says() -> None:
    keys = [CallKey(tenant=TENANT, call_id=CallId(run_id=f"run_{number}")) for number in range(20_000)]
    assert 0.09 < sum(is_shadowed("w", key, 100) for key in keys) / len(keys) < 0.11


@given(st.text(), st.text())
def test_texts_are_alike_from_0_to_1_whichever_is_first(one: str, other: str) -> None:
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    assert similarity(one, one) == 1.0


async def test_another_end_or_other_words_are_another_answer(room: Room) -> None:
    answer = await room.ask(an_asked())
    cut = replace(answer, stop_reason=StopReason.LENGTH, parts=())
    seen = compared(answer, cut)
    assert (seen.pairs, seen.same_form, seen.similarity, seen.shadow_characters) == (1, 0, 0.0, 0)
    assert similarity("Yes, we should.", "We should not!") == pytest.approx(2 * 2 / 6)


@pytest.mark.parametrize(
    ("deployment", "permille", "field"),
    [("a", 100, "deployment"), ("b", 0, "permille"), ("b", 1001, "permille"), ("b", 1, "")],
)
def test_a_shadow_is_no_member_and_has_a_share(deployment: str, permille: int, field: str) -> None:
    route = a_route("w", "a", shadow=Shadow(deployment=deployment, permille=permille))
    if not field:
        check_route(route)
        return
    with pytest.raises(Invalid) as refused:
        check_route(route)
    assert refused.value.field == f"route.shadow.{field}"
