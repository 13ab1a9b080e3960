"""Addresses that tenants name: what is fetched, and what is out of reach."""

import gzip
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from services.gateway.clients.outward_json import OutOfReach, check_address, is_public, outward_json


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", False),
        ("64:ff9b::7f00:1", False),
        ("nonsense", False),
    ],
)
def test_addresses_of_the_public_internet_are_told_from_others(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "url",
    [
        "http://accounts.example.com/",
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://a.localhost/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
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
        check_address(url, reach_local=False)


@pytest.mark.parametrize(
    "url", ["http://accounts.example.com/", "http://10.0.0.1/", "gopher://127.0.0.1/", "http://@/"]
)
def test_even_where_the_inside_may_be_reached_only_this_machine_is_without_tls(url: str) -> None:
    with pytest.raises(OutOfReach):
        check_address(url, reach_local=True)


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
        with pytest.raises(OutOfReach, match="does not answer"):
            await outward.get("http://127.0.0.1:1/", most_bytes=65_536, reach_local=True)


async def test_a_name_that_leads_inside_is_out_of_reach(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 6, "flags": 0}]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    async with outward_json() as outward:
        with pytest.raises(OutOfReach, match="does not answer"):
            await outward.get(
                f"https://rebound.example:{site.rpartition(':')[2]}/good", most_bytes=1, reach_local=False
            )
