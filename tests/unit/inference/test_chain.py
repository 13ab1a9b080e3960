"""Who is asked, how often, who is left alone, and what becomes of an answer that breaks off."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from services.inference.domain.answer import Answer, Continued, Restarted, StopReason, StreamEvent, TextDelta
from services.inference.domain.call_policy import CallPolicy, MidStream, OnDisconnect
from services.inference.domain.errors import (
    AnswerBrokeOff,
    Charge,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
)
from services.inference.domain.prompt import ToolDefinition
from services.inference.domain.reliability.mid_stream import GO_ON
from services.meshkit.content import ToolCallPart, Usage, text_of
from services.meshkit.core.errors import DeadlineExceeded
from services.meshkit.telemetry import metrics
from tests.support.inference import ANTHROPIC, LOCAL, OPENAI, Script, a_context, a_prompt, an_asked, failing, says
from tests.unit.inference.conftest import Room, make_room, until
from tests.unit.inference.test_generate import NUMBER
from tests.unit.inference.test_stream_generate import a_moment, shown

SEARCH = ToolDefinition(name="search", description="Searches.", input_schema={"type": "object"})


def asking_to_wait(seconds: float | None = None) -> Script:
    after = None if seconds is None else timedelta(seconds=seconds)
    return (ProviderRateLimited("wait", deployment="test", retry_after=after),)


async def nth(room: Room, number: int) -> Answer:
    return await room.ask(context=a_context(f"call {number}"))


async def test_whom_a_tenant_says_it_pays_is_no_value_of_a_label_without_bound() -> None:
    payee = str(uuid4())
    room = make_room([replace(OPENAI, provider=payee)])
    room.openai.scripts = [says("Paid.")]
    assert (await nth(room, 1)).provider == payee
    pages = [one for metric in (metrics.TOKENS_CONSUMED, metrics.INFERENCE_LATENCY) for one in metric.collect()]
    values = {value for page in pages for sample in page.samples for value in sample.labels.values()}
    assert "other" in values
    assert payee not in values


# --- who is left alone -----------------------------------------------------------------------------------------------


async def test_a_deployment_that_asks_to_wait_is_left_alone_for_as_long(room: Room) -> None:
    room.openai.scripts = [asking_to_wait(7), says("Back.")]
    assert (await nth(room, 1)).failed_attempts == ("openai/gpt-test: PROVIDER_RATE_LIMITED",)
    room.clock.advance(seconds=6.9)
    answer = await nth(room, 2)
    assert (answer.provider, answer.failed_attempts) == ("anthropic", ("openai/gpt-test: COOLING_DOWN",))
    assert [note.deployment for note in answer.attempts] == [ANTHROPIC.name]
    room.clock.advance(seconds=0.1)
    assert (await nth(room, 3)).provider == "openai"


async def test_who_can_ask_nobody_else_waits_for_the_one_that_asked_for_it() -> None:
    room = make_room([OPENAI])
    room.openai.scripts = [asking_to_wait(20), says("Back.")]
    with pytest.raises(ProviderRateLimited) as limited:
        await nth(room, 1)
    assert limited.value.retry_after == timedelta(seconds=20)
    waiting = asyncio.ensure_future(nth(room, 2))
    await room.clock.until_someone_sleeps()
    room.clock.advance(seconds=20)
    answer = await waiting
    assert text_of(answer.parts) == "Back."
    assert answer.failed_attempts == ("openai/gpt-test: COOLING_DOWN",)


async def test_who_has_no_time_to_wait_hears_when_to_come_back() -> None:
    room = make_room([OPENAI])
    room.openai.scripts = [asking_to_wait(40), says("Back.")]
    for _ in range(2):
        with pytest.raises(ProviderRateLimited) as limited:
            await nth(room, 1)
        assert limited.value.retry_after == timedelta(seconds=40)
    assert len(room.openai.asked) == 1


async def test_an_answer_is_repaired_however_often_others_are_told_to_wait_meanwhile() -> None:
    room, gates = make_room([OPENAI]), [asyncio.Event() for _ in range(3)]
    room.openai.scripts = [says('{"n": "three"}'), asking_to_wait(1), asking_to_wait(2), says('{"n": 3}')]
    closed = list(gates)

    async def gated() -> None:
        if closed:
            await closed.pop(0).wait()

    room.openai.before_piece = gated
    broken = asyncio.ensure_future(room.ask(prompt=a_prompt(output_format=NUMBER)))
    await until(lambda: len(closed) == 2)
    others = [asyncio.ensure_future(nth(room, number)) for number in (2, 3)]
    await until(lambda: not closed)
    for gate, other in zip(gates[1:], others, strict=True):
        gate.set()
        with pytest.raises(ProviderRateLimited):
            await other
        gates[0].set()
        await room.clock.until_someone_sleeps()
    for _ in range(2):
        await room.clock.until_someone_sleeps()
        room.clock.advance(seconds=1)
    answer = await broken
    assert (text_of(answer.parts), answer.repairs) == ('{"n": 3}', 1)


async def test_a_deployment_that_keeps_failing_is_left_alone_and_found_out_about_with_one_call(room: Room) -> None:
    room.openai.scripts = [failing(ProviderUnavailable)]
    for number in range(5):
        await nth(room, number)
    judged = len(room.law.at("before"))
    answer = await nth(room, 5)
    assert answer.failed_attempts == ("openai/gpt-test: BREAKER_OPEN",)
    # Nobody judges, or holds money for, what would be sent to who is not asked.
    assert len(room.law.at("before")) == judged + 1
    assert len(room.openai.asked) == 5
    room.clock.advance(seconds=1.2)
    gate = asyncio.Event()
    room.openai.scripts, room.openai.before_piece = [says("Back.")], gate.wait
    probe = asyncio.ensure_future(nth(room, 6))
    await until(lambda: len(room.openai.asked) == 6)
    assert (await nth(room, 7)).provider == "anthropic", "one call finds out"
    gate.set()
    assert (await probe).provider == "openai"
    assert (await nth(room, 8)).provider == "openai"


async def test_a_call_that_is_cancelled_while_it_finds_out_leaves_that_to_the_next(room: Room) -> None:
    room.openai.scripts = [failing(ProviderUnavailable)]
    for number in range(5):
        await nth(room, number)
    room.clock.advance(seconds=1.2)
    room.openai.scripts, room.openai.before_piece = [says("Back.")], asyncio.Event().wait
    probe = asyncio.ensure_future(nth(room, 6))
    await until(lambda: len(room.openai.asked) == 6)
    probe.cancel()
    await asyncio.wait([probe])
    room.openai.before_piece = None
    assert (await nth(room, 7)).provider == "openai"


async def test_what_a_provider_refuses_opens_no_breaker(room: Room) -> None:
    room.openai.scripts = [failing(ProviderRefused)]
    for number in range(20):
        await nth(room, number)
    assert len(room.openai.asked) == 20


async def test_when_the_only_one_is_left_alone_a_call_waits_for_a_moment_and_no_longer() -> None:
    room = make_room([OPENAI])
    room.openai.scripts = [failing(ProviderUnavailable)]
    for number in range(5):
        with pytest.raises(ProviderUnavailable):
            await nth(room, number)
    waiting = asyncio.ensure_future(nth(room, 6))
    await room.clock.until_someone_sleeps()
    room.clock.advance(seconds=1.2)
    with pytest.raises(ProviderUnavailable):
        await waiting
    room.clock.advance(seconds=2.4)
    with pytest.raises(ProviderUnavailable):
        await nth(room, 7)
    with pytest.raises(ProviderUnavailable) as left_alone:
        await nth(room, 8)
    assert left_alone.value.metadata["why"] == "BREAKER_OPEN"
    assert left_alone.value.retry_after is not None
    assert left_alone.value.retry_after > timedelta(seconds=3)
    assert len(room.openai.asked) == 7


# --- how often one is asked ------------------------------------------------------------------------------------------


async def test_a_deployment_is_asked_again_after_a_pause_with_a_hold_of_its_own() -> None:
    room = make_room([OPENAI, ANTHROPIC], tries=2)
    room.openai.scripts = [failing(ProviderUnavailable, Charge.UNKNOWN), says("Yes.")]
    asking = asyncio.ensure_future(room.ask())
    await room.clock.until_someone_sleeps()
    assert room.clock.monotonic() == 0
    room.clock.advance(seconds=0.2)
    answer = await asking
    assert (answer.provider, answer.failed_attempts) == ("openai", ("openai/gpt-test: PROVIDER_UNAVAILABLE",))
    assert room.holds.states == ["dispatched", "settled"]
    assert [(note.hold_id, note.reason, note.usage_known) for note in answer.attempts] == [
        ("hold_1", "PROVIDER_UNAVAILABLE", False),
        ("hold_2", "", True),
    ]


async def test_repeats_stay_a_quarter_of_the_calls_however_much_fails() -> None:
    room = make_room([OPENAI, ANTHROPIC], tries=3)
    room.openai.scripts = [
        script for _ in range(400) for script in (failing(ProviderUnavailable), says("Yes."), says("Yes."))
    ]
    for number in range(400):
        asked = an_asked(context=a_context(f"call {number}"), deadline=room.clock.monotonic() + 60)
        asking = asyncio.ensure_future(room.ask(asked))
        while not asking.done():
            room.clock.advance(seconds=1)
            await asyncio.sleep(0)
        await asking
    assert len(room.openai.asked) <= 1.25 * 400 + 2


async def test_a_repeat_honours_the_time_that_the_provider_asked_for() -> None:
    room = make_room([OPENAI], tries=2)
    room.openai.scripts = [asking_to_wait(3), says("Yes.")]
    asking = asyncio.ensure_future(room.ask())
    await room.clock.until_someone_sleeps()
    room.clock.advance(seconds=2.9)
    await asyncio.sleep(0)
    assert len(room.openai.asked) == 1
    room.clock.advance(seconds=0.4)
    assert text_of((await asking).parts) == "Yes."


# --- an answer that breaks off ---------------------------------------------------------------------------------------


def breaking(room: Room, *, then: Script) -> None:
    room.openai.before_piece = room.anthropic.before_piece = a_moment
    room.openai.scripts = [failing(ProviderUnavailable, Charge.UNKNOWN, "Trams are ", "quiet. ", "Cars a")]
    room.anthropic.scripts = [then]


async def seen(room: Room, policy: MidStream, **changes: Any) -> tuple[list[StreamEvent], BaseException | None]:
    events: list[StreamEvent] = []
    try:
        async for event in room.events(policy=CallPolicy(mid_stream=policy), **changes):
            events.append(event)  # noqa: PERF401  # what came before the failure is looked at
    except AnswerBrokeOff as broke_off:
        return events, broke_off
    return events, None


async def test_an_answer_is_started_again_and_the_caller_is_told(room: Room) -> None:
    breaking(room, then=says("All of it."))
    events, _ = await seen(room, MidStream.RESTART)
    assert events[:2] == [TextDelta("Trams are quiet. "), Restarted(ANTHROPIC.name)]
    assert isinstance(events[-1], Answer)
    assert text_of(events[-1].parts) == "All of it."
    assert events[-1].continued_by == ""


async def test_an_answer_is_continued_and_what_was_shown_stays_its_beginning(room: Room) -> None:
    breaking(room, then=says("Cars are ", "not. ", "That is all."))
    events, _ = await seen(room, MidStream.CONTINUE)
    assert events[:2] == [TextDelta("Trams are quiet. "), Continued(ANTHROPIC.name)]
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert text_of(answer.parts) == shown(list(events)) == "Trams are quiet. Cars are not. That is all."
    assert (answer.continued_by, answer.deployment) == (ANTHROPIC.name, ANTHROPIC.name)
    assert {"model:gpt-test", "model:claude-test"} <= answer.parts[0].label.sources
    assert room.holds.states == ["dispatched", "settled"], "both are paid for, each by its own hold"
    told = room.anthropic.asked[0].prompt
    assert [text_of(message.parts) for message in told.messages[-2:]] == ["Trams are quiet. ", GO_ON]
    assert told.max_output_tokens < room.openai.asked[0].prompt.max_output_tokens


async def test_the_law_judges_what_is_continued_together_with_what_was_shown(room: Room) -> None:
    breaking(room, then=says("Cars are ", "not. ", "End."))
    await seen(room, MidStream.CONTINUE)
    during = [text_of(subject.parts) for subject in room.law.at("during")]
    assert during == ["Trams are quiet. ", "Trams are quiet. Cars are not. "]
    assert [text_of(subject.parts) for subject in room.law.at("after")] == ["Trams are quiet. Cars are not. End."]


async def test_an_answer_that_breaks_off_fails_when_the_caller_wants_no_other(room: Room) -> None:
    breaking(room, then=says("All of it."))
    events, broke_off = await seen(room, MidStream.FAIL)
    assert events == [TextDelta("Trams are quiet. ")]
    assert isinstance(broke_off, AnswerBrokeOff)
    assert not room.anthropic.asked
    assert not room.calls.calls, "nothing of it is recorded"


async def test_an_answer_that_may_be_a_tool_call_is_not_continued(room: Room) -> None:
    breaking(room, then=says("All of it."))
    _, broke_off = await seen(room, MidStream.CONTINUE, prompt=a_prompt(tools=(SEARCH,)))
    assert isinstance(broke_off, AnswerBrokeOff)


async def test_whoever_asks_for_a_tool_too_deeply_is_passed_over(room: Room) -> None:
    arguments: dict[str, object] = {}
    for _ in range(24):
        arguments = {"a": arguments}
    call = ToolCallPart(tool_call_id="c", name="search", arguments=arguments)
    room.openai.scripts = [says(tool_calls=(call,), stop_reason=StopReason.TOOL_CALLS)]
    answer = await room.ask()
    assert (answer.provider, answer.failed_attempts) == ("anthropic", ("openai/gpt-test: PROVIDER_UNAVAILABLE",))


async def test_an_answer_that_nobody_can_continue_is_said_to_be_broken(room: Room) -> None:
    breaking(room, then=failing(ProviderUnavailable, Charge.NOTHING, "Cars are "))
    room.providers[LOCAL.adapter].scripts = [failing(ProviderUnavailable)]
    events, broke_off = await seen(room, MidStream.CONTINUE)
    assert not any(isinstance(event, Answer) for event in events)
    assert isinstance(broke_off, AnswerBrokeOff)


@pytest.mark.parametrize("policy", list(MidStream))
async def test_nobody_hears_of_a_failure_before_anything_was_shown(room: Room, policy: MidStream) -> None:
    room.openai.scripts = [failing(ProviderUnavailable, Charge.UNKNOWN, "Tra")]
    events, _ = await seen(room, policy)
    assert not any(isinstance(event, Restarted | Continued) for event in events)
    assert isinstance(events[-1], Answer)


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_an_answer_that_does_not_end_is_cut_and_another_is_asked(room: Room) -> None:
    room.openai.scripts = [says(*["word " * 1000] * 100)]
    *_, answer = await room.watch()
    assert isinstance(answer, Answer)
    assert (answer.provider, answer.failed_attempts) == ("anthropic", ("openai/gpt-test: PROVIDER_UNAVAILABLE",))
    assert room.openai.closed == 1
    assert room.holds.states == ["dispatched", "settled"]


async def test_whatever_hangs_the_call_ends_soon_after_its_deadline(room: Room) -> None:
    room.openai.before_piece = asyncio.Event().wait
    with pytest.raises(DeadlineExceeded):
        await room.ask(deadline=0.01)
    assert room.openai.closed == 1
    assert room.holds.states == ["dispatched"]


async def test_a_call_that_is_drained_is_billed_for_what_it_used_though_its_caller_left(room: Room) -> None:
    gate = asyncio.Event()
    room.openai.before_piece = gate.wait
    asking = asyncio.ensure_future(room.ask(policy=CallPolicy(on_disconnect=OnDisconnect.DRAIN)))
    await until(lambda: room.openai.asked)
    asking.cancel()
    await asyncio.wait([asking])
    gate.set()
    await until(lambda: room.holds.states == ["settled"])
    assert room.holds.holds["hold_1"].usage == Usage(input=10, output=5)


async def test_a_call_that_is_detached_is_recorded_and_a_repeat_gets_it(room: Room) -> None:
    gate = asyncio.Event()
    room.openai.before_piece = gate.wait
    asking = asyncio.ensure_future(room.ask(policy=CallPolicy(on_disconnect=OnDisconnect.DETACH)))
    await until(lambda: room.openai.asked)
    asking.cancel()
    await asyncio.wait([asking])
    gate.set()
    await until(lambda: room.calls.calls)
    # The call may be about to end still: then this one follows it.
    followed = await room.ask()
    again = await room.ask()
    assert again.replayed
    assert again.parts == followed.parts
    assert len(room.openai.asked) == 1
