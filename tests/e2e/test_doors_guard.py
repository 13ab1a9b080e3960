"""Who may come in at the doors, for how long, and with how much."""

import base64
import io
import json
import time
from typing import Any, Final

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from comitia_sdk.aio import AsyncClient
from tests.e2e.conftest import MakeTenant, Tenant, until
from tests.e2e.doors import at_once
from tests.e2e.test_doors_openai import MODEL, asked, asking, opened
from tests.support.mesh import RunningMesh
from tests.support.pictures import a_png

CHAT: Final = "/v1/chat/completions"


async def knock(tenant: Tenant, body: Any = None, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Asks the stub; gives the status, the error and the headers."""
    said = {"model": "stub", "messages": [{"role": "user", "content": "Hi"}]} if body is None else body
    data = io.BytesIO(json.dumps(said).encode())
    async with tenant.rest.session.post(f"{tenant.rest.url}{CHAT}", data=data, headers=headers) as answer:
        parsed = await answer.json()
        return answer.status, parsed.get("error", {}), {name.lower(): said for name, said in answer.headers.items()}


async def test_a_key_comes_in_either_header_and_a_token_as_well(tenant: Tenant) -> None:
    token = (await tenant.rest.ask("POST", "/v1/token", {"api_key": tenant.key}, headers={})).body["access_token"]
    for headers in (
        {"x-api-key": tenant.key},
        {"authorization": f"Bearer {tenant.key}"},
        {"authorization": f"Bearer {token}"},
        {"authorization": f"Bearer {tenant.key}", "x-api-key": tenant.key},
    ):
        assert (await knock(tenant, **headers))[0] == 200
    status, error, _ = await knock(tenant)
    assert (status, error["code"]) == (401, "invalid_api_key")
    status, error, _ = await knock(tenant, **{"authorization": f"Bearer {tenant.key}", "x-api-key": "ck_other"})
    assert (status, error["code"]) == (401, "invalid_api_key")


async def test_a_revoked_key_is_refused_within_five_seconds(mesh: RunningMesh, tenant: Tenant) -> None:
    made = await tenant.client.identity.create_key("short-lived", roles=["tenant_user"])
    async with opened(mesh, made.secret) as ai:
        await ai.chat.completions.create(model="stub", messages=asking(tenant))
        await tenant.client.identity.revoke_key(made.api_key.api_key_id)
        revoked = time.monotonic()

        async def refused() -> bool:
            try:
                await ai.chat.completions.create(model="stub", messages=asking(tenant))
            except openai.AuthenticationError:
                return True
            return False

        assert await until(refused, seconds=5)
        assert time.monotonic() - revoked < 5


async def test_a_stream_ends_when_its_key_is_revoked(mesh: RunningMesh, tenant: Tenant) -> None:
    made = await tenant.client.identity.create_key("short-lived", roles=["tenant_user"])
    tenant.says("One sentence. " * 500, pause=0.02)
    async with opened(mesh, made.secret) as ai:
        stream = await ai.chat.completions.create(model=MODEL, messages=asking(tenant), stream=True)
        await anext(aiter(stream))
        await tenant.client.identity.revoke_key(made.api_key.api_key_id)
        with pytest.raises(openai.APIError) as ended:
            async for _ in stream:
                pass
    assert ended.value.code == "invalid_api_key"


async def test_keys_of_a_suspended_tenant_are_refused(client: AsyncClient, make_tenant: MakeTenant) -> None:
    tenant = await make_tenant()
    assert (await knock(tenant, **{"x-api-key": tenant.key}))[0] == 200
    [found] = [one async for one in client.tenants.list() if one.name == tenant.name]
    await client.tenants.suspend(found.tenant_id, reason="unpaid")

    async def refused() -> bool:
        return (await knock(tenant, **{"x-api-key": tenant.key}))[0] in (401, 403)

    assert await until(refused, seconds=5)


async def test_another_tenant_gets_neither_the_answer_nor_the_bill(mesh: RunningMesh, make_tenant: MakeTenant) -> None:
    one, two = [await make_tenant() for _ in range(2)]
    for tenant in (one, two):
        one.says("They meet.")
        async with opened(mesh, tenant.key) as ai:
            raw = await ai.chat.completions.with_raw_response.create(
                model=MODEL, messages=asking(one), extra_headers={"idempotency-key": "the-same"}
            )
        assert "idempotent-replayed" not in raw.headers
    assert len(asked(one)) == 2


async def test_what_a_key_is_narrowed_to_binds_at_the_doors(mesh: RunningMesh, tenant: Tenant) -> None:
    made = await tenant.client.identity.create_key("reader", roles=["auditor"])
    async with opened(mesh, made.secret) as ai:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await ai.chat.completions.create(model="stub", messages=asking(tenant))
    assert refused.value.code == "permission_missing"


async def test_too_large_a_body_is_told_in_the_dialect(tenant: Tenant) -> None:
    headers = {"x-api-key": tenant.key}
    status, error, _ = await knock(tenant, {"model": "stub", "messages": [], "user": "x" * (21 * 2**20)}, **headers)
    assert (status, error["code"]) == (413, "request_too_large")
    status, error, _ = await knock(tenant, {"model": "stub", "messages": "nonsense"}, **headers)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", "messages")


async def test_long_requests_of_a_tenant_leave_room_for_others(mesh: RunningMesh, make_tenant: MakeTenant) -> None:
    def picture(tenant: Tenant) -> Any:
        url = "data:image/png;base64," + base64.b64encode(a_png(padding=11 * 2**20)).decode()
        parts = [{"type": "text", "text": tenant.mark}, {"type": "image_url", "image_url": {"url": url}}]
        return {"model": MODEL, "messages": [{"role": "user", "content": parts}]}

    one, two = [await make_tenant() for _ in range(2)]
    one.says("One sentence. " * 500, pause=0.02)
    two.says("Mine came through.")
    async with opened(mesh, one.key) as ai:
        stream = await ai.chat.completions.create(**picture(one), stream=True)
        await anext(aiter(stream))
        status, error, headers = await knock(one, picture(one), **{"x-api-key": one.key})
        assert (status, error["code"], headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
        assert "long requests" in error["message"]
        assert (await knock(one, **{"x-api-key": one.key}))[0] == 200
        assert (await knock(two, picture(two), **{"x-api-key": two.key}))[0] == 200
        await stream.close()

    async def room_again() -> bool:
        one.says("There is room.")
        return (await knock(one, picture(one), **{"x-api-key": one.key}))[0] == 200

    assert await until(room_again)


async def test_nothing_else_is_served_at_the_doors(tenant: Tenant) -> None:
    answer = await tenant.rest.ask("GET", CHAT)
    assert (answer.status, answer.body["error"]["code"]) == (404, "no_such_method")


async def test_models_and_vectors_are_those_of_the_mesh(mesh: RunningMesh, tenant: Tenant) -> None:
    async with opened(mesh, tenant.key) as ai:
        models = [model.id async for model in await ai.models.list()]
        assert models[0] == "default"
        assert {f"openai/{MODEL}", "openai/text-embedding-3-small", "stub"} <= set(models)
        assert (await ai.models.retrieve(MODEL)).owned_by == "openai"
        with pytest.raises(openai.NotFoundError) as unknown:
            await ai.models.retrieve("gpt-17")
        assert unknown.value.code == "model_not_found"
        made = await ai.embeddings.create(model="text-embedding-3-small", input=["one", f"two {tenant.mark}"])
        assert [len(one.embedding) for one in made.data] == [3, 3]
        assert made.usage.total_tokens > 0
        plain = await ai.embeddings.create(model="text-embedding-3-small", input="one", encoding_format="float")
        assert plain.data[0].embedding == pytest.approx(made.data[0].embedding, abs=1e-6)
        with pytest.raises(openai.BadRequestError) as empty:
            await ai.embeddings.create(model="text-embedding-3-small", input=[" "])
        assert empty.value.param == "input[0]"


async def test_whoever_sends_many_unknown_keys_has_to_wait(mesh: RunningMesh) -> None:
    async def status(session: aiohttp.ClientSession, number: int) -> int:
        key = f"ck_0000000000000000000000{number:04d}_{'x' * 43}"
        async with session.post(f"{mesh.url}{CHAT}", headers={"x-api-key": key}, json={}) as answer:
            return answer.status

    # From an address of its own: others come from that of the tests. Twenty at a time: a machine that has more to do
    # than it can answers one after the other more slowly than the ten a second that are looked up.
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=elsewhere) as session:
        assert {*await at_once(20, (status(session, number) for number in range(200)))} == {401, 429}


async def test_the_official_client_without_a_key_is_told_so(mesh: RunningMesh) -> None:
    async with AsyncOpenAI(base_url=f"{mesh.url}/v1", api_key="sk-none", max_retries=0) as ai:
        with pytest.raises(openai.AuthenticationError):
            await ai.models.list()
