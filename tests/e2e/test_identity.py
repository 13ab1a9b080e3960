"""Nobody gets in without an identity, does what their role may not do, or reaches what is the mesh's own."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import grpc.aio
import pytest

from comitia.inference.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
)
from comitia_sdk.errors import ComitiaError
from comitia_sdk.sync import Client
from services.meshkit.core.identity import Role
from services.meshkit.core.permissions import ROLE_PERMISSIONS
from services.meshkit.grpc.errors import remote_error
from tests.e2e.conftest import MakeTenant, Rest, RestAnswer, Tenant, until
from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import INTERNAL, PUBLIC, RestCall, Rpc

GUARDED: Final = tuple(rpc for rpc in PUBLIC if not rpc.guard.open)
#: What stands in a place of a path that is no id: something that can be read and that nobody has.
NOBODYS: Final = {"bundle": "nobody@1.0.0", "index": "0", "name": "nobody", "version": "1"}


def an_empty_request(rpc: Rpc) -> dict[str, Any]:
    """Fills the places of the path only: whoever is refused is refused before the request is looked at."""
    request: dict[str, Any] = {}
    for place in rpc.places:
        *way, name = place.split(".")
        holder = request
        for step in way:
            holder = holder.setdefault(step, {})
        holder[name] = NOBODYS.get(name) or f"{name.removesuffix('_id')}_01jd0000000000000000000000"
    return request


@dataclass(frozen=True, slots=True)
class Doubtful:
    """Credentials that are none."""

    headers: dict[str, str]
    reason: str


def unsigned(token: str, **header: str) -> str:
    written = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    return f"{written}.{token.split('.')[1]}."


@pytest.fixture(scope="module")
def doubtful(mesh: RunningMesh) -> Iterator[dict[str, Doubtful]]:
    """Gives credentials that let nobody in, and what they are told."""
    with Client(mesh.url, api_key=mesh.admin_key) as admin:
        token = admin.identity.token()
        made = admin.identity.create_key("revoked", roles=["admin"])
        with Client(mesh.url, api_key=made.secret) as short:
            short.identity.whoami()
        admin.identity.revoke_key(made.api_key.api_key_id)
        head, claims, signature = token.split(".")
        other = base64.urlsafe_b64decode(claims + "==").replace(b'"roles"', b'"Roles"')
        swapped = f"{head}.{base64.urlsafe_b64encode(other).decode().rstrip('=')}.{signature}"
        wrong_key = mesh.admin_key[:-4] + ("0000" if not mesh.admin_key.endswith("0000") else "1111")
        yield {
            "no key": Doubtful({}, "TOKEN_MISSING"),
            "wrong key": Doubtful({"x-api-key": wrong_key}, "API_KEY_INVALID"),
            "revoked key": Doubtful({"x-api-key": made.secret}, "API_KEY_INVALID"),
            "tampered token": Doubtful({"authorization": f"Bearer {swapped}"}, "TOKEN_INVALID"),
            "alg none": Doubtful({"authorization": f"Bearer {unsigned(token, alg='none')}"}, "TOKEN_INVALID"),
        }


async def refused_by_grpc(mesh: RunningMesh, rpc: Rpc, headers: dict[str, str]) -> tuple[str, str]:
    """Makes a call that must fail, again while it only comes too early; gives status and reason."""

    async def in_time() -> tuple[str, str] | None:
        answer = await _called(mesh, rpc, headers)
        return None if answer[1] == "RATE_LIMITED" else answer

    return await until(in_time)


async def refused_by_rest(rest: Rest, call: RestCall, headers: dict[str, str]) -> RestAnswer:
    """Makes a call that must fail, again while it only comes too early."""

    async def in_time() -> RestAnswer | None:
        answer = await rest.ask(call.verb, call.path, call.body, headers=headers)
        return None if answer.reason == "RATE_LIMITED" else answer

    return await until(in_time)


async def _called(mesh: RunningMesh, rpc: Rpc, headers: dict[str, str]) -> tuple[str, str]:
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        call = rpc.on(channel)(rpc.request_class(), metadata=tuple(headers.items()), timeout=10)
        try:
            await (call.read() if rpc.streams else call)
        except grpc.aio.AioRpcError as error:
            return error.code().name, remote_error(error).reason
    return "OK", ""


@pytest.mark.parametrize("rpc", GUARDED, ids=lambda rpc: rpc.name)
async def test_nobody_gets_in_without_an_identity(
    mesh: RunningMesh, rest: Rest, doubtful: dict[str, Doubtful], rpc: Rpc
) -> None:
    for name, credentials in doubtful.items():

        async def revoked(credentials: Doubtful = credentials) -> bool:
            return (await refused_by_grpc(mesh, rpc, credentials.headers))[0] == "UNAUTHENTICATED"

        await until(revoked)
        assert await refused_by_grpc(mesh, rpc, credentials.headers) == ("UNAUTHENTICATED", credentials.reason), name
        for call in rpc.rest(an_empty_request(rpc)):
            answer = await refused_by_rest(rest, call, credentials.headers)
            assert (answer.status, answer.reason) == (401, credentials.reason), f"{name}: {answer.body}"
            assert len(answer.body["message"]) > 20


@pytest.fixture(scope="module")
def keys_by_role(mesh: RunningMesh) -> dict[Role, str]:
    """Gives a key of each role, in a tenant of their own but for the operator."""
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        admin = operator.tenants.create("roles").admin_api_key
        runs = operator.identity.create_key("operator", roles=["operator"]).secret
    with Client(mesh.url, api_key=admin) as client:
        auditor = client.identity.create_key("auditor", roles=["auditor"]).secret
        user = client.identity.create_key("user", roles=["tenant_user"]).secret
    return {Role.ADMIN: admin, Role.OPERATOR: runs, Role.AUDITOR: auditor, Role.TENANT_USER: user}


@pytest.mark.parametrize("rpc", GUARDED, ids=lambda rpc: rpc.name)
async def test_a_role_may_do_what_is_its_own_and_nothing_else(
    mesh: RunningMesh, rest: Rest, keys_by_role: dict[Role, str], rpc: Rpc
) -> None:
    for role, permissions in ROLE_PERMISSIONS.items():
        if rpc.guard.permission in permissions:
            continue
        headers = {"x-api-key": keys_by_role[role]}
        assert await refused_by_grpc(mesh, rpc, headers) == ("PERMISSION_DENIED", "PERMISSION_MISSING"), role
        for call in rpc.rest(an_empty_request(rpc))[:1]:
            answer = await refused_by_rest(rest, call, headers)
            assert (answer.status, answer.reason) == (403, "PERMISSION_MISSING"), f"{role}: {answer.body}"


async def test_nobody_gives_away_a_role_that_they_do_not_hold(make_tenant: MakeTenant) -> None:
    tenant = await make_tenant()
    with pytest.raises(ComitiaError) as refused:
        await tenant.client.identity.create_key("mine", roles=["operator"])
    assert refused.value.reason == "ROLE_NOT_HELD"


@pytest.mark.parametrize("rpc", INTERNAL, ids=lambda rpc: rpc.name)
async def test_an_internal_rpc_has_no_way_in(mesh: RunningMesh, rest: Rest, rpc: Rpc) -> None:
    headers = {"x-api-key": mesh.admin_key, "comitia-workload": "eyJhbGciOiJub25lIn0.e30."}
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        method = channel.stream_stream if rpc.method.client_streaming else channel.unary_unary
        call: Any = method(rpc.path, request_serializer=bytes, response_deserializer=bytes)
        asked: Any = [b""] if rpc.method.client_streaming else b""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            answer = call(asked, metadata=tuple(headers.items()), timeout=10)
            await (answer.read() if rpc.method.client_streaming else answer)
    assert (refused.value.code().name, remote_error(refused.value).reason) == ("UNIMPLEMENTED", "NO_SUCH_METHOD")
    answer = await rest.ask("POST", rpc.path, {}, headers=headers)
    assert (answer.status, answer.reason) == (404, "NO_SUCH_METHOD")


@pytest.mark.parametrize("header", ["comitia-workload", "x-comitia-tenant", "x-forwarded-for", "x-envoy-original-path"])
async def test_a_header_of_the_inside_means_nothing_outside(mesh: RunningMesh, tenant: Tenant, header: str) -> None:
    whoami = await tenant.client.identity.whoami()
    headers = {"x-api-key": tenant.key, header: "/v1/tenants"}
    async with aiohttp.ClientSession() as http, http.get(f"{mesh.url}/v1/whoami", headers=headers) as answer:
        assert (await answer.json())["tenant_id"] == whoami.tenant_id


async def test_a_token_of_the_mesh_reaches_a_service_only_for_its_own_tenant(
    mesh: RunningMesh, tenant: Tenant, make_tenant: MakeTenant
) -> None:
    other = await make_tenant()
    tokens = [await one.client.identity.token() for one in (tenant, other)]
    request = model_service_pb2.ListModelsRequest()
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        for token in tokens:
            answer: Any = await stub.ListModels(request, metadata=(("authorization", f"Bearer {token}"),))
            assert answer.models
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            both = tuple(("authorization", f"Bearer {token}") for token in tokens)
            await stub.ListModels(request, metadata=both)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
