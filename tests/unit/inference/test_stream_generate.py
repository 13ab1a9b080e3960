"""What a reader sees of an answer while it comes."""

import asyncio

import pytest

from services.inference.domain.answer import Answer, Restarted, TextDelta
from services.inference.domain.errors import Charge, LawBlocked, ProviderUnavailable
from services.meshkit.content import text_of
from services.meshkit.core.errors import Unavailable
from tests.support.inference import failing, says
from tests.unit.inference.conftest import Room, until


async def a_moment() -> None:
    """Passes the time in which the law reads along; a real provider takes longer for each piece."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def room(room: Room) -> Room:
    """Gives a room whose provider takes a moment for each piece."""
    room.openai.before_piece = room.anthropic.before_piece = a_moment
    return room


async def test_a_fast_answer_is_not_kept_waiting_by_the_law(room: Room) -> None:
    room.openai.before_piece = None
    room.openai.scripts = [says("One. ", "Two. ", "Three. ", "Four.")]
    events = await room.watch()
    assert shown(list(events)) == "One. Two. Three. Four."
    assert len(room.law.at("during")) <= 1
    assert len(room.law.at("after")) == 1


def shown(events: list[object]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_text_is_released_at_the_end_of_sentences_and_the_answer_comes_last(room: Room) -> None:
    room.openai.scripts = [says("Trams ", "are ", "quiet. ", "Cars ", "are not.")]
    events = await room.watch()
    assert [type(event) for event in events] == [TextDelta, TextDelta, Answer]
    assert events[0] == TextDelta("Trams are quiet. ")
    assert shown(list(events)) == "Trams are quiet. Cars are not."
    assert [text_of(subject.parts) for subject in room.law.at("during")] == ["Trams are quiet. "]


async def test_long_text_without_an_end_is_released_in_pieces(room: Room) -> None:
    room.openai.scripts = [says(*[f"word{number} " for number in range(60)])]
    events = await room.watch()
    assert len(events) > 4
    assert shown(list(events)) == "".join(f"word{number} " for number in range(60))


async def test_nothing_is_shown_before_the_law_has_passed_it(room: Room) -> None:
    room.law.block("secret", stage="during")
    room.openai.scripts = [says("All is well. ", "The secret is 7. ", "More. ")]
    events: list[object] = []
    with pytest.raises(LawBlocked) as blocked:
        async for event in room.events():
            events.append(event)  # noqa: PERF401  # what came before the refusal is looked at
    assert shown(events) == "All is well. "
    assert blocked.value.metadata["stage"] == "during"
    assert room.openai.closed == 1, "the provider is told to stop"
    assert room.holds.states == ["dispatched"]


async def test_redacted_text_is_shown_redacted(room: Room) -> None:
    room.law.redact("Bob", "[name]")
    room.openai.scripts = [says("I met Bob. ", "Bob is well. ", "Good.")]
    events = await room.watch()
    assert shown(list(events)) == "I met [name]. [name] is well. Good."
    assert isinstance(events[-1], Answer)
    assert text_of(events[-1].parts) == "I met [name]. [name] is well. Good."


async def test_when_law_changes_what_was_shown_the_rest_waits_for_the_whole_answer(room: Room) -> None:
    room.law.redact("one. Two", "[both]")
    room.openai.scripts = [says("Number one. ", "Two and. ", "Three. ", "End.")]
    events = await room.watch()
    assert shown(list(events)) == "Number one. "
    assert isinstance(events[-1], Answer)
    assert text_of(events[-1].parts) == "Number [both] and. Three. End."


async def test_law_that_goes_away_while_text_streams_ends_the_stream(room: Room) -> None:
    room.law.faults.next(Unavailable("policy"), after=1)
    room.openai.scripts = [says("One. ", "Two. ", "Three.")]
    with pytest.raises(Unavailable):
        await room.watch()
    assert room.openai.closed == 1


async def test_an_answer_that_breaks_off_is_started_again_by_the_next_model(room: Room) -> None:
    room.openai.scripts = [failing(ProviderUnavailable, Charge.UNKNOWN, "It began. ", "It wa")]
    room.anthropic.scripts = [says("It is done.")]
    events = await room.watch()
    assert events[:2] == [TextDelta("It began. "), Restarted("anthropic/claude-test")]
    assert shown(list(events[2:])) == "It is done."


async def test_a_failure_before_any_text_restarts_nothing(room: Room) -> None:
    room.openai.scripts = [failing(ProviderUnavailable)]
    events = await room.watch()
    assert not any(isinstance(event, Restarted) for event in events)


async def test_who_attaches_late_sees_everything_from_the_start(room: Room) -> None:
    room.openai.scripts = [says("One. ", "Two. ", "Three.")]
    gate = asyncio.Event()
    pieces = 0

    async def wait_at_the_third() -> None:
        nonlocal pieces
        await a_moment()
        pieces += 1
        if pieces == 3:
            await gate.wait()

    room.openai.before_piece = wait_at_the_third
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(room.watch())
        await until(lambda: pieces == 3)
        second = tasks.create_task(room.watch())
        third = tasks.create_task(room.ask())
        await asyncio.sleep(0)
        gate.set()
    assert first.result() == second.result()
    assert first.result()[-1] == third.result()
    assert len(room.openai.asked) == 1


async def test_a_reader_who_leaves_stops_the_provider(room: Room) -> None:
    room.openai.scripts = [says("One. ", "Two. ", "Three.")]
    never = asyncio.Event()
    pieces = 0

    async def wait_at_the_third() -> None:
        nonlocal pieces
        await a_moment()
        pieces += 1
        if pieces == 3:
            await never.wait()

    room.openai.before_piece = wait_at_the_third
    events = room.events()
    assert await anext(events) == TextDelta("One. ")
    await events.aclose()
    assert room.openai.closed == 1


async def test_a_repeat_streams_the_recorded_answer_only(room: Room) -> None:
    await room.watch()
    events = await room.watch()
    assert [type(event) for event in events] == [Answer]
