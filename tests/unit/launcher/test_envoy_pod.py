"""What stands beside Envoy in its pod: probes, figures and a drain that waits for calls; the admin page is a test's."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from services.launcher.envoy_pod import Envoy, kept
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.conftest import free_port


@dataclass
class AdminPage:
    """Answers as Envoy's own does."""

    active: int = 0
    #: Looks that it answers with a failure instead.
    fails: int = 0
    told: list[str] = field(default_factory=list[str])

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self.told.append(str(request.rel_url))
        if request.path == "/stats" and self.fails:
            self.fails -= 1
            return web.Response(status=503)
        stats = f"http.edge.downstream_rq_active: {self.active}\n"
        pages = {"/stats": stats, "/stats/prometheus": "envoy_up 1\n"}
        return web.Response(text=pages.get(request.path, ""))


@dataclass
class Pod:
    """The keeper before an admin page, what to ask it with, and the addresses of probes and figures."""

    envoy: Envoy
    asking: aiohttp.ClientSession
    keeper: str
    metrics: str


@asynccontextmanager
async def a_pod(page: AdminPage, clock: FakeClock, keys: Path) -> AsyncGenerator[Pod]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", page.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    admin, keeper, metrics = free_port(), free_port(), free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", admin).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{admin}") as session, aiohttp.ClientSession() as asking:
            envoy = Envoy(session, listener="edge", drain_seconds=60, clock=clock)
            async with kept(envoy, heard=keys.exists, keeper=("127.0.0.1", keeper), metrics=("127.0.0.1", metrics)):
                yield Pod(envoy, asking, f"http://127.0.0.1:{keeper}", f"http://127.0.0.1:{metrics}")
    finally:
        await runner.cleanup()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The key set, as the gateway gave it."""
    file = tmp_path / "jwks.json"
    file.write_text('{"keys": []}')
    return file


async def status(asking: aiohttp.ClientSession, url: str) -> int:
    async with asking.get(url) as answer:
        return answer.status


async def test_figures_are_shown_where_probes_are_not_and_nothing_else_of_the_admin_page(keys: Path) -> None:
    async with a_pod(AdminPage(), FakeClock(), keys) as pod:
        async with pod.asking.get(f"{pod.metrics}/metrics") as answer:
            assert await answer.text() == "envoy_up 1\n"
        assert await status(pod.asking, f"{pod.keeper}/ready") == 200
        for path in ("/ready", "/drained", "/quitquitquit", "/config_dump"):
            assert await status(pod.asking, f"{pod.metrics}{path}") == 404
        for path in ("/drain", "/config_dump"):
            assert await status(pod.asking, f"{pod.keeper}{path}") == 404


async def test_no_caller_is_sent_to_an_edge_that_has_not_heard_of_the_gateway(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    async with a_pod(AdminPage(), FakeClock(), keys) as pod:
        assert await status(pod.asking, f"{pod.keeper}/ready") == 503
        keys.write_text('{"keys": []}')
        assert await status(pod.asking, f"{pod.keeper}/ready") == 200


async def test_a_drain_ends_when_the_last_call_has_and_only_then_is_envoy_stopped(keys: Path) -> None:
    page, clock = AdminPage(active=1), FakeClock()
    async with a_pod(page, clock, keys) as pod:
        hook = asyncio.create_task(status(pod.asking, f"{pod.keeper}/drained"))
        draining = asyncio.create_task(pod.envoy.drain())
        await clock.until_someone_sleeps()
        assert page.told == ["/healthcheck/fail", "/drain_listeners?graceful&skip_exit"]
        assert await status(pod.asking, f"{pod.keeper}/ready") == 503
        clock.advance(seconds=5)
        await clock.until_someone_sleeps()
        assert not draining.done()
        assert not hook.done()
        page.active = 0
        clock.advance(seconds=1)
        await draining
        assert await hook == 200


async def test_an_idle_edge_waits_for_callers_that_were_not_told_yet(keys: Path) -> None:
    page, clock = AdminPage(active=0), FakeClock()
    async with a_pod(page, clock, keys) as pod:
        draining = asyncio.create_task(pod.envoy.drain())
        await clock.until_someone_sleeps()
        page.active = 1
        clock.advance(seconds=5)
        await clock.until_someone_sleeps()
        assert not draining.done()
        page.active = 0
        clock.advance(seconds=1)
        await draining


async def test_a_drain_does_not_wait_for_ever(keys: Path) -> None:
    clock = FakeClock()
    async with a_pod(AdminPage(active=1), clock, keys) as pod:
        draining = asyncio.create_task(pod.envoy.drain())
        await clock.until_someone_sleeps()
        clock.advance(seconds=61)
        await draining


async def test_a_look_that_goes_wrong_ends_no_drain(keys: Path) -> None:
    page, clock = AdminPage(active=1), FakeClock()
    async with a_pod(page, clock, keys) as pod:
        draining = asyncio.create_task(pod.envoy.drain())
        await clock.until_someone_sleeps()
        clock.advance(seconds=5)
        for fails in (1, 4):
            page.fails = fails
            for _ in range(fails + 1):
                await clock.until_someone_sleeps()
                assert not draining.done()
                clock.advance(seconds=1)
            assert not page.fails
        await clock.until_someone_sleeps()
        page.active = 0
        clock.advance(seconds=1)
        await draining


async def test_an_envoy_that_does_not_answer_any_more_is_not_waited_for(keys: Path) -> None:
    page, clock = AdminPage(active=1, fails=5), FakeClock()
    async with a_pod(page, clock, keys) as pod:
        draining = asyncio.create_task(pod.envoy.drain())
        await clock.until_someone_sleeps()
        clock.advance(seconds=5)
        for _ in range(4):
            await clock.until_someone_sleeps()
            assert not draining.done()
            clock.advance(seconds=1)
        await draining
        assert not page.fails


async def test_an_envoy_that_is_gone_ends_a_drain_at_once(keys: Path) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{free_port()}") as session:
        await Envoy(session, listener="edge", drain_seconds=60, clock=FakeClock()).drain()


async def test_whoever_asks_whether_it_is_drained_drains_nothing(keys: Path) -> None:
    page = AdminPage()
    async with a_pod(page, FakeClock(), keys) as pod:
        asked = asyncio.create_task(status(pod.asking, f"{pod.keeper}/drained"))
        assert await status(pod.asking, f"{pod.keeper}/ready") == 200
        assert not asked.done()
        assert not page.told
        asked.cancel()
