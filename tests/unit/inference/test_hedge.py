"""A second deployment beside one that is silent: who wins, what is shown, and who pays."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.answer import Answer, StreamEvent, TextDelta
from services.inference.domain.call_policy import CallPolicy, MidStream
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import AnswerBrokeOff, Charge, ProviderRefused, ProviderUnavailable
from services.inference.domain.reliability.retry_budget import AT_START
from services.inference.domain.rollout.rollout import ALL
from services.inference.domain.route import Candidate
from services.inference.usecases.attempt import Attempt
from services.meshkit.content import text_of
from services.meshkit.content.law import Stage, Subject, Verdict
from services.meshkit.core.identity import Principal
from tests.support.inference import (
    ANTHROPIC,
    LOCAL,
    OPENAI,
    Script,
    ScriptedModels,
    ScriptedProvider,
    a_context,
    an_asked,
    failing,
    says,
)
from tests.unit.inference.conftest import Room, make_room
from tests.unit.inference.test_calls_on_trial import asked as asked_on_trial
from tests.unit.inference.test_calls_on_trial import on_trial

HEDGED = CallPolicy(hedge_seconds=2.0)
STEP = 0.25


def answering(room: Room, provider: ScriptedProvider, script: Script, *, after: float) -> None:
    """Has a provider begin so many seconds after it was asked; what follows comes at once."""
    provider.scripts = [script]
    slept: set[int] = set()

    async def wait() -> None:
        if len(provider.asked) not in slept:
            slept.add(len(provider.asked))
            await room.clock.sleep(after)

    provider.before_piece = wait


async def timed(room: Room, call: Awaitable[Any]) -> Any:
    """Lets time pass until a call is over."""
    making = asyncio.ensure_future(call)
    for _ in range(400):
        for _ in range(30):
            await asyncio.sleep(0)
        if making.done():
            return making.result()
        room.clock.advance(seconds=STEP)
    making.cancel()
    raise AssertionError("the call did not end")


async def asked(room: Room, **changes: Any) -> Answer:
    return await timed(room, room.ask(an_asked(policy=HEDGED, **changes)))


def states(room: Room) -> dict[str, str]:
    return {hold.model: hold.state for hold in room.holds.holds.values()}


async def test_one_that_answers_in_time_is_asked_alone(room: Room) -> None:
    answering(room, room.openai, says("In time."), after=1.5)
    assert text_of((await asked(room)).parts) == "In time."
    assert not room.anthropic.asked


async def test_nobody_is_asked_beside_another_unless_the_call_wants_that(room: Room) -> None:
    answering(room, room.openai, says("Late."), after=20)
    answer: Answer = await timed(room, room.ask())
    assert (answer.provider, room.anthropic.asked) == ("openai", [])


async def test_the_second_wins_and_the_first_is_stopped_and_charged_at_its_bound(room: Room) -> None:
    answering(room, room.openai, says("Late."), after=20)
    answer = await asked(room)
    assert (answer.provider, answer.failed_attempts) == ("anthropic", ())
    assert [(note.deployment, note.reason, note.usage_known) for note in answer.attempts] == [
        (OPENAI.name, "CANCELLED", False),
        (ANTHROPIC.name, "", True),
    ]
    assert room.openai.closed == 1
    assert states(room) == {OPENAI.model: "dispatched", ANTHROPIC.model: "settled"}
    assert room.clock.monotonic() < 4


async def test_the_first_may_still_win(room: Room) -> None:
    answering(room, room.openai, says("A little late."), after=3)
    answering(room, room.anthropic, says("Later."), after=9)
    answer = await asked(room)
    assert [note.deployment for note in answer.attempts] == [ANTHROPIC.name, OPENAI.name]
    assert states(room) == {OPENAI.model: "settled", ANTHROPIC.model: "dispatched"}


async def test_a_second_that_fails_takes_nothing_from_the_first(room: Room) -> None:
    answering(room, room.openai, says("A little late."), after=4)
    answering(room, room.anthropic, failing(ProviderRefused), after=0.5)
    answer = await asked(room)
    assert (answer.provider, answer.failed_attempts) == ("openai", (f"{ANTHROPIC.name}: PROVIDER_REFUSED",))


async def test_a_budget_that_has_no_room_for_two_pays_for_the_first() -> None:
    room = make_room()
    answering(room, room.openai, says("A little late."), after=4)
    room.holds.limit = 250
    answer = await asked(room)
    assert (answer.provider, answer.failed_attempts) == ("openai", (f"{ANTHROPIC.name}: BUDGET_EXHAUSTED_IN_TEST",))


async def test_when_both_fail_the_next_is_asked(room: Room) -> None:
    answering(room, room.openai, failing(ProviderUnavailable), after=4)
    answering(room, room.anthropic, failing(ProviderUnavailable), after=1)
    answer = await asked(room)
    assert answer.provider == "local"
    assert sorted(one.partition(":")[0] for one in answer.failed_attempts) == sorted((OPENAI.name, ANTHROPIC.name))


async def test_text_that_is_shown_is_of_one_of_them_only(room: Room) -> None:
    answering(room, room.openai, says("One. ", "Two. ", "Three."), after=3)
    answering(room, room.anthropic, says("Eins. ", "Zwei. ", "Drei."), after=0.5)
    events: list[StreamEvent] = await timed(room, room.watch(an_asked(policy=HEDGED)))
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert shown == "Eins. Zwei. Drei."
    assert room.openai.closed == 1


@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_whatever_the_law_passes_first_the_text_that_is_shown_is_that_of_the_answer(
    room: Room, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    evaluate = room.law.evaluate

    async def slow(principal: Principal, subject: Subject) -> Verdict:
        if subject.stage is Stage.DURING and subject.target == ANTHROPIC.model:
            await asyncio.Event().wait()
        for _ in range(turns if subject.stage is Stage.DURING else 0):
            await asyncio.sleep(0)
        return await evaluate(principal, subject)

    async def a_turn() -> None:
        # Both begin at the same moment, and go on piece by piece.
        left = began + 3 - room.clock.monotonic()
        await (room.clock.sleep(left) if left > 0 else asyncio.sleep(0))

    began = room.clock.monotonic()
    monkeypatch.setattr(room.law, "evaluate", slow)
    room.openai.scripts = [says(*(f"One {number}. " for number in range(40)))]
    room.anthropic.scripts = [says(*(f"Eins {number}. " for number in range(turns % 7 + 1)))]
    room.openai.before_piece = room.anthropic.before_piece = a_turn
    events: list[Any] = await timed(room, room.watch(an_asked(policy=HEDGED)))
    assert len(room.anthropic.asked) == 1
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert shown == text_of(events[-1].parts)


async def test_nobody_is_asked_beside_one_that_has_begun(room: Room) -> None:
    gate = asyncio.Event()

    async def stall() -> None:
        if room.openai.asked and gate.is_set():
            await room.clock.sleep(10)
        gate.set()

    room.openai.scripts, room.openai.before_piece = [says("One. ", "Two.")], stall
    events: list[Any] = await timed(room, room.watch(an_asked(policy=HEDGED)))
    assert events[-1].provider == "openai"
    assert not room.anthropic.asked


async def test_one_that_took_over_and_breaks_off_goes_as_the_policy_says(room: Room) -> None:
    answering(room, room.openai, says("Late."), after=30)
    room.anthropic.scripts = [failing(ProviderUnavailable, Charge.UNKNOWN, "One. Two. ")]
    room.anthropic.before_piece = lambda: room.clock.sleep(0.5)
    policy = CallPolicy(hedge_seconds=2.0, mid_stream=MidStream.RESTART)
    events: list[Any] = await timed(room, room.watch(an_asked(policy=policy)))
    assert (events[-1].provider, events[-1].failed_attempts) == (
        "local",
        (f"{ANTHROPIC.name}: PROVIDER_UNAVAILABLE",),
    )


async def test_a_second_whose_text_broke_off_is_whom_the_next_one_continues(room: Room) -> None:
    answering(room, room.openai, failing(ProviderUnavailable), after=2.5)
    room.anthropic.scripts = [failing(ProviderUnavailable, Charge.UNKNOWN, "One. Two. ")]
    room.anthropic.before_piece = lambda: room.clock.sleep(1.0)
    policy = CallPolicy(hedge_seconds=2.0, mid_stream=MidStream.FAIL)
    with pytest.raises(AnswerBrokeOff) as broke_off:
        await timed(room, room.watch(an_asked(policy=policy)))
    assert broke_off.value.metadata["deployment"] == ANTHROPIC.name


async def test_a_second_that_nobody_can_follow_has_all_of_the_time_that_is_left() -> None:
    room = make_room((OPENAI, ANTHROPIC))
    answering(room, room.openai, says("Late."), after=20)
    answer = await asked(room)
    assert answer.provider == "anthropic"
    first, second = room.openai.asked[0].seconds, room.anthropic.asked[0].seconds
    # The first has half of it: the other could still answer.
    assert second == pytest.approx(2 * first - 2.0, abs=0.5)


async def test_a_second_that_cannot_be_opened_keeps_its_place(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, shut = ScriptedModels.provider, [ANTHROPIC.name]

    def provider(models: ScriptedModels, version: DeploymentVersion) -> ScriptedProvider:
        if version.name in shut:
            shut.remove(version.name)
            raise ProviderUnavailable("its key cannot be opened right now", deployment=version.name)
        return opened(models, version)

    monkeypatch.setattr(ScriptedModels, "provider", provider)
    answering(room, room.openai, failing(ProviderUnavailable), after=4)
    room.providers[LOCAL.adapter].scripts = [failing(ProviderUnavailable)]
    answer = await asked(room)
    assert answer.provider == "anthropic"
    assert [one.partition(":")[0] for one in answer.failed_attempts] == [LOCAL.name, OPENAI.name]


async def test_seconds_draw_on_the_purse_of_repeats(room: Room) -> None:
    beside = 0
    for number in range(20):
        answering(room, room.openai, says("Late."), after=3)
        answering(room, room.anthropic, says("Later."), after=30)
        before = len(room.anthropic.asked)
        await asked(room, context=a_context(f"call {number}"))
        beside += len(room.anthropic.asked) - before
    assert beside == AT_START


async def test_who_is_on_trial_is_watched_to_the_end(room: Room) -> None:
    on_trial(room, share_permille=ALL)
    answering(room, room.anthropic, says("Slow."), after=10)
    answer: Answer = await timed(room, room.ask(asked_on_trial(1, policy=HEDGED)))
    assert (answer.deployment, room.openai.asked) == ("new", [])


async def test_a_call_that_is_left_leaves_neither(room: Room) -> None:
    for provider in (room.openai, room.anthropic):
        answering(room, provider, says("Late."), after=30)
    making = asyncio.ensure_future(room.ask(an_asked(policy=HEDGED)))
    for _ in range(12):
        for _ in range(30):
            await asyncio.sleep(0)
        room.clock.advance(seconds=STEP)
    assert [len(one.asked) for one in (room.openai, room.anthropic)] == [1, 1]
    making.cancel()
    await asyncio.wait([making])
    for _ in range(30):
        await asyncio.sleep(0)
    assert (room.openai.closed, room.anthropic.closed) == (1, 1)
    assert set(states(room).values()) == {"dispatched"}


@pytest.mark.parametrize("blocks", [False, True])
async def test_an_attempt_is_stopped_also_while_the_law_still_reads_what_it_would_show(
    room: Room, monkeypatch: pytest.MonkeyPatch, blocks: bool
) -> None:
    evaluate, reads, read = room.law.evaluate, asyncio.Event(), asyncio.Event()

    async def slow(principal: Principal, subject: Subject) -> Verdict:
        if subject.stage is Stage.DURING:
            reads.set()
            try:
                await read.wait()
            except asyncio.CancelledError:
                # As one that tidies up.
                await read.wait()
                if not blocks:
                    raise
        return await evaluate(principal, subject)

    monkeypatch.setattr(room.law, "evaluate", slow)
    room.openai.scripts, room.openai.before_piece = [says("Yes. ", "No.")], lambda: asyncio.sleep(0)
    if blocks:
        room.law.block("Yes", stage=Stage.DURING)
    attempt = Attempt(
        an_asked(), Candidate(version=OPENAI), room.openai, law=room.law, holds=room.holds, clock=room.clock
    )
    running = asyncio.create_task(attempt.run(lambda _: None))
    await reads.wait()
    # The answer is whole, and the attempt waits for the law.
    for _ in range(30):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    read.set()
    await asyncio.wait([running])
    assert running.cancelled()
    assert states(room) == {OPENAI.model: "dispatched"}


fates = st.tuples(
    st.sampled_from([0.25, 1.75, 2.0, 2.5, 3.0, 4.25, 30.0]),
    st.sampled_from(["answers", "unavailable", "refused", "unknown", "breaks off"]),
)


def fate(kind: str, name: str) -> Script:
    match kind:
        case "answers":
            return says(f"{name} one. ", f"{name} two.")
        case "unavailable":
            return failing(ProviderUnavailable)
        case "refused":
            return failing(ProviderRefused)
        case "unknown":
            return failing(ProviderUnavailable, Charge.UNKNOWN)
        case _:
            return failing(ProviderUnavailable, Charge.UNKNOWN, f"{name} one. ")


@given(fates, fates, st.booleans())
async def test_however_two_fare_there_is_one_winner_and_each_hold_ends_once(
    first: tuple[float, str], second: tuple[float, str], streamed: bool
) -> None:
    room = make_room((OPENAI, ANTHROPIC, LOCAL))
    running, most = 0, 0

    def watched(provider: ScriptedProvider) -> Callable[[], Awaitable[None]]:
        inner = provider.before_piece

        async def before() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await inner()
            finally:
                running -= 1

        return before

    for provider, name, (after, kind) in ((room.openai, "A", first), (room.anthropic, "B", second)):
        answering(room, provider, fate(kind, name), after=after)
        provider.before_piece = watched(provider)
    call = room.watch(an_asked(policy=HEDGED)) if streamed else room.ask(an_asked(policy=HEDGED))
    got = await timed(room, call)
    answer: Answer = got[-1] if streamed else got
    assert most <= 2
    assert answer.attempts[-1].deployment == answer.deployment
    assert [note.reason for note in answer.attempts].count("") == 1
    paid = {hold.id: hold.state for hold in room.holds.holds.values()}
    assert sorted(note.hold_id for note in answer.attempts) == sorted(paid)
    assert paid[answer.hold_id] == "settled"
    for note in answer.attempts[:-1]:
        assert paid[note.hold_id] == ("released" if note.usage_known else "dispatched"), note
    if streamed:
        last = [index for index, event in enumerate(got) if type(event).__name__ == "Restarted"]
        told = got[last[-1] + 1 :] if last else got
        assert "".join(event.text for event in told if isinstance(event, TextDelta)) == text_of(answer.parts)
