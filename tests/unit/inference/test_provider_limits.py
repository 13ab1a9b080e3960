"""A deployment that takes no more is passed over, or waited for."""

import asyncio
from dataclasses import replace

import pytest

from services.inference.domain.errors import ProviderRateLimited
from tests.support.inference import ANTHROPIC, OPENAI, a_context, an_asked, says
from tests.unit.inference.conftest import make_room, until


async def test_a_deployment_that_answers_as_many_as_it_takes_is_passed_over_for_the_next() -> None:
    room = make_room((replace(OPENAI, max_concurrency=1), ANTHROPIC))
    gate = asyncio.Event()
    room.openai.before_piece = gate.wait
    first = asyncio.ensure_future(room.ask())
    await until(lambda: room.openai.asked)
    second = await room.ask(context=a_context("another"))
    assert second.failed_attempts == (f"{OPENAI.name}: AT_ITS_LIMIT",)
    gate.set()
    assert (await first).failed_attempts == ()


async def test_without_another_a_call_waits_for_its_turn() -> None:
    room = make_room((replace(OPENAI, max_concurrency=1),))
    room.openai.scripts = [says("One."), says("Two.")]
    gate = asyncio.Event()
    room.openai.before_piece = gate.wait
    first = asyncio.ensure_future(room.ask())
    await until(lambda: room.openai.asked)
    second = asyncio.ensure_future(room.ask(context=a_context("another")))
    await room.clock.until_someone_sleeps()
    assert len(room.openai.asked) == 1
    gate.set()
    await first
    room.clock.advance(seconds=0.2)
    assert (await second).provider == "openai"


async def test_a_minute_that_is_used_up_is_said_with_the_time_of_the_next_call() -> None:
    room = make_room((replace(OPENAI, requests_per_minute=1),))
    await room.ask()
    with pytest.raises(ProviderRateLimited) as refused:
        await room.ask(an_asked(context=a_context("another"), deadline=20.0))
    assert refused.value.retry_after is not None
    assert refused.value.retry_after.total_seconds() == pytest.approx(60.0)
    assert refused.value.metadata["why"] == "AT_ITS_LIMIT"
    assert len(room.openai.asked) == 1
