"""Addresses that tenants name: what is fetched, and what is out of reach."""

import gzip
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from services.gateway.clients.outward_json import OutOfReach, checked_url, outward_json


@pytest.mark.parametrize(
    "url",
    [
        "http://accounts.example.com/",
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://127\u30020\u30020\u30021/",
        "https://\u2460\u2461\u2466.0.0.1/",
        "https://%31%32%37.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://168.63.129.16/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:0:10.0.0.1]/",
        "https://[fec0::1]/",
        "https://user@accounts.example.com/",
        "https://accounts.example.com:0/",
        "https://accounts.example.com:port/",
        "https://",
        "ftp://accounts.example.com/",
        "file:///etc/passwd",
        "//accounts.example.com",
        "",
    ],
)
def test_what_lies_inside_is_out_of_reach(url: str) -> None:
    with pytest.raises(OutOfReach):
        checked_url(url, reach_local=False)


@pytest.mark.parametrize(
    "url", ["http://accounts.example.com/", "http://10.0.0.1/", "gopher://127.0.0.1/", "http://@/"]
)
def test_even_where_the_inside_may_be_reached_only_this_machine_is_without_tls(url: str) -> None:
    with pytest.raises(OutOfReach):
        checked_url(url, reach_local=True)


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        what = request.path.strip("/")
        if what == "moved":
            raise web.HTTPFound("/good")
        bodies = {
            "good": b'{"a": 1}',
            "list": b"[1]",
            "text": b"hello",
            "deep": b"[" * 60_000,
            "big": b'{"a": "' + b"x" * 100_000 + b'"}',
        }
        if what == "bomb":
            packed = gzip.compress(b'{"a": "' + b"x" * 50_000_000 + b'"}')
            return web.Response(body=packed, headers={"content-encoding": "gzip"})
        return web.Response(body=bodies[what]) if what in bodies else web.Response(status=500)

    app = web.Application()
    app.router.add_get("/{what}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    [address] = runner.addresses
    yield f"http://127.0.0.1:{address[1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("moved", "status 302"),
        ("broken", "status 500"),
        ("list", "no JSON object"),
        ("text", "no JSON"),
        ("deep", "no JSON"),
        ("big", "longer than 65536 bytes"),
        ("bomb", "longer than 65536 bytes"),
    ],
)
async def test_what_is_no_small_json_object_is_refused(site: str, what: str, said: str) -> None:
    async with outward_json() as outward:
        with pytest.raises(OutOfReach, match=said):
            await outward.get(f"{site}/{what}", most_bytes=65_536, reach_local=True)


async def test_a_json_object_is_fetched(site: str) -> None:
    async with outward_json() as outward:
        assert await outward.get(f"{site}/good", most_bytes=65_536, reach_local=True) == {"a": 1}


async def test_what_lies_where_inside_cannot_be_told_from_the_answers(site: str) -> None:
    """A name or number that leads inside, to a port that listens or to none, a closed port, a name that is none."""

    async def lookup(host: str, port: int) -> list[str]:
        if host == "none.example":
            raise OSError("no such name")
        return ["127.0.0.1"]

    port = site.rpartition(":")[2]
    places = [f"https://inside.example:{port}/", "https://inside.example:1/", "https://none.example/"]
    places += [f"https://localhost:{port}/", "https://a.localhost/", "https://10.0.0.1/", "https://168.63.129.16/"]
    places += [f"https://\uff11\uff12\uff17.0.0.1:{port}/", f"https://127.0.0.1:{port}/", "https://127.0.0.1:1/"]
    said: set[str] = set()
    async with outward_json(lookup=lookup) as outward:
        for place in places:
            with pytest.raises(OutOfReach) as refused:
                await outward.get(place, most_bytes=1, reach_local=False)
            said.add(refused.value.sentence)
        with pytest.raises(OutOfReach) as refused:
            await outward.get("http://127.0.0.1:1/", most_bytes=1, reach_local=True)
    assert said == {refused.value.sentence}


async def test_where_the_inside_may_be_reached_addresses_of_clouds_may_not() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["169.254.169.254"]

    async with outward_json(lookup=lookup) as outward:
        for place in ("https://169.254.169.254/latest/meta-data", "https://metadata.example/"):
            with pytest.raises(OutOfReach, match="cannot be reached"):
                await outward.get(place, most_bytes=1, reach_local=True)
