"""Notes of settlements, written after the answer."""

import asyncio

from services.inference.domain.call import SettleState
from services.meshkit.calls.ports import Settlement
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.money import NanoUsd
from tests.support.inference import a_context
from tests.unit.inference.conftest import Room


async def charged_call(room: Room, path: str) -> None:
    """Makes a call that is recorded as pending, and has its settlement noted."""
    room.holds.settling.next(Unavailable("cost"))
    answer = await room.ask(context=a_context(path))
    key = next(key for key, (call, _, _) in room.calls.calls.items() if call.hold_id == answer.hold_id)
    room.notes.add(Settlement(key=key, hold_id=answer.hold_id, charged=NanoUsd(15)))


def states(room: Room) -> list[SettleState]:
    return [call.settle_state for call, _, _ in room.calls.calls.values()]


async def test_notes_are_gathered_and_written_together(room: Room) -> None:
    running = asyncio.ensure_future(room.notes())
    await charged_call(room, "one")
    await room.clock.until_someone_sleeps()
    await charged_call(room, "two")
    assert states(room) == [SettleState.PENDING] * 2
    room.calls.marking.next(Unavailable("postgres"), after=1)
    room.clock.advance(seconds=0.2)
    while SettleState.PENDING in states(room):  # noqa: ASYNC110  # ends with the test's time
        await asyncio.sleep(0)
    assert room.calls.marking.raised == 0, "once for both"
    running.cancel()
    await asyncio.wait([running])


async def test_what_waits_is_written_when_the_service_stops(room: Room) -> None:
    running = asyncio.ensure_future(room.notes())
    await charged_call(room, "one")
    await room.clock.until_someone_sleeps()
    running.cancel()
    await asyncio.wait([running])
    assert states(room) == [SettleState.SETTLED]


async def test_notes_that_cannot_be_written_are_written_a_moment_later(room: Room) -> None:
    room.calls.marking.next(Unavailable("postgres"))
    running = asyncio.ensure_future(room.notes())
    await charged_call(room, "one")
    await room.clock.until_someone_sleeps()
    room.clock.advance(seconds=0.2)
    while not room.calls.marking.raised:  # noqa: ASYNC110  # ends with the test's time
        await asyncio.sleep(0)
    await room.clock.until_someone_sleeps()
    assert states(room) == [SettleState.PENDING]
    room.clock.advance(seconds=1)
    while SettleState.PENDING in states(room):  # noqa: ASYNC110  # ends with the test's time
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
