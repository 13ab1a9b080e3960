"""A web site on this machine that answers well, badly, slowly, endlessly, or sends its visitors elsewhere."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class WebSite:
    """What it serves, and who came."""

    port: int = 0
    #: Paths with queries that were asked for, in order.
    asked: list[str] = field(default_factory=list[str])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    #: `/hang` answers once this is set.
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.raw_path)
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        match request.path:
            case "/json":
                return web.json_response({"answer": 42})
            case "/latin":
                return web.Response(body=b"Gr\xfc\xdfe", content_type="text/plain", charset="iso-8859-1")
            case "/image":
                return web.Response(body=b"\x89PNG", content_type="image/png")
            case "/bare":
                return web.Response(body=b"bare", headers={"content-type": ""})
            case "/missing":
                return web.Response(status=404, text="no such page")
            case "/to":
                return web.Response(status=302, headers={"location": request.query["url"]})
            case "/loop":
                return web.Response(status=301, headers={"location": "/loop"})
            case "/hang":
                await self.released.wait()
                return web.Response(text="at last")
            case "/cut":
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case "/long":
                return await self._long(request)
            case "/cookie":
                return web.Response(text=request.headers.get("cookie", "none"), headers={"set-cookie": "a=b"})
            case _:
                return web.Response(text=f"page {request.path}")

    async def _long(self, request: web.Request) -> web.StreamResponse:
        """Sends `words` words, a thousand at a time; a secret stands at the place that the query names."""
        words, secret = int(request.query.get("words", 10_000)), int(request.query.get("secret", -1))
        response = web.StreamResponse(headers={"content-type": "text/plain"})
        await response.prepare(request)
        for start in range(0, words, 1_000):
            await response.write(b"".join(b"secret " if start + n == secret else b"word " for n in range(1_000)))
            await asyncio.sleep(0.01)
        return response


@asynccontextmanager
async def web_site() -> AsyncGenerator[WebSite]:
    """Serves on the loopback while the block runs."""
    site = WebSite()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", site.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    site.port = runner.addresses[0][1]
    try:
        yield site
    finally:
        site.released.set()
        await runner.cleanup()
