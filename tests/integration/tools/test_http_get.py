"""Fetching pages: what is read, what is refused, and that nothing is asked that may not be."""

import asyncio
import socket
from dataclasses import replace

import pytest

from comitia.tools.v1 import tool_service_pb2 as pb
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.core.money import NanoUsd
from services.meshkit.outward.addresses import AddressRule
from services.tools.builtins.http_reader import http_reader
from services.tools.domain.tool import HttpGetSettings
from tests.integration.tools.conftest import StartTools, ToolsMesh, a_template, an_invoke, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLEARANCE = Clearance(hold=DispatchedHold(id="hold_1", amount=NanoUsd(0)), verdict_id="verdict_1")


async def test_a_page_is_read_as_untrusted_text(mesh: ToolsMesh) -> None:
    done = await mesh.fetch(mesh.site.url("/hello?a=b%26c"))
    assert (text_of(done), done.failed) == ("page /hello", False)
    assert mesh.site.asked == ["/hello?a=b%26c"]
    sent = mesh.site.headers[0]
    assert sent["user-agent"] == "comitia-tools"
    assert not {"authorization", "cookie", "comitia-workload"} & set(sent)


async def test_json_and_other_charsets_are_text_too(mesh: ToolsMesh) -> None:
    assert text_of(await mesh.fetch(mesh.site.url("/json"))) == '{"answer": 42}'
    assert text_of(await mesh.fetch(mesh.site.url("/latin"))) == "Gr\u00fc\u00dfe"


async def test_cookies_are_not_kept(mesh: ToolsMesh) -> None:
    for _ in range(2):
        assert text_of(await mesh.fetch(mesh.site.url("/cookie"))) == "none"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/missing", "127.0.0.1 answered 404: no such page"),
        ("/image", "which is no text"),
        ("/cut", "broke off"),
        ("/loop", "more than 5 times"),
    ],
)
async def test_what_goes_wrong_there_is_a_failed_result(mesh: ToolsMesh, path: str, said: str) -> None:
    done = await mesh.fetch(mesh.site.url(path))
    assert done.failed
    assert said in text_of(done)


async def test_redirects_are_followed_within_the_allowed_hosts(mesh: ToolsMesh) -> None:
    assert text_of(await mesh.fetch(mesh.site.url("/to?url=/there"))) == "page /there"
    inside = mesh.site.url("/to?url=" + mesh.site.url("/other", host="localhost"))
    assert text_of(await mesh.fetch(inside)) == "page /other"


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.example/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user:pass@127.0.0.1/",
        "//evil.example/",
        "http://2130706433/",
        "http://[::ffff:127.0.0.1]/",
    ],
)
async def test_a_redirect_elsewhere_is_refused(mesh: ToolsMesh, target: str) -> None:
    done = await mesh.fetch(mesh.site.url(f"/to?url={target}"))
    assert done.failed
    assert len(mesh.site.asked) == 1
    assert done.cost_nano_usd == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        " http://127.0.0.1/",
        "http://",
        "http:///path",
        "127.0.0.1",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://127.0.0.1:99999/",
        "http://evil.example/",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://evil.example#@127.0.0.1/",
        "http://evil.example\\@127.0.0.1/",
        "http://evil.example/\r\nHost: 127.0.0.1",
        "http://u:p@127.0.0.1/",
        "http://localhost.evil.example/",
        "http://[::1/",
        "http://\u0000/",
    ],
)
async def test_nothing_else_is_asked(mesh: ToolsMesh, url: str) -> None:
    request = an_invoke("http_get", arguments={"url": url})
    if not url:
        assert await mesh.refused("InvokeTool", request) == "invalid/TOOL_ARGUMENTS_WRONG/arguments.url"
        return
    done = (await mesh.call("InvokeTool", request)).invocation
    assert done.failed
    assert mesh.site.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "0",
        "\u2460\u2461\u2466.0.0.1",
        "127.0.0.1.",
    ],
)
async def test_this_machine_cannot_be_reached_by_any_spelling(mesh: ToolsMesh, start: StartTools, host: str) -> None:
    async with start(allow_private_addresses=False, http_allowed_hosts="*") as strict:
        done = await strict.fetch(mesh.site.url("/inside", host=host))
    assert done.failed
    assert mesh.site.asked == []
    assert (await mesh.budget()).held_nano_usd == 0


async def test_no_host_is_allowed_unless_told(mesh: ToolsMesh, start: StartTools) -> None:
    async with start(http_allowed_hosts="") as closed:
        done = await closed.fetch(mesh.site.url())
    assert done.failed
    assert "not among those" in text_of(done)
    assert mesh.site.asked == []


