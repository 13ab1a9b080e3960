"""Settlements that were cut short, and calls that are old."""

import asyncio
from datetime import timedelta

from services.inference.domain.call import SettleState
from services.meshkit.calls.sweep import Sweep
from services.meshkit.core.errors import NotFound, Unavailable
from services.meshkit.core.secret import NO_SECRET
from services.meshkit.sql.errors import TransactionConflict
from tests.support.inference import ANNA, a_context
from tests.unit.inference.conftest import Room


def sweep_of(room: Room) -> Sweep:
    return Sweep(
        calls=room.calls, holds=room.holds, clock=room.clock, every_seconds=15.0, retention=timedelta(hours=72)
    )


async def pending_call(room: Room, path: str = "rounds/1/Athena") -> None:
    """Makes a call whose settlement fails."""
    room.holds.settling.next(Unavailable("cost"))
    await room.ask(context=a_context(path))


def states(room: Room) -> list[SettleState]:
    return [call.settle_state for call, _, _ in room.calls.calls.values()]


async def test_what_is_pending_is_settled_with_the_callers_token(room: Room) -> None:
    await pending_call(room)
    room.clock.advance(seconds=21)
    assert await sweep_of(room).settle_pending() == 1
    assert states(room) == [SettleState.SETTLED]
    assert room.holds.tokens == [ANNA.token.reveal()]
    assert next(iter(room.calls.calls.values()))[1] == NO_SECRET, "the token is not kept longer than needed"


async def test_a_settlement_that_is_still_being_made_is_left_alone(room: Room) -> None:
    await pending_call(room)
    room.clock.advance(seconds=5)
    assert await sweep_of(room).settle_pending() == 0
    assert states(room) == [SettleState.PENDING]


async def test_while_cost_is_down_it_stays_pending_and_one_does_not_hold_up_the_next(room: Room) -> None:
    await pending_call(room, "one")
    await pending_call(room, "two")
    room.clock.advance(seconds=21)
    room.holds.settling.next(Unavailable("cost"))
    assert await sweep_of(room).settle_pending() == 1
    assert sorted(states(room)) == [SettleState.PENDING, SettleState.SETTLED]


async def test_what_cost_will_never_take_lapses(room: Room) -> None:
    await pending_call(room)
    room.clock.advance(seconds=21)
    room.holds.settling.next(NotFound("hold", "hold_1"))
    assert await sweep_of(room).settle_pending() == 1
    assert states(room) == [SettleState.LAPSED]


async def test_a_lost_race_in_the_ledger_is_run_again(room: Room) -> None:
    await pending_call(room)
    room.clock.advance(seconds=21)
    room.holds.settling.next(TransactionConflict("another change got in the way"))
    assert await sweep_of(room).settle_pending() == 0
    assert states(room) == [SettleState.PENDING]
    assert await sweep_of(room).settle_pending() == 1
    assert states(room) == [SettleState.SETTLED]


async def test_it_looks_at_the_start_and_again_and_survives_a_database_that_is_away(room: Room) -> None:
    await pending_call(room)
    room.clock.advance(seconds=1)
    room.calls.marking.next(Unavailable("postgres"))
    running = asyncio.ensure_future(sweep_of(room)())
    await room.clock.until_someone_sleeps()
    assert states(room) == [SettleState.PENDING]
    room.clock.advance(seconds=15)
    await room.clock.until_someone_sleeps()
    room.clock.advance(seconds=15)
    await room.clock.until_someone_sleeps()
    assert states(room) == [SettleState.SETTLED]
    running.cancel()
    await asyncio.wait([running])


async def test_old_calls_are_forgotten_but_not_pending_ones(room: Room) -> None:
    await room.ask(context=a_context("settled"))
    await pending_call(room, "pending")
    room.clock.advance(seconds=73 * 3600)
    room.holds.settling.next(Unavailable("cost"))
    running = asyncio.ensure_future(sweep_of(room)())
    await room.clock.until_someone_sleeps()
    running.cancel()
    await asyncio.wait([running])
    assert [key.call_id.path for key in room.calls.calls] == ["pending"]
