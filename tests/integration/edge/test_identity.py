"""Who gets in, through a real Envoy, and what is taken from them at the door."""

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest

from comitia.gateway.v1 import identity_service_pb2 as identity
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.orchestrator.v1 import agent_service_pb2
from comitia.orchestrator.v1.agent_service_pb2_grpc import AgentServiceStub
from services.meshkit.core.identity import Role
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.signed_token import SigningKey
from tests.integration.edge.conftest import Outside, reason_of
from tests.support.gateway import new_key_text

pytestmark = pytest.mark.asyncio(loop_scope="module")


def a_token(outside: Outside, **claims: Any) -> str:
    """Signs a token with the mesh's own key and these claims on top of good ones."""
    good = json.loads(base64.urlsafe_b64decode(outside.token.split(".")[1] + "=="))
    return outside.keys.access_key.sign({**good, **claims})


def unsigned(token: str, header: dict[str, str], signature: str = "") -> str:
    written = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    return f"{written}.{token.split('.')[1]}.{signature}"


async def seen_behind(outside: Outside, headers: Any) -> dict[str, list[str]]:
    """Gives the metadata that a service behind the edge got."""
    status, body = await outside.rest("GET", "/v1/agents/Athena", headers=headers)
    assert status == 200, body
    seen: dict[str, list[str]] = {}
    for key, value in json.loads(body["agent"]["instructions"]):
        seen.setdefault(key, []).append(value)
    return seen


async def test_an_api_key_becomes_a_token_and_goes_no_further(outside: Outside) -> None:
    for headers in (
        {"x-api-key": outside.gateway.admin_key},
        {"authorization": f"Bearer {outside.gateway.admin_key}"},
        {"authorization": f"bearer {outside.gateway.admin_key}"},
        {"X-API-Key": outside.gateway.admin_key, "authorization": "Bearer nonsense"},
    ):
        seen = await seen_behind(outside, headers)
        assert "x-api-key" not in seen
        assert [value.split(".")[0] for value in seen["authorization"]] == ["Bearer " + outside.token.split(".")[0]]
        assert "ck_" not in str(seen)


async def test_a_wrong_api_key_is_401_with_our_body(outside: Outside) -> None:
    for key in (new_key_text(), "ck_", "nonsense", outside.gateway.admin_key[:-1] + "g"):
        status, body = await outside.rest("GET", "/v1/whoami", headers={"x-api-key": key})
        assert (status, body["code"], reason_of(body)) == (401, 16, "API_KEY_INVALID")
        assert body["details"][0]["domain"] == "gateway.comitia"


async def test_a_revoked_api_key_is_refused_within_five_seconds(outside: Outside) -> None:
    wish = {"display_name": "short-lived", "roles": ["ROLE_TENANT_USER"]}
    _, made = await outside.rest("POST", "/v1/api-keys", json=wish)
    headers = {"x-api-key": made["secret"]}
    assert (await outside.rest("GET", "/v1/whoami", headers=headers))[0] == 200
    await outside.rest("POST", f"/v1/api-keys/{made['api_key']['api_key_id']}:revoke", json={})
    async with asyncio.timeout(5):
        while (await outside.rest("GET", "/v1/whoami", headers=headers))[0] != 401:  # noqa: ASYNC110  # another process cannot set an event
            await asyncio.sleep(0.1)


async def test_open_calls_need_nobody_and_ignore_wrong_credentials(outside: Outside) -> None:
    for headers in ({}, {"x-api-key": "ck_wrong"}, {"authorization": "Bearer nonsense"}):
        assert (await outside.rest("GET", "/v1/status", headers=headers))[0] == 200


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda o: None, "TOKEN_MISSING"),
        (lambda o: "", "TOKEN_MISSING"),
        (lambda o: "nonsense", "TOKEN_INVALID"),
        (lambda o: a_token(o, exp=1_700_000_000), "TOKEN_EXPIRED"),
        (lambda o: a_token(o, iss="evil"), "TOKEN_INVALID"),
        (lambda o: SigningKey.generate("access-1").sign({"iss": "comitia", "aud": "comitia"}), "TOKEN_INVALID"),
        (lambda o: unsigned(o.token, {"alg": "none"}), "TOKEN_INVALID"),
        (lambda o: unsigned(o.token, {"alg": "none", "kid": "access-1"}, o.token.split(".")[2]), "TOKEN_INVALID"),
        (lambda o: unsigned(o.token, {"alg": "HS256", "kid": "access-1"}, o.token.split(".")[2]), "TOKEN_INVALID"),
        (lambda o: o.token[:-4] + "AAAA", "TOKEN_INVALID"),
        (lambda o: o.token + ",Bearer " + o.token, "TOKEN_INVALID"),
        (lambda o: "x" * 9000, "TOKEN_INVALID"),
        (lambda o: o.keys.workload("orchestrator").assertion(), "TOKEN_INVALID"),
    ],
)
async def test_a_token_that_is_none_of_ours_is_401(outside: Outside, make: Any, reason: str) -> None:
    token = make(outside)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    before = outside.agents.calls
    status, body = await outside.rest("GET", "/v1/agents/Athena", headers=headers)
    assert (status, body["code"], reason_of(body)) == (401, 16, reason)
    assert outside.agents.calls == before