async def test_a_name_that_changes_its_meaning_gains_nothing(mesh: ToolsMesh) -> None:
    """The resolver answers once with a public address and then with this machine: one look-up, one check, refused."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["127.0.0.1", "93.184.215.14"]

    http = HttpGetSettings(allowed_hosts=("*",), max_response_bytes=1_000)
    async with http_reader(connections=4, allow_private=False, lookup=rebinding) as reader:
        for _ in range(2):
            output = await reader.read(mesh.site.url(host="rebind.example"), http, CLEARANCE, show=None)
            assert (output.failed, output.sent) == (True, False)
            assert "not a public address" in output.text
    assert asked == ["rebind.example", "rebind.example"]
    assert mesh.site.asked == []
    AddressRule().check("x", "93.184.215.14")


async def test_the_checked_address_is_asked_under_the_name(mesh: ToolsMesh) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    http = HttpGetSettings(allowed_hosts=("*.example.com",), max_response_bytes=1_000)
    async with http_reader(connections=4, allow_private=True, lookup=lookup) as reader:
        output = await reader.read(mesh.site.url("/x", host="api.example.com"), http, CLEARANCE, show=None)
    assert output.text == "page /x"
    assert mesh.site.headers[0]["host"] == f"api.example.com:{mesh.site.port}"


async def test_a_host_that_does_not_answer_costs_nothing(mesh: ToolsMesh) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await mesh.register(**a_template(f"http://127.0.0.1:{port}/", cost_nano_usd=5))
    done = await mesh.invoke("weather", path="nobody")
    assert done.failed
    assert text_of(done) == "the host cannot be reached"
    assert done.cost_nano_usd == 0
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (0, 0)
    assert [row.settle_state for row in await mesh.rows("settle_state")] == ["free"]


async def test_answers_are_cut_at_the_tools_limit(mesh: ToolsMesh) -> None:
    http = pb.HttpGetSettings(
        url_template=mesh.site.url("/long?words={words}"), allowed_hosts=["127.0.0.1"], max_response_bytes=1_000
    )
    await mesh.register(**a_template("", http_get=http))
    text = text_of(await mesh.invoke("weather", arguments={"words": 100_000}))
    assert text.endswith("\n[cut after 1000 bytes]")
    assert len(text) < 1_100


async def test_arguments_are_encoded_into_their_places(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/v1/{city}?q={q}")))
    await mesh.invoke("weather", arguments={"city": "a/../../b?x#", "q": "1&admin=true"})
    assert mesh.site.asked == ["/v1/a%2F..%2F..%2Fb%3Fx%23?q=1%26admin%3Dtrue"]
    done = await mesh.invoke("weather", arguments={"city": ".."})
    assert done.failed
    assert len(mesh.site.asked) == 1


async def test_a_stream_shows_text_while_it_comes_and_ends_with_the_whole(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/long?words={words}")))
    pieces, done = await mesh.stream("weather", arguments={"words": 20_000})
    assert len(pieces) > 2
    assert "".join(pieces) == text_of(done) == "word " * 20_000
    stages = mesh.law.stages()
    assert stages[0] == "before"
    assert stages[-1] == "after"
    assert set(stages[1:-1]) == {"during"}
    assert len(done.verdict_ids) == 2


async def test_a_stream_stops_where_the_law_stops_it_and_stays_stopped(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/long?words={words}&secret=9000"), cost_nano_usd=5))
    mesh.law.blocked.add("secret")
    shown: list[str] = []
    asked = an_invoke("weather", kind=pb.StreamInvokeToolRequest, arguments={"words": 20_000}, path="stopped")
    with pytest.raises(Exception, match="stopped this call during") as stop:
        shown, _ = await mesh.stream("weather", arguments={"words": 20_000}, path="stopped")
    assert getattr(stop.value, "reason", "") == "LAW_BLOCKED"
    assert "secret" not in "".join(shown)
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (5, 0)
    count = len(mesh.site.asked)
    repeat = an_invoke("weather", arguments={"words": 20_000}, path="stopped")
    assert await mesh.refused("InvokeTool", repeat) == "denied/LAW_BLOCKED"
    assert asked.name == repeat.name
    assert len(mesh.site.asked) == count


async def test_a_stream_of_a_redacted_result_never_shows_what_was_redacted(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/long?words={words}&secret=9000")))
    mesh.law.redacted["secret"] = "[redacted]"
    pieces, done = await mesh.stream("weather", arguments={"words": 20_000})
    assert "secret" not in "".join(pieces) + text_of(done)
    assert "".join(pieces) == text_of(done)


async def test_a_repeat_and_the_calculator_stream_in_one_piece(mesh: ToolsMesh) -> None:
    pieces, done = await mesh.stream("calculator", arguments={"expression": "6 * 7"}, path="stream")
    assert pieces == ["42"]
    again, repeated = await mesh.stream("calculator", arguments={"expression": "6 * 7"}, path="stream")
    assert (again, repeated) == (pieces, done)


async def test_a_follower_that_comes_late_gets_everything(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/long?words={words}")))
    one = asyncio.create_task(mesh.stream("weather", arguments={"words": 30_000}, path="late"))
    await asyncio.sleep(0.1)
    other = await mesh.stream("weather", arguments={"words": 30_000}, path="late")
    assert "".join((await one)[0]) == "".join(other[0])
    assert len(mesh.site.asked) == 1


async def test_the_tenants_own_hosts_hold_for_each_step_of_the_way(mesh: ToolsMesh) -> None:
    rules = replace(CLEARANCE, allowed_hosts=("localhost", "*.example.com"))
    http = HttpGetSettings(allowed_hosts=("*",), max_response_bytes=1_000)
    async with http_reader(connections=2, allow_private=True) as reader:
        near = await reader.read(mesh.site.url("/there", host="LOCALHOST"), http, rules, show=None)
        far = await reader.read(mesh.site.url("/there"), http, rules, show=None)
        turned = mesh.site.url("/to?url=" + mesh.site.url("/there"), host="localhost")
        led_astray = await reader.read(turned, http, rules, show=None)
    assert (near.text, near.failed) == ("page /there", False)
    for refused in (far, led_astray):
        assert refused.failed
        assert "security policy of the tenant" in refused.text
