"""REST through a real Envoy: transcoding, aliases, verbs, bodies, errors."""

import asyncio
import io
import json
from typing import Any

import pytest
from yarl import URL

from tests.integration.edge.conftest import Outside, reason_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


def a_description(size: int) -> io.BytesIO:
    return io.BytesIO(json.dumps({"agent": {"description": "x" * size}}).encode())


async def test_an_answer_has_every_field_under_its_proto_name(outside: Outside) -> None:
    status, body = await outside.rest("GET", "/v1/agents/Athena?version=1.0.0")
    assert status == 200
    assert (body["agent"]["name"], body["agent"]["version"]) == ("Athena", "1.0.0")
    assert body["agent"]["max_output_tokens"] == 0
    assert body["agent"]["tools"] == []
    assert "maxOutputTokens" not in body["agent"]


@pytest.mark.parametrize(
    ("verb", "path", "json_body", "expected"),
    [
        ("GET", "/agents/Athena", None, {"agent.name": "Athena"}),
        ("POST", "/v1/agents", {"agent": {"name": "A"}}, {"agent.name": "A"}),
        ("POST", "/agents", {"agent": {"name": "A"}}, {"agent.name": "A"}),
        ("GET", "/sessions/run_1/turns?page_size=7", None, {"next_page_token": "run_1/7"}),
        ("GET", "/v1/sessions/run_1/turns?pageSize=7", None, {"next_page_token": "run_1/7"}),
        ("POST", "/v1/sessions/run_1:advance", {}, {"session.session_id": "run_1"}),
        ("POST", "/sessions/run_1/advance", {}, {"session.session_id": "run_1"}),
        ("POST", "/sessions/run_1/advance", None, {"session.session_id": "run_1"}),
        ("GET", "//v1///agents/Athena", None, {"agent.name": "Athena"}),
        ("GET", "/v1/x/../agents/Athena", None, {"agent.name": "Athena"}),
        ("GET", "/v1/agents/Ath%C3%A9na%20II", None, {"agent.name": "Athéna II"}),
    ],
)
async def test_canonical_paths_aliases_and_verbs_reach_their_rpc(
    outside: Outside, verb: str, path: str, json_body: object, expected: dict[str, str]
) -> None:
    status, body = await outside.rest(verb, path, json=json_body)
    assert status == 200, body
    for field, value in expected.items():
        found = body
        for name in field.split("."):
            found = found[name]
        assert found == value


@pytest.mark.parametrize(
    "name", ["tenant", "project:atlas", "project:a/b", "agent:x:y", "step:run_1/rounds/2/Athena", "project:a%20b"]
)
async def test_a_budget_is_reached_by_its_name_whatever_is_in_it(outside: Outside, name: str) -> None:
    for verb, suffix, said in (
        ("GET", "", "get"),
        ("GET", ":status", "status"),
        ("POST", ":setLimit", "limit"),
        ("DELETE", "", "remove"),
    ):
        url = URL(f"{outside.edge.url}/v1/budgets/{name}{suffix}", encoded=True)
        body = {"limit_nano_usd": 1} if verb == "POST" else None
        async with outside.http.request(verb, url, json=body, headers=outside.bearer) as answer:
            told = await answer.json()
        assert answer.status == 200, (verb, suffix, told)
        assert told["budget"]["name"] == f"{said} {name.replace('%20', ' ')}"


async def test_a_file_like_answer_is_itself(outside: Outside) -> None:
    async with outside.http.get(outside.edge.url + "/v1/openapi.json") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert json.loads(await answer.read())["openapi"].startswith("3.1")


async def test_an_error_of_a_service_is_json_with_its_details(outside: Outside) -> None:
    status, body = await outside.rest("GET", "/v1/agents/nobody")
    assert (status, body["code"], body["message"]) == (404, 5, "agent 'nobody' does not exist")
    kinds = {detail["@type"].rpartition(".")[2]: detail for detail in body["details"]}
    assert kinds["ErrorInfo"]["domain"] == "orchestrator.comitia"
    assert kinds["ResourceInfo"]["resource_name"] == "nobody"


