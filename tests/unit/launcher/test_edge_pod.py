"""What stands beside Envoy in its pod: probes, figures and a drain that waits for calls; the admin page is a test's."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from services.launcher.edge_pod import Envoy, kept
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.conftest import free_port


@dataclass
class AdminPage:
    """Answers as Envoy's own does."""

    active: int = 0
    told: list[str] = field(default_factory=list[str])

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self.told.append(str(request.rel_url))
        stats = f"http.edge.downstream_rq_active: {self.active}\n"
        pages = {"/stats": stats, "/stats/prometheus": "envoy_up 1\n"}
        return web.Response(text=pages.get(request.path, ""))


@asynccontextmanager
async def a_pod(page: AdminPage, clock: FakeClock) -> AsyncGenerator[tuple[aiohttp.ClientSession, str, str]]:
    """Runs the keeper before an admin page; gives what to ask with, and the addresses of probes and figures."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", page.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    admin, keeper, metrics = free_port(), free_port(), free_port()
    await web.TCPSite(runner, "127.0.0.1", admin).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{admin}") as session, aiohttp.ClientSession() as asking:
        envoy = Envoy(session, drain_seconds=60, clock=clock)
        async with kept(envoy, keeper=("127.0.0.1", keeper), metrics=("127.0.0.1", metrics)):
            yield asking, f"http://127.0.0.1:{keeper}", f"http://127.0.0.1:{metrics}"
    await runner.cleanup()


async def status(asking: aiohttp.ClientSession, url: str) -> int:
    async with asking.get(url) as answer:
        return answer.status


async def test_figures_are_shown_where_probes_are_not_and_nothing_else_of_the_admin_page() -> None:
    async with a_pod(AdminPage(), FakeClock()) as (asking, keeper, metrics):
        async with asking.get(f"{metrics}/metrics") as answer:
            assert await answer.text() == "envoy_up 1\n"
        assert await status(asking, f"{keeper}/ready") == 200
        for path in ("/ready", "/drain", "/quitquitquit", "/config_dump"):
            assert await status(asking, f"{metrics}{path}") == 404
        assert await status(asking, f"{keeper}/config_dump") == 404


async def test_a_drain_ends_when_the_last_call_has() -> None:
    page, clock = AdminPage(active=1), FakeClock()
    async with a_pod(page, clock) as (asking, keeper, _):
        draining = asyncio.create_task(status(asking, f"{keeper}/drain"))
        await clock.until_someone_sleeps()
        assert page.told == ["/healthcheck/fail", "/drain_listeners?graceful&skip_exit"]
        assert await status(asking, f"{keeper}/ready") == 503
        assert not draining.done()
        page.active = 0
        clock.advance(seconds=1)
        assert await draining == 200


async def test_a_drain_does_not_wait_for_ever_and_happens_once() -> None:
    page, clock = AdminPage(active=1), FakeClock()
    async with a_pod(page, clock) as (asking, keeper, _):
        both = [asyncio.create_task(status(asking, f"{keeper}/drain")) for _ in range(2)]
        await clock.until_someone_sleeps()
        clock.advance(seconds=61)
        assert await asyncio.gather(*both) == [200, 200]
    assert len(page.told) == 2
