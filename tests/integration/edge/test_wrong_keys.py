"""Somebody who tries keys is held back at their address, in the words of every limit; keys that work are not."""

import base64
from collections.abc import AsyncIterator
from itertools import count
from urllib.parse import unquote

import aiohttp
import pytest
import pytest_asyncio
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tests.integration.edge.conftest import Outside, reason_of
from tests.support.gateway import new_key_text

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: An address of this machine that no other test comes from.
ATTACKER = "127.0.0.7"
GET_AGENT = "/comitia.orchestrator.v1.AgentService/GetAgent"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def attacker() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(ATTACKER, 0))) as http:
        yield http


async def try_keys_until_limited(
    outside: Outside, attacker: aiohttp.ClientSession, **pretended: str
) -> aiohttp.ClientResponse:
    """Tries new keys until the first that is not looked at; before it all are refused as wrong."""
    for tries in count(1):
        headers = {"x-api-key": new_key_text(), **pretended}
        async with attacker.get(outside.edge.url + "/v1/agents/Athena", headers=headers) as answer:
            body = await answer.json()
            if answer.status != 401:
                return answer
            assert reason_of(body) == "API_KEY_INVALID"
            # Twice the limit at once, and what flowed in meanwhile.
            assert tries < 500
    raise AssertionError


async def test_an_address_that_tries_keys_is_told_to_wait(outside: Outside, attacker: aiohttp.ClientSession) -> None:
    answer = await try_keys_until_limited(outside, attacker)
    body = await answer.json()
    assert (answer.status, body["code"], reason_of(body)) == (429, code_pb2.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert answer.headers["retry-after"] == "1"
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("10", "0")
    assert answer.headers["content-type"] == "application/json"
    assert "too many wrong API keys" in body["message"]
    assert any(detail["@type"].endswith("RetryInfo") for detail in body["details"])


async def test_no_header_makes_another_address_of_it(outside: Outside, attacker: aiohttp.ClientSession) -> None:
    await try_keys_until_limited(outside, attacker)
    refused = [
        await try_keys_until_limited(outside, attacker, **{name: f"198.51.100.{number}"})
        for number, name in enumerate(("x-forwarded-for", "x-real-ip", "x-envoy-external-address", "forwarded"))
    ]
    assert {answer.status for answer in refused} == {429}


async def test_a_key_that_works_works_on_at_that_address_and_others_are_not_touched(
    outside: Outside, attacker: aiohttp.ClientSession
) -> None:
    good = {"x-api-key": outside.gateway.admin_key}
    for _ in range(3):
        await try_keys_until_limited(outside, attacker)
        async with attacker.get(outside.edge.url + "/v1/agents/Athena", headers=good) as answer:
            assert answer.status == 200
    status, body = await outside.rest("GET", "/v1/agents/Athena", headers={"x-api-key": new_key_text()})
    assert (status, reason_of(body)) == (401, "API_KEY_INVALID")


@pytest.mark.parametrize("web", [False, True], ids=["grpc", "grpc-web"])
async def test_grpc_callers_hear_it_as_status(outside: Outside, attacker: aiohttp.ClientSession, web: bool) -> None:
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    if not web:
        headers = {"content-type": "application/grpc"}
    said = {"grpc-status": str(code_pb2.UNAUTHENTICATED)}
    for _ in range(500):
        headers["x-api-key"] = new_key_text()
        async with attacker.post(outside.edge.url + GET_AGENT, data=bytes(5), headers=headers) as answer:
            said = dict(answer.headers)
            assert answer.status == 200
        if said["grpc-status"] != str(code_pb2.UNAUTHENTICATED):
            break
    assert said["grpc-status"] == str(code_pb2.RESOURCE_EXHAUSTED)
    assert unquote(said["grpc-message"]).startswith("your address sent too many wrong API keys")
    padded = said["grpc-status-details-bin"] + "=" * (-len(said["grpc-status-details-bin"]) % 4)
    retry = error_details_pb2.RetryInfo()
    details = status_pb2.Status.FromString(base64.b64decode(padded)).details
    assert any(detail.Unpack(retry) for detail in details)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 1


async def test_grpc_web_callers_hear_why_a_key_is_refused(outside: Outside) -> None:
    headers = {"x-api-key": "ck_nonsense", "content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    async with outside.http.post(outside.edge.url + GET_AGENT, data=bytes(5), headers=headers) as answer:
        assert answer.headers["grpc-status"] == str(code_pb2.UNAUTHENTICATED)
        assert unquote(answer.headers["grpc-message"]).startswith("the API key is not valid")
