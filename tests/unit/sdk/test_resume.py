from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import pytest

from comitia_sdk import resume
from comitia_sdk.errors import ComitiaError, InternalFailure, MeshUnavailable, NotFound, TimedOut
from comitia_sdk.resume import resumed


@dataclass
class Event:
    sequence: int
    live: bool = False
    last: bool = False


@dataclass
class Streams:
    """Opens scripted streams: each is what comes, and how it ends."""

    script: list[tuple[list[Event], ComitiaError | None]]
    opened: list[int]

    def open_after(self, sequence: int) -> AsyncGenerator[Event]:
        self.opened.append(sequence)
        return self._stream(*self.script.pop(0))

    async def _stream(self, events: list[Event], failure: ComitiaError | None) -> AsyncGenerator[Event]:
        for event in events:
            yield event
        if failure is not None:
            raise failure


def broken() -> MeshUnavailable:
    return MeshUnavailable("broken")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "FIRST_PAUSE", 0.0)


async def follow(streams: Streams, *, over: Callable[[int], bool] = lambda _: True) -> list[Event]:
    async def is_over(sequence: int) -> bool:
        return over(sequence)

    return [
        event
        async for event in resumed(
            streams.open_after, 0, recorded=lambda event: not event.live, last=lambda event: event.last, over=is_over
        )
    ]


async def test_a_broken_stream_goes_on_after_its_last_recorded_event() -> None:
    streams = Streams([([Event(1), Event(2), Event(2, live=True)], broken()), ([Event(3)], None)], [])

    found = await follow(streams)

    assert [event.sequence for event in found] == [1, 2, 2, 3]
    assert streams.opened == [0, 2]


async def test_an_event_that_is_sent_again_is_not_shown_again() -> None:
    streams = Streams([([Event(1), Event(2)], broken()), ([Event(1), Event(2), Event(3)], None)], [])

    assert [event.sequence for event in await follow(streams)] == [1, 2, 3]


async def test_a_stream_that_ends_in_peace_before_its_time_goes_on() -> None:
    streams = Streams([([Event(1)], None), ([Event(2)], None)], [])

    found = await follow(streams, over=lambda sequence: sequence == 2)

    assert [event.sequence for event in found] == [1, 2]


@pytest.mark.parametrize("failure", [TimedOut("an hour has passed"), InternalFailure("reset", reason="INTERNAL")])
async def test_the_end_of_time_and_of_the_connection_are_breaks(failure: ComitiaError) -> None:
    assert len(await follow(Streams([([Event(1)], failure), ([Event(2)], None)], []))) == 2


@pytest.mark.parametrize("failure", [None, MeshUnavailable("stopped right after it")])
async def test_after_the_last_event_a_stream_ends_however_it_ends(failure: ComitiaError | None) -> None:
    streams = Streams([([Event(1), Event(2, last=True)], failure)], [])

    assert len(await follow(streams, over=lambda _: False)) == 2


@pytest.mark.parametrize("failure", [NotFound("gone"), InternalFailure("our fault", reason="INCIDENT")])
async def test_a_refusal_is_no_break(failure: ComitiaError) -> None:
    with pytest.raises(type(failure)):
        await follow(Streams([([Event(1)], failure)], []))


async def test_a_stream_that_cannot_be_opened_at_all_says_so_at_once() -> None:
    streams = Streams([([], broken())], [])

    with pytest.raises(MeshUnavailable):
        await follow(streams)
    assert streams.opened == [0]


async def test_a_stream_that_breaks_too_often_without_an_event_says_so() -> None:
    streams = Streams([([Event(1)], broken()), *(([], broken()) for _ in range(20))], [])

    with pytest.raises(MeshUnavailable):
        await follow(streams)
    assert len(streams.opened) == 1 + resume.TRIES


async def test_a_stream_that_ends_in_peace_for_ever_says_so() -> None:
    streams = Streams([([Event(1)], None), *(([], None) for _ in range(20))], [])

    with pytest.raises(MeshUnavailable) as given_up:
        await follow(streams, over=lambda _: False)
    assert given_up.value.reason == "STREAM_ENDED"
