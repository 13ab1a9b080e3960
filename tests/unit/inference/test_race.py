"""Two attempts at one call: who wins when both come to something in one turn of the loop."""

import asyncio
from collections.abc import Callable

import pytest

from services.inference.domain.answer import TextDelta
from services.inference.usecases.race import Race
from services.meshkit.core.errors import Invalid, MeshError

A, B = TextDelta("A"), TextDelta("B")


class Shown:
    """A race, and what the reader saw of it."""

    def __init__(self, *, decides: bool = False) -> None:
        self.events: list[object] = []
        self.race = Race[str](self.events.append, decides=lambda _: decides)
        self.turn, self.rest = asyncio.Event(), asyncio.Event()

    def show(self, lane: int) -> Callable[[TextDelta], None]:
        release = self.race.release_of(lane)
        assert release is not None
        return release

    async def ends_in_the_turn(self, answer: str, error: BaseException | None = None) -> str:
        await self.turn.wait()
        if error is not None:
            raise error
        return answer

    async def shows_in_the_turn(self, lane: int, piece: TextDelta, error: MeshError | None = None) -> str:
        await self.turn.wait()
        self.show(lane)(piece)
        await self.rest.wait()
        if error is not None:
            raise error
        return piece.text

    async def turns(self) -> None:
        """Has both come to something in one turn, and what is shown come to its end later."""
        await asyncio.sleep(0)
        self.turn.set()
        for _ in range(5):
            await asyncio.sleep(0)
        self.rest.set()


@pytest.mark.parametrize("lane", [0, 1])
async def test_whose_text_is_shown_wins_though_the_other_is_whole_in_the_same_turn(lane: int) -> None:
    shown = Shown()
    shown.race.start(lane, shown.shows_in_the_turn(lane, A))
    shown.race.start(1 - lane, shown.ends_in_the_turn("whole"))
    turning = asyncio.create_task(shown.turns())
    ended = await shown.race.end()
    await turning
    assert (ended.winner, ended.shown, shown.events) == (lane, lane, [A])
    # The other is whole too: somebody has to pay for it.
    assert ended.answers == {lane: "A", 1 - lane: "whole"}


async def test_nobody_wins_when_what_was_shown_breaks_off() -> None:
    shown, failure = Shown(), Invalid("answer", "broke off")
    shown.race.start(0, shown.shows_in_the_turn(0, A, failure))
    shown.race.start(1, shown.ends_in_the_turn("whole"))
    turning = asyncio.create_task(shown.turns())
    ended = await shown.race.end()
    await turning
    assert (ended.winner, ended.shown, ended.failures) == (None, 0, {0: failure})


@pytest.mark.parametrize("error", [Invalid("prompt", "is bad"), ZeroDivisionError()])
async def test_a_failure_beside_what_is_shown_takes_nothing_from_it(error: Exception) -> None:
    shown = Shown(decides=True)
    shown.race.start(0, shown.ends_in_the_turn("", error))
    shown.race.start(1, shown.shows_in_the_turn(1, B))
    turning = asyncio.create_task(shown.turns())
    ended = await shown.race.end()
    await turning
    assert (ended.winner, shown.events) == (1, [B])


async def test_who_is_stopped_shows_nothing_on_its_way_out() -> None:
    shown = Shown()

    async def says_something_at_last() -> str:
        try:
            await shown.rest.wait()
        finally:
            shown.show(0)(A)
        return ""

    shown.race.start(0, says_something_at_last())
    shown.race.start(1, shown.ends_in_the_turn("whole"))
    shown.turn.set()
    ended = await shown.race.end()
    assert (ended.winner, ended.shown, shown.events) == (1, None, [])
