"""Work that began to take effect runs to its end."""

import asyncio

import pytest

from services.meshkit.sql.finish import finish


async def test_it_gives_the_result() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 42

    assert await finish(work()) == 42


async def test_a_cancelled_caller_waits_for_the_end_and_is_cancelled_then() -> None:
    steps: list[str] = []
    gate = asyncio.Event()

    async def work() -> None:
        steps.append("begun")
        await gate.wait()
        steps.append("ended")

    caller = asyncio.ensure_future(finish(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["begun", "ended"]


async def test_a_failure_passes_on() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await finish(work())


async def test_a_timeout_of_the_caller_is_still_a_timeout() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        await asyncio.sleep(0.03)
        ended = True

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await finish(work())
    assert ended
