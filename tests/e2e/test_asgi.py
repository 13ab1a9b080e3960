"""Comitia in a FastAPI application behind a real server: its callers at the door, its API under a prefix."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from comitia_sdk.asgi import ComitiaAuth, ComitiaMount, IdToken, require
from comitia_sdk.asgi.interface import Scope
from comitia_sdk.asgi.mount import Credential
from tests.e2e.conftest import MakeTenant, Rest, RestAnswer, Tenant, until
from tests.e2e.test_guard_headers import PRETENCES, bent
from tests.support.asgi import served
from tests.support.mesh import RunningMesh
from tests.support.oidc_provider import CLIENT_ID, running_oidc_provider


@pytest.fixture
async def guarded(mesh: RunningMesh) -> AsyncIterator[str]:
    """Gives the address of an application whose callers are those of the mesh."""
    mounted = ComitiaMount(url=mesh.url)
    app = FastAPI(lifespan=mounted.lifespan)
    app.mount("/ai", mounted)

    @app.get("/me")
    async def me(request: Request) -> dict[str, Any]:
        caller = require(request.scope)
        return {"subject": caller.subject, "tenant": caller.tenant, "roles": sorted(caller.roles)}

    @app.get("/admin")
    def admin(request: Request) -> str:
        return require(request.scope, role="admin").subject

    app.add_middleware(ComitiaAuth, url=mesh.url, exempt=["/healthz"])
    async with served(app) as url:
        yield url


#: Who is signed in at the application of `hosted`, by the value of the cookie `user`.
People = dict[str, Credential]


@pytest.fixture
def people() -> People:
    return {}


@pytest.fixture
async def hosted(mesh: RunningMesh, people: People) -> AsyncIterator[str]:
    """Gives the address of an application with a login of its own."""

    async def credentials(scope: Scope) -> Credential:
        cookies = Request(scope).cookies
        return people.get(cookies.get("user", ""))

    mounted = ComitiaMount(credentials, url=mesh.url)
    app = FastAPI(lifespan=mounted.lifespan)
    app.mount("/ai", mounted)
    async with served(app) as url:
        yield url


async def ask(tenant: Tenant, url: str, path: str, headers: Mapping[str, str]) -> RestAnswer:
    return await Rest(tenant.rest.session, url, "").ask("GET", path, headers=dict(headers))


async def events(tenant: Tenant, url: str, headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Follows server-sent events to their end."""
    async with asyncio.timeout(20), tenant.rest.session.get(url, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        return [json.loads(line.removeprefix(b"data:")) async for line in answer.content if line.strip()]


def names(answer: RestAnswer) -> set[str]:
    """Gives the names of an answer's headers in one spelling."""
    return {name.lower() for name in answer.headers}


async def test_a_session_is_started_and_followed_through_the_mount_with_a_key(tenant: Tenant, guarded: str) -> None:
    await tenant.cast("Ada", "Bob")
    api = Rest(tenant.rest.session, f"{guarded}/ai", tenant.key)
    body = {"topic": f"Rivers {tenant.mark}", "agents": ["Ada", "Bob"], "mode": "SESSION_MODE_DEBATE", "max_rounds": 1}
    started = await api.ask("POST", "/v1/sessions", body)
    assert started.status == 200, started.body
    session_id = started.body["session"]["session_id"]

    heard = await events(tenant, f"{guarded}/ai/v1/sessions/{session_id}:watch", {"x-api-key": tenant.key})

    assert sum("turn_completed" in event for event in heard) == 2
    assert heard[-1]["session_ended"]["state"] == "SESSION_STATE_SUCCEEDED"
    assert {"x-request-id", "x-ratelimit-limit"} <= names(started)
    assert not {"set-cookie", "x-envoy-upstream-service-time"} & names(started)


async def test_another_tenants_session_is_not_found_through_the_mount(make_tenant: MakeTenant, guarded: str) -> None:
    tenant, stranger = await make_tenant(), await make_tenant()
    await tenant.cast("Ada", "Bob")
    session_id = (await tenant.start("Ada", "Bob", max_rounds=1)).session_id
    path = f"/ai/v1/sessions/{session_id}"
    assert (await ask(tenant, guarded, path, {"x-api-key": tenant.key})).status == 200
    answer = await ask(tenant, guarded, path, {"x-api-key": stranger.key})
    assert answer.status == 404
    missing = await ask(tenant, guarded, f"{path[:-1]}{'0' if path[-1] != '0' else '1'}", {"x-api-key": stranger.key})
    assert (missing.status, missing.reason) == (404, answer.reason)


async def test_routes_of_the_application_know_their_callers(tenant: Tenant, guarded: str) -> None:
    user = (await tenant.client.identity.create_key("user", roles=["tenant_user"])).secret
    said = await tenant.client.identity.whoami()
    for headers in ({"x-api-key": tenant.key}, {"authorization": f"Bearer {await tenant.client.identity.token()}"}):
        me = await ask(tenant, guarded, "/me", headers)
        assert (me.status, me.body["subject"], me.body["tenant"]) == (200, said.subject, said.tenant_id)
        assert (await ask(tenant, guarded, "/admin", headers)).body == said.subject
    refused = await ask(tenant, guarded, "/admin", {"x-api-key": user})
    assert (refused.status, refused.reason) == (403, "ROLE_MISSING")
    for path in ("/me", "/ai/v1/agents", "/nowhere"):
        nobody = await ask(tenant, guarded, path, {})
        assert (nobody.status, nobody.reason) == (401, "TOKEN_MISSING")
        assert "www-authenticate" in names(nobody)


async def test_a_key_that_may_not_even_ask_who_it_is_comes_in(tenant: Tenant, guarded: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("comitia_sdk.asgi.identities._CONFIRMED_SECONDS", 0.0)  # so that it is asked about each time
    made = await tenant.client.identity.create_key("narrow", roles=["tenant_user"], scopes=["agents.read"])
    for _ in range(2):
        assert (await ask(tenant, guarded, "/me", {"x-api-key": made.secret})).status == 200


async def test_a_revoked_key_and_its_tokens_are_refused_within_five_seconds(tenant: Tenant, guarded: str) -> None:
    made = await tenant.client.identity.create_key("short-lived", roles=["admin"])
    answer = await tenant.rest.ask("POST", "/v1/token", {"api_key": made.secret}, headers={})
    identities = ({"x-api-key": made.secret}, {"authorization": f"Bearer {answer.body['access_token']}"})
    for headers in identities:
        for path in ("/me", "/ai/v1/agents"):
            assert (await ask(tenant, guarded, path, headers)).status == 200

    await tenant.client.identity.revoke_key(made.api_key.api_key_id)

    async def refused() -> bool:
        asked = [(path, headers) for headers in identities for path in ("/me", "/ai/v1/agents")]
        answers = [await ask(tenant, guarded, path, headers) for path, headers in asked]
        return all((found.status, found.reason) == (401, "TOKEN_INVALID") for found in answers)

    await until(refused, seconds=5)
    assert (await ask(tenant, guarded, "/me", {"x-api-key": tenant.key})).status == 200


async def test_the_application_says_who_calls_and_the_mesh_what_they_may(
    tenant: Tenant, hosted: str, people: People
) -> None:
    people["ann"] = (await tenant.client.identity.create_key("ann", roles=["tenant_user"])).secret
    people["bob"] = await tenant.client.identity.token()
    admin = {"x-api-key": tenant.key, "authorization": f"Bearer {tenant.key}"}
    for headers in ({}, admin, {**admin, "cookie": "user=eve"}):
        answer = await ask(tenant, hosted, "/ai/v1/whoami", headers)
        assert (answer.status, answer.reason) == (401, "TOKEN_MISSING")

    ann = await ask(tenant, hosted, "/ai/v1/whoami", {**admin, "cookie": "user=ann"})
    bob = await ask(tenant, hosted, "/ai/v1/whoami", {"cookie": "user=bob"})
    assert (ann.body["roles"], bob.body["roles"]) == (["ROLE_TENANT_USER"], ["ROLE_ADMIN"])
    refused = await ask(tenant, hosted, "/ai/v1/api-keys", {**admin, "cookie": "user=ann"})
    assert (refused.status, refused.reason) == (403, "PERMISSION_MISSING")
    post = Rest(tenant.rest.session, hosted, "")
    forged = {"cookie": "user=bob", "sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    answer = await post.ask("POST", "/ai/v1/agents", {"agent": {"name": "Eve"}}, headers=forged)
    assert (answer.status, answer.reason) == (403, "CROSS_SITE")


async def test_a_person_whom_the_application_signed_in_works_by_their_id_token(
    tenant: Tenant, mesh: RunningMesh, hosted: str, people: People, tmp_path: Path
) -> None:
    with running_oidc_provider(tmp_path) as provider:
        mesh.comitia("issuer", "add", provider.issuer, CLIENT_ID, COMITIA_API_KEY=tenant.key)
        mesh.comitia("user", "invite", "ann@example.com", COMITIA_API_KEY=tenant.key)
        signed_in = await asyncio.to_thread(provider.sign_in, "ann@example.com")
        people["ann"] = IdToken(tenant.name, signed_in.id_token)
        people["eve"] = IdToken("local", signed_in.id_token)
        ann = await ask(tenant, hosted, "/ai/v1/whoami", {"cookie": "user=ann"})
        assert (ann.status, ann.body["email"]) == (200, "ann@example.com")
        eve = await ask(tenant, hosted, "/ai/v1/whoami", {"cookie": "user=eve"})
        assert (eve.status, eve.reason) == (401, "TOKEN_INVALID")


async def status_of(url: str, path: str, *lines: str) -> int:
    """Asks byte for byte; 0 when the server hangs up."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    head = [f"GET {path} HTTP/1.1", "host: app", "connection: close", *lines]
    async with asyncio.timeout(15):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
            line = await reader.readline()
        except ConnectionError:
            return 0
        finally:
            writer.close()
    return int(line.split()[1]) if line else 0


async def test_no_header_and_no_spelling_of_a_path_gives_more_than_the_application_says(
    tenant: Tenant, hosted: str, people: People
) -> None:
    people["ann"] = (await tenant.client.identity.create_key("ann", roles=["tenant_user"])).secret
    admin = await tenant.client.identity.token()
    for name, pretence in PRETENCES.items():
        lines = [line.replace("{admin}", admin) for line in pretence]
        assert await status_of(hosted, "/ai/v1/whoami", *lines) in (0, 400, 401, 431), name
        assert await status_of(hosted, "/ai/v1/api-keys", "cookie: user=ann", *lines) in (0, 400, 401, 403, 431), name
    for name, path in bent("/v1/api-keys"):
        if not path.startswith("/"):
            continue
        assert await status_of(hosted, f"/ai{path}", "cookie: user=ann") in (0, 400, 403, 404, 431), name