def violation_of(body: Any) -> dict[str, str]:
    """Gives the one violation of a `google.rpc.Status` in JSON that has a `BadRequest`."""
    [violation] = [one for detail in body["details"] for one in detail.get("field_violations", [])]
    return violation


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        (b'{"agent": {"name": "A"', "MALFORMED_REQUEST", "request"),
        (b'{"agent": {"name": "A', "MALFORMED_REQUEST", "agent.name"),
        (b"not json", "MALFORMED_REQUEST", "request"),
        (b"[]", "MALFORMED_REQUEST", "request"),
        (b'{"agent": {"name": "\xff\xfe"}}', "MALFORMED_REQUEST", "agent.name"),
        (
            b'{"agent": {"name": "Ath\xc3\xa9na \xe2\x82\xac \xf0\x9f\xa6\x89", "model": "\xc3"}}',
            "MALFORMED_REQUEST",
            "agent.model",
        ),
        (b'{"agent": {"name": "\xed\xa0\x80"}}', "MALFORMED_REQUEST", "agent.name"),
        (b'{"agent": {"tools": ["a", "\xc0\x80"]}}', "MALFORMED_REQUEST", "agent.tools[1]"),
        (b'{"agent": {"style": {"a\\"b": 1, "\xff": 1}}}', "MALFORMED_REQUEST", "agent.style"),
        (b'{"agent": {"name": 7.5, "max_output_tokens": "many"}}', "MALFORMED_REQUEST", "agent.max_output_tokens"),
        (b'{"agent": {"max_output_tokens": 99999999999999}}', "MALFORMED_REQUEST", "agent.max_output_tokens"),
        (b'{"agent": {"kind": "AGENT_KIND_GOD"}}', "MALFORMED_REQUEST", "agent.kind"),
        (b'{"agent": {"name": {}}}', "MALFORMED_REQUEST", "agent.name"),
        (b'{"agent": {"tools": [1, {}]}}', "MALFORMED_REQUEST", "agent.tools[0]"),
        (b'{"agent": {"style": [1]}}', "MALFORMED_REQUEST", "agent.style"),
        (b'{"agent": {"memory": 3}}', "MALFORMED_REQUEST", "agent.memory"),
        (b'{"agent": {"name": "A", "max_output_token": 5}}', "UNKNOWN_FIELD", "agent.max_output_token"),
        (b'{"agent": {"memory": {"recent": 5}}}', "UNKNOWN_FIELD", "agent.memory.recent"),
        (b'{"agent": {}, "tenant": "other"}', "UNKNOWN_FIELD", "tenant"),
        (b'{"agent": {"na\\u006de": "A"}}', "UNKNOWN_FIELD", "agent.na?u006de"),
        (b'{"agent": ' + b'{"memory":' * 5000 + b"1" + b"}" * 5001, "UNKNOWN_FIELD", "agent.memory.memory"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_with_reason_and_field(
    outside: Outside, body: bytes, reason: str, field: str
) -> None:
    before = outside.agents.calls
    status, answer = await outside.rest("POST", "/v1/agents", data=body)
    assert (status, answer["code"], reason_of(answer)) == (400, 3, reason)
    violation = violation_of(answer)
    assert (violation["field"], violation["reason"]) == (field, reason)
    assert field.rpartition(".")[2] in answer["message"]
    assert outside.agents.calls == before


async def test_free_form_parts_of_a_body_are_free(outside: Outside) -> None:
    agent = {"name": "A", "style": {"rigour, really": 0.5, "x": 1}, "temperature": 0.2}
    status, answer = await outside.rest("POST", "/v1/agents", json={"agent": agent})
    assert (status, answer["agent"]["style"]) == (200, {"rigour, really": 0.5, "x": 1})


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page_sise=5", "page_sise"),
        ("page_size=many", "page_size"),
        ("page_size=99999999999", "page_size"),
        ("page_token=%ff", "page_token"),
    ],
)
async def test_a_query_that_does_not_fit_is_refused_with_its_field(outside: Outside, query: str, field: str) -> None:
    async with outside.http.get(
        URL(f"{outside.edge.url}/v1/agents?{query}", encoded=True), headers=outside.bearer
    ) as answer:
        body = await answer.json()
    assert (answer.status, reason_of(body), violation_of(body)["field"]) == (400, "MALFORMED_REQUEST", field)
    assert field in body["message"]