async def test_a_token_for_another_audience_is_401(outside: Outside) -> None:
    status, body = await outside.rest(
        "GET", "/v1/whoami", headers={"authorization": f"Bearer {a_token(outside, aud='x')}"}
    )
    assert (status, body["code"], reason_of(body)) == (401, 16, "TOKEN_NOT_FOR_US")


async def test_a_token_in_the_query_or_a_cookie_counts_for_nothing(outside: Outside) -> None:
    status, body = await outside.rest("GET", f"/v1/whoami?access_token={outside.token}", headers={})
    assert (status, reason_of(body)) == (400, "MALFORMED_REQUEST")
    status, body = await outside.rest("GET", "/v1/whoami", headers={"cookie": f"access_token={outside.token}"})
    assert (status, reason_of(body)) == (401, "TOKEN_MISSING")


async def test_a_role_that_may_not_is_refused_by_the_service(outside: Outside) -> None:
    auditor = outside.keys.principal(Role.AUDITOR, life=timedelta(minutes=1)).token.reveal()
    status, body = await outside.rest(
        "POST", "/v1/agents", json={"agent": {"name": "A"}}, headers={"authorization": f"Bearer {auditor}"}
    )
    assert (status, reason_of(body)) == (403, "PERMISSION_MISSING")


async def test_headers_that_pretend_an_identity_inside_are_taken_off(outside: Outside) -> None:
    pretended = {
        "comitia-workload": outside.keys.workload("orchestrator").assertion(),
        "Comitia-Workload": "again",
        "x-comitia-tenant": "other",
        "X-Comitia-Roles": "admin",
        "x-forwarded-client-cert": "By=spiffe://mesh/sa/orchestrator",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "inside",
        "x-envoy-original-path": "/v1/secret",
        "x-envoy-internal": "true",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "x-real-ip": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
        "grpc-previous-rpc-attempts": "3",
        "grpc-tags-bin": "AAAA",
        "grpc-trace-bin": "AAAA",
    }
    seen = await seen_behind(outside, {**pretended, **outside.bearer})
    assert seen["authorization"] == [f"Bearer {outside.token}"]
    assert seen.get("x-envoy-original-path") == ["/v1/agents/Athena"]
    assert "10.0.0.1" not in str(seen)
    left = {name.lower() for name in pretended} & seen.keys()
    assert left == {"x-envoy-original-path", "x-forwarded-for"}


async def test_a_header_with_an_underscore_is_refused(outside: Outside) -> None:
    status, body = await outside.rest("GET", "/v1/whoami", headers={**outside.bearer, "comitia_workload": "x"})
    assert (status, reason_of(body)) == (400, "MALFORMED_HTTP")


async def test_an_internal_rpc_has_no_route_whatever_the_caller_shows(outside: Outside) -> None:
    metadata = (
        ("authorization", f"Bearer {outside.token}"),
        ("comitia-workload", outside.keys.workload("orchestrator").assertion()),
    )
    async with grpc.aio.insecure_channel(outside.edge.address) as channel:
        stub = IdentityServiceStub(channel)
        for call in (
            stub.IssueGrant(identity.IssueGrantRequest(run_id="run_x"), metadata=metadata),
            stub.ExchangeGrant(identity.ExchangeGrantRequest(), metadata=metadata),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert remote_error(raised.value).reason == "NO_SUCH_METHOD"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", "Bearer nonsense"),), "TOKEN_INVALID"),
        ((("x-api-key", "ck_nonsense"),), "API_KEY_INVALID"),
        ((("authorization", "Bearer ck_nonsense"),), "API_KEY_INVALID"),
    ],
)
async def test_grpc_callers_get_status_reason_and_sentence(
    outside: Outside, headers: tuple[tuple[str, str], ...], reason: str
) -> None:
    async with grpc.aio.insecure_channel(outside.edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await AgentServiceStub(channel).GetAgent(agent_service_pb2.GetAgentRequest(name="A"), metadata=headers)
    error = remote_error(raised.value)
    assert (raised.value.code(), error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert "{" not in (raised.value.details() or "{")
