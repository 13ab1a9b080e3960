"""Rate limits of the whole mesh, as callers meet them."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import grpc.aio

from comitia.gateway.v1.identity_service_pb2 import WhoAmIRequest
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import RateLimited
from tests.e2e.conftest import Rest, RestAnswer
from tests.support.mesh import RunningMesh

#: Of `AgentService.ListAgents`, calls of a tenant a second; twice as many at once. One key has four fifths of it.
OF_TENANT = 100
OF_KEY = 80


async def a_key(client: AsyncClient, name: str) -> str:
    """Makes a tenant of its own and gives its key."""
    return (await client.tenants.create(f"{name}-{time.time_ns()}")).admin_api_key


async def another_key(mesh: RunningMesh, key: str) -> str:
    """Makes a second key of the tenant that `key` belongs to."""
    async with AsyncClient(mesh.url, api_key=key) as admin:
        return (await admin.identity.create_key("second", roles=["admin"])).secret


def limits_of(answer: RestAnswer) -> tuple[int, int, int]:
    """Limit, remaining and reset as the headers say them."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    limit, remaining, reset = (headers[f"x-ratelimit-{what}"] for what in ("limit", "remaining", "reset"))
    return int(limit), int(remaining), int(reset)


async def flood(rest: Rest, calls: int) -> list[RestAnswer]:
    """Makes calls, twenty at a time."""
    places = asyncio.Semaphore(20)

    async def ask() -> RestAnswer:
        async with places:
            return await rest.ask("GET", "/v1/agents?page_size=1")

    return list(await asyncio.gather(*(ask() for _ in range(calls))))


@dataclass(frozen=True, kw_only=True)
class Flooded:
    """What became of a flood, and of the calls that somebody else made meanwhile."""

    taken: int
    refused: list[RestAnswer]
    others: list[RestAnswer]
    seconds: float


async def flooded(greedy: Rest, polite: Rest) -> Flooded:
    """Floods with one key while another one calls about fifteen times a second."""
    began = time.monotonic()
    flooding = asyncio.create_task(flood(greedy, 1200))
    others: list[RestAnswer] = []
    while not flooding.done():
        others.append(await polite.ask("GET", "/v1/agents?page_size=1"))
        await asyncio.sleep(0.05)
    answers = await flooding
    refused = [answer for answer in answers if answer.status != 200]
    seconds = time.monotonic() - began
    return Flooded(taken=len(answers) - len(refused), refused=refused, others=others, seconds=seconds)


async def test_a_tenant_at_its_limit_is_told_so_and_does_not_slow_another(client: AsyncClient, rest: Rest) -> None:
    greedy = Rest(rest.session, rest.url, await a_key(client, "greedy"))
    polite = Rest(rest.session, rest.url, await a_key(client, "polite"))
    limit, remaining, _ = limits_of(await polite.ask("GET", "/v1/agents?page_size=1"))
    assert (limit, remaining) == (OF_KEY, OF_KEY)

    seen = await flooded(greedy, polite)

    assert {answer.status for answer in seen.others} == {200}
    # One replica: the burst, what flows in, and one slice with what goes ahead of it.
    assert 2 * OF_KEY <= seen.taken <= 2 * OF_KEY + OF_KEY * seen.seconds + 15
    assert {(answer.status, answer.reason) for answer in seen.refused} == {(429, "RATE_LIMITED")}
    assert {limits_of(answer)[:2] for answer in seen.refused} == {(OF_KEY, 0)}
    assert {answer.headers.get("retry-after", answer.headers.get("Retry-After")) for answer in seen.refused} == {"1"}


async def test_a_key_that_floods_leaves_the_other_keys_of_its_tenant_able_to_work(
    mesh: RunningMesh, client: AsyncClient, rest: Rest
) -> None:
    first = await a_key(client, "shared")
    greedy = Rest(rest.session, rest.url, first)
    polite = Rest(rest.session, rest.url, await another_key(mesh, first))

    seen = await flooded(greedy, polite)

    assert {(answer.status, answer.reason) for answer in seen.refused} == {(429, "RATE_LIMITED")}
    assert {answer.status for answer in seen.others} == {200}
    # Which limit is the tighter one: the flooding key hears of its own, the other one of what the tenant has left.
    assert {limits_of(answer)[0] for answer in seen.refused} == {OF_KEY}
    assert {limits_of(answer)[0] for answer in seen.others} <= {OF_KEY, OF_TENANT}
    assert seen.taken <= 2 * OF_KEY + OF_KEY * seen.seconds + 15


async def test_grpc_callers_get_the_limits_as_metadata(mesh: RunningMesh, client: AsyncClient) -> None:
    token = await client.identity.token()
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        stub: Any = IdentityServiceStub(channel)
        call = stub.WhoAmI(WhoAmIRequest(), metadata=(("authorization", f"Bearer {token}"),))
        heard = dict(await call.initial_metadata())
        await call
    assert heard["x-ratelimit-limit"] == str(OF_KEY)
    assert int(heard["x-ratelimit-remaining"]) > 0


async def test_the_sdk_waits_out_a_short_limit_and_reports_one_that_lasts(
    mesh: RunningMesh, client: AsyncClient
) -> None:
    async with AsyncClient(mesh.url, api_key=await a_key(client, "busy")) as busy:
        # 8 a second, 16 at once: the rest waits its turn once, and what is still too early is told.
        outcomes = await asyncio.gather(
            *(busy.identity.create_key(f"key {n}", roles=["auditor"]) for n in range(45)), return_exceptions=True
        )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(outcomes) - len(refused) >= 10
    assert refused
    for refusal in refused:
        assert isinstance(refusal, RateLimited)
        assert refusal.retry_after is not None
        assert refusal.metadata["limit"] == "8"


async def test_health_and_reflection_are_not_counted(mesh: RunningMesh) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(mesh.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answers = await asyncio.gather(*(stub.Check(health_pb2.HealthCheckRequest()) for _ in range(400)))
    assert {answer.status for answer in answers} == {health_pb2.HealthCheckResponse.SERVING}
