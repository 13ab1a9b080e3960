"""What a name or number may stand for before a socket is opened to it."""

import asyncio

import aiohttp
import pytest
from yarl import URL

from services.meshkit.core.errors import Invalid
from services.meshkit.core.hosts import checked_hosts, is_allowed
from services.meshkit.outward.addresses import (
    AddressRefused,
    AddressRule,
    CheckedResolver,
    checked_connector,
    literal_address,
    system_lookup,
)

NASTY = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.9.9",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:7f00:1:0:0:80ff:fffe",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "64:ff9b:1::a00:1",
    "3fff::1",
    "5f00::1",
    "ff02::1",
    "2001:db8::1",
    "0177.0.0.1",
    "2130706433",
    "127.1",
    "not an address",
]


@pytest.mark.parametrize("address", NASTY)
def test_addresses_inside_are_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        AddressRule().check("host.example", address)


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07::8b2c", "::ffff:8.8.8.8"])
def test_public_addresses_pass(address: str) -> None:
    AddressRule().check("host.example", address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.5", "fd12::1", "::ffff:127.0.0.1"])
def test_private_addresses_pass_where_the_operator_says_so(address: str) -> None:
    AddressRule(allow_private=True).check("host.example", address)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "::ffff:a9fe:a9fe"])
def test_metadata_addresses_never_pass(address: str) -> None:
    with pytest.raises(AddressRefused):
        AddressRule(allow_private=True).check("host.example", address)


def test_numbers_are_taken_for_addresses_however_they_are_written() -> None:
    assert literal_address("2130706433") == "2130706433"
    assert literal_address("0177.0.0.1") == "0177.0.0.1"
    assert literal_address("0x7f.1") == "0x7f.1"
    assert literal_address("127.0.0.1.") == "127.0.0.1"
    assert literal_address("::1") == "::1"
    assert literal_address("1.example") is None
    assert literal_address("example.com") is None


#: 127.0.0.1 in digits and dots of other alphabets, which a URL brings to their plain form.
DISGUISED = ["\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1"]


@pytest.mark.parametrize("host", [*DISGUISED, "127.1", "127.0.0.1.", "[::1]", "[::ffff:7f00:1]", "0x7f000001"])
def test_a_url_is_judged_by_the_host_that_is_connected_to(host: str) -> None:
    with pytest.raises(AddressRefused):
        AddressRule().check_url(URL(f"https://{host}/"))
    AddressRule().check_url(URL("https://www.example.com/"))


@pytest.mark.parametrize("host", ["127.0.0.1", *DISGUISED])
async def test_no_socket_is_made_to_a_number_that_nobody_looked_at(host: str) -> None:
    asked: list[object] = []

    async def answer(reader: object, writer: asyncio.StreamWriter) -> None:
        asked.append(reader)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession(connector=checked_connector(AddressRule(), system_lookup)) as session:
        with pytest.raises(aiohttp.ClientConnectorError, match="not a public address"):
            await session.get(f"http://{host}:{port}/")
    assert asked == []


async def test_a_name_with_one_bad_address_is_refused_whole() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["93.184.215.14", "127.0.0.1"]

    with pytest.raises(AddressRefused):
        await CheckedResolver(AddressRule(), lookup).resolve("rebind.example", 80)


async def test_the_checked_address_is_the_one_that_is_connected_to() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["93.184.215.14"]

    found = await CheckedResolver(AddressRule(), lookup).resolve("host.example", 443)
    assert [(one["host"], one["port"], one["hostname"]) for one in found] == [("93.184.215.14", 443, "host.example")]


@pytest.mark.parametrize(
    ("host", "patterns", "allowed"),
    [
        ("api.example.com", ("api.example.com",), True),
        ("API.Example.com.", ("api.example.com",), True),
        ("evil-api.example.com", ("api.example.com",), False),
        ("a.example.com", ("*.example.com",), True),
        ("a.b.example.com", ("*.example.com",), True),
        ("example.com", ("*.example.com",), False),
        ("notexample.com", ("*.example.com",), False),
        ("example.com.evil.org", ("*.example.com", "example.com"), False),
        ("anything.org", ("*",), True),
        ("anything.org", (), False),
        ("::1", ("[::1]",), True),
    ],
)
def test_hosts_are_allowed_by_pattern(host: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert is_allowed(host, patterns) is allowed


@pytest.mark.parametrize("host", ["", "https://example.com", "example.com/x", "example.com:80", "*.*.com", "a b", "-a"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(Invalid, match=r"hosts\[0\]"):
        checked_hosts((host,), field="hosts")


def test_hosts_are_kept_sorted_and_once() -> None:
    assert checked_hosts(("b.org", "A.org", "a.org."), field="hosts") == ("a.org", "b.org")
