"""Limits of the services seen through a real Envoy, its own wall against floods, and a gateway that is down."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from multidict import CIMultiDict

from comitia.gateway.v1.identity_service_pb2 import WhoAmIRequest
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.rate import burst_of, most_admitted
from services.meshkit.grpc.errors import remote_error
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.conftest import MakeDatabase
from tests.integration.edge.conftest import reason_of
from tests.support.edge import RunningEdge, edge_settings, running_edge
from tests.support.gateway import RunningGateway, running_gateway


@asynccontextmanager
async def an_edge(
    make_migrated: MakeDatabase, folder: Path, *, rate_factor: float = 1.0, **chosen: Any
) -> AsyncIterator[tuple[RunningGateway, RunningEdge]]:
    async with running_gateway(make_migrated, folder, targets={"rate_factor": str(rate_factor)}) as gateway:
        plain = edge_settings({"gateway": gateway.target}, jwks=gateway.keys.jwks_path, log=folder / "access.log")
        async with running_edge(replace(plain, **chosen), folder) as edge:
            yield gateway, edge


def bearer(keys: MeshKeys, tenant: int, subject: str = "key_a") -> dict[str, str]:
    caller = keys.principal(tenant=TenantId(UUID(int=tenant)), subject=subject)
    return {"authorization": f"Bearer {caller.token.reveal()}"}


async def test_a_tenant_that_floods_the_edge_is_told_to_wait_and_others_are_not(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        an_edge(make_migrated, tmp_path, flood_factor=0.02) as (gateway, edge),
        aiohttp.ClientSession() as http,
    ):

        async def ask(tenant: int) -> tuple[int, dict[str, str], object]:
            async with http.get(edge.url + "/v1/whoami", headers=bearer(gateway.keys, tenant)) as answer:
                return answer.status, dict(answer.headers), await answer.json()

        answers = [await ask(1) for _ in range(6)]
        other = await ask(2)
    refused = [answer for answer in answers if answer[0] == 429]
    assert len(refused) >= 1
    assert answers[0][0] == 200
    assert other[0] == 200
    assert reason_of(refused[0][2]) == "RATE_LIMITED"
    assert refused[0][1]["Retry-After"] == "1"


async def test_a_caller_that_floods_the_edge_leaves_the_others_of_its_tenant_their_share(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        an_edge(make_migrated, tmp_path, flood_factor=0.02) as (gateway, edge),
        aiohttp.ClientSession() as http,
    ):

        async def ask(subject: str) -> int:
            headers = bearer(gateway.keys, 1, subject)
            async with http.get(edge.url + "/v1/whoami", headers=headers) as answer:
                return answer.status

        flood = [await ask("key_greedy") for _ in range(12)]
        other = await ask("key_polite")
    assert flood[0] == 200
    assert flood[-1] == 429
    assert other == 200


async def test_an_address_that_floods_the_edge_leaves_others_room_and_health_its_answer(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        an_edge(make_migrated, tmp_path, address_per_second=1) as (_, edge),
        aiohttp.ClientSession() as greedy,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as polite,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        answers = [await greedy.get(edge.url + "/v1/nowhere") for _ in range(8)]
        other = await polite.get(edge.url + "/v1/nowhere")
        stub: Any = HealthStub(channel)
        health = await stub.Check(HealthCheckRequest())
        last = reason_of(await answers[-1].json())
    assert (answers[0].status, answers[-1].status, last) == (404, 429, "RATE_LIMITED")
    assert other.status == 404
    assert health.status == HealthCheckResponse.SERVING


async def test_an_edge_that_has_no_room_left_still_tells_that_it_works(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        an_edge(make_migrated, tmp_path, edge_per_second=1) as (_, edge),
        aiohttp.ClientSession() as http,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        answers = [await http.get(edge.url + "/v1/nowhere") for _ in range(8)]
        stub: Any = HealthStub(channel)
        health = [await stub.Check(HealthCheckRequest()) for _ in range(8)]
    assert answers[-1].status == 429
    assert {answer.status for answer in health} == {HealthCheckResponse.SERVING}


async def test_health_is_counted_by_address_too(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    async with (
        an_edge(make_migrated, tmp_path, address_per_second=1) as (_, edge),
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        stub: Any = HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            for _ in range(8):
                await stub.Check(HealthCheckRequest())
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_limits_of_services_reach_rest_callers_as_headers(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        an_edge(make_migrated, tmp_path, rate_factor=0.01) as (gateway, edge),
        aiohttp.ClientSession() as http,
    ):
        answers: list[tuple[int, CIMultiDict[str], object]] = []
        for _ in range(8):
            async with http.get(edge.url + "/v1/whoami", headers=bearer(gateway.keys, 1)) as answer:
                answers.append((answer.status, answer.headers.copy(), await answer.json()))
        async with http.get(edge.url + "/v1/nowhere", headers=bearer(gateway.keys, 1)) as answer:
            assert answer.status == 404
    first, last = answers[0], answers[-1]
    assert [status for status, _, _ in answers].count(200) in (5, 6)
    assert (first[0], last[0]) == (200, 429)
    assert first[1]["x-ratelimit-limit"] == last[1]["x-ratelimit-limit"] == "1"
    assert (first[1]["x-ratelimit-remaining"], last[1]["x-ratelimit-remaining"]) == ("1", "0")
    assert "retry-after" not in first[1]
    # A caller has half of its tenant's call a second.
    assert last[1]["retry-after"] in ("1", "2", "3", "4")
    assert last[1]["x-ratelimit-reset"] == "2"
    assert reason_of(last[2]) == "RATE_LIMITED"


async def test_grpc_callers_get_the_same_as_metadata_through_the_edge(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        an_edge(make_migrated, tmp_path, rate_factor=0.01) as (gateway, edge),
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        stub = IdentityServiceStub(channel)
        metadata = tuple(bearer(gateway.keys, 1).items())
        call: Any = stub.WhoAmI(WhoAmIRequest(), metadata=metadata)
        heard = dict(await call.initial_metadata())
        assert heard["x-ratelimit-limit"] == "1"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            for _ in range(8):
                call = stub.WhoAmI(WhoAmIRequest(), metadata=metadata)
                await call
        refused = dict(await call.initial_metadata())
    assert refused["x-ratelimit-remaining"] == "0"
    assert int(refused["retry-after"]) >= 1
    error = remote_error(raised.value)
    assert (error.reason, error.metadata["limited"]) == ("RATE_LIMITED", "caller")
    assert error.retry_after is not None


async def test_nobody_gets_another_address_by_a_header(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    headers = ("x-forwarded-for", "X-Forwarded-For", "x-real-ip", "forwarded")
    async with an_edge(make_migrated, tmp_path, rate_factor=0.05) as (_, edge):
        for number, header in enumerate(headers, start=2):
            # Each header from an address of its own.
            connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{number}", 0))
            statuses: list[int] = []
            began = time.monotonic()
            async with aiohttp.ClientSession(connector=connector) as http:
                for n in range(12):
                    async with http.get(edge.url + "/v1/openapi.json", headers={header: f"192.0.2.{n}"}) as answer:
                        statuses.append(answer.status)
            took = time.monotonic() - began
            assert burst_of(1) <= statuses.count(200) <= most_admitted(1, seconds=took, replicas=1), header
            assert 429 in statuses, header


async def test_without_the_gateway_a_key_has_to_wait_and_hears_so(tmp_path: Path) -> None:
    keys = MeshKeys.make(tmp_path, clock=SystemClock())
    settings = edge_settings({}, jwks=keys.jwks_path, log=tmp_path / "access.log")
    async with running_edge(settings, tmp_path) as edge, aiohttp.ClientSession() as http:
        async with http.get(edge.url + "/v1/agents", headers={"x-api-key": "ck_any"}) as answer:
            assert (answer.status, reason_of(await answer.json())) == (503, "SERVICE_UNAVAILABLE")
        async with grpc.aio.insecure_channel(edge.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await IdentityServiceStub(channel).WhoAmI(WhoAmIRequest(), metadata=(("x-api-key", "ck_any"),))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert remote_error(raised.value).reason == "SERVICE_UNAVAILABLE"


async def test_the_limit_of_the_whole_edge_is_told_in_the_same_words(tmp_path: Path) -> None:
    keys = MeshKeys.make(tmp_path, clock=SystemClock())
    settings = replace(edge_settings({}, jwks=keys.jwks_path, log=tmp_path / "access.log"), edge_per_second=1)
    async with running_edge(settings, tmp_path) as edge, aiohttp.ClientSession() as http:
        answers = [await http.get(edge.url + "/v1/nowhere") for _ in range(5)]
        reasons = [reason_of(await answer.json()) for answer in answers]
        async with grpc.aio.insecure_channel(edge.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await IdentityServiceStub(channel).WhoAmI(WhoAmIRequest())
    assert reasons[-1] == "RATE_LIMITED"
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert remote_error(raised.value).retry_after == timedelta(seconds=1)
