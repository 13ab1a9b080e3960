"""Limits of time on what a provider says fall on the provider, never on whoever works on what it has said."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from services.inference.domain.errors import ProviderFailure
from services.inference.providers.http import ProviderHttp, provider_http
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.core.money import NanoUsd

#: Long enough for a busy machine to say the first thing within it.
LIMIT = 1.0
WAYS = ["lines", "events"]
CLEARANCE = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(1)), verdict_id="verdict_1")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Says one thing at once, and never ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"said": 1}\n\n')
        await asyncio.sleep(60)
        return response

    app = web.Application()
    app.router.add_route("*", "/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


def read(http: ProviderHttp, way: str, url: str, **limits: Any) -> AsyncGenerator[Any]:
    wanted: dict[str, Any] = {"seconds": 60, **limits}
    if way == "lines":
        return http.lines("a model", "GET", url, {}, **wanted)
    return http.events("a model", url, {}, b"{}", CLEARANCE, **wanted)


async def works_on_each(said: AsyncGenerator[Any], seconds: float) -> int:
    done = 0
    async with aclosing(said):
        with pytest.raises(ProviderFailure, match="time"):
            async for _ in said:
                await asyncio.sleep(seconds)
                done += 1
    return done


@pytest.mark.parametrize("way", WAYS)
async def test_whoever_works_longer_than_the_answer_may_take_is_not_broken_off(url: str, way: str) -> None:
    async with provider_http(connections=2) as http:
        assert await works_on_each(read(http, way, url, seconds=LIMIT), 1.5 * LIMIT)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_pause_of_whoever_reads_is_no_silence_of_the_provider(url: str) -> None:
    async with provider_http(connections=2) as http:
        said = read(http, "events", url, between_seconds=LIMIT)
        assert await works_on_each(said, 1.5 * LIMIT)


@pytest.mark.parametrize("way", WAYS)
async def test_a_provider_that_stays_silent_is_waited_for_no_longer(url: str, way: str) -> None:
    async with provider_http(connections=2) as http, asyncio.timeout(5):
        assert await works_on_each(read(http, way, url, seconds=LIMIT), 0)