async def test_a_body_may_not_contradict_the_path(outside: Outside) -> None:
    status, answer = await outside.rest("POST", "/v1/sessions/run_1:advance", json={"session_id": "run_2"})
    assert (status, reason_of(answer)) == (400, "MALFORMED_REQUEST")
    assert violation_of(answer)["field"] == "session_id", answer


async def test_a_body_of_five_megabytes_is_too_large_and_one_below_the_limit_is_not(outside: Outside) -> None:
    status, answer = await outside.rest("POST", "/v1/agents", data=a_description(5_000_000))
    assert (status, reason_of(answer)) == (413, "REQUEST_TOO_LARGE")
    assert answer["details"][0]["metadata"] == {"limit_bytes": str(4 * 1024 * 1024)}
    status, answer = await outside.rest("POST", "/v1/agents", data=a_description(3_900_000))
    assert (status, len(answer["agent"]["description"])) == (200, 3_900_000)


@pytest.mark.parametrize(
    ("verb", "path", "status", "reason"),
    [
        ("GET", "/v1/nowhere", 404, "NO_SUCH_METHOD"),
        ("DELETE", "/v1/agents/Athena", 404, "NO_SUCH_METHOD"),
        ("GET", "/", 404, "NO_SUCH_METHOD"),
        ("GET", "/admin", 404, "NO_SUCH_METHOD"),
        ("GET", "/v1/agents%2FAthena", 400, "MALFORMED_HTTP"),
        ("GET", "/v1/agents/%5Cx", 400, "MALFORMED_HTTP"),
        ("POST", "/comitia.orchestrator.v1.AgentService/GetAgent", 404, "NO_SUCH_METHOD"),
        ("POST", "/envoy.service.auth.v3.Authorization/Check", 404, "NO_SUCH_METHOD"),
        ("GET", "/v1/violations", 503, "SERVICE_UNAVAILABLE"),
    ],
)
async def test_what_the_edge_refuses_it_refuses_in_our_words(
    outside: Outside, verb: str, path: str, status: int, reason: str
) -> None:
    url = URL(outside.edge.url + path, encoded=True)
    async with outside.http.request(verb, url, headers=outside.bearer) as answer:
        body = await answer.json()
    assert (answer.status, reason_of(body)) == (status, reason)
    assert answer.headers["x-comitia-refused"] == reason


async def test_the_access_log_tells_who_and_what_and_no_secret(outside: Outside) -> None:
    await outside.rest("GET", "/v1/whoami", headers={"x-api-key": outside.gateway.admin_key})
    await outside.rest("POST", "/v1/token", data=f'{{"api_key": "{outside.gateway.admin_key}", ')
    await outside.rest("GET", f"/v1/whoami?key={outside.gateway.admin_key}")
    async with asyncio.timeout(10):
        while outside.edge.log.read_text().count("/v1/whoami") < 2:  # noqa: ASYNC110  # another process cannot set an event
            await asyncio.sleep(0.05)
    text = outside.edge.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    mine = next(line for line in lines if line["path"] == "/v1/whoami")
    assert mine["rpc"] == "/comitia.gateway.v1.IdentityService/WhoAmI"
    assert mine["subject"].removeprefix("key_") == outside.gateway.admin_key.split("_")[1]
    assert outside.gateway.admin_key.split("_")[2] not in text
    assert outside.token not in text
