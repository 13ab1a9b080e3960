"""A mesh whose services call each other through the east-west listener, most of them twice.

What the listener does when replicas fail is looked at in `tests/integration/edge/test_east_west.py`.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from comitia_sdk.aio import AsyncClient
from services.launcher import status
from services.launcher.layout import read_state
from services.launcher.services import CALLS, SERVICES
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.forwarded_certificate import FORWARDED_CERTIFICATE
from tests.e2e.conftest import Rest, Tenant, until
from tests.e2e.inside import SUCCEEDED, Inside, all_of_it_works, reason
from tests.support.mesh import running_mesh
from tests.support.public_rpcs import INTERNAL


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    with running_mesh(mtls=True, east_west=True, replicas=2) as running:
        yield Inside(running)


@pytest.fixture
async def tenant(inside: Inside) -> AsyncIterator[Tenant]:
    mesh = inside.mesh
    async with AsyncClient(mesh.url, api_key=mesh.admin_key) as client, aiohttp.ClientSession() as http:
        rest = Rest(http, mesh.url, mesh.admin_key)
        yield Tenant(name="first", mark="", key=mesh.admin_key, client=client, rest=rest, provider=mesh.provider)


async def calls(inside: Inside, figure: str) -> dict[str, list[int]]:
    """Reads a figure of each replica, by service, as the listener counts it."""
    admin = f"http://127.0.0.1:{read_state(inside.data)['ports']['east_west_admin']}"
    async with aiohttp.ClientSession() as http, http.get(f"{admin}/clusters") as answer:
        rows = [line.split("::") for line in (await answer.text()).splitlines()]
    found: dict[str, Counter[str]] = {service: Counter() for service in SERVICES}
    for row in rows:
        if len(row) == 4 and row[2] == figure:
            # Calls that may be repeated are counted apart.
            found[row[0].removesuffix("-repeatable")][row[1]] += int(row[3])
    return {service: list(replicas.values()) for service, replicas in found.items()}


async def test_a_turn_goes_through_the_listener_to_all_that_it_needs(inside: Inside, tenant: Tenant) -> None:
    await all_of_it_works(tenant)
    counted = await calls(inside, "rq_total")
    assert {service: len(replicas) for service, replicas in counted.items()} == {
        service: inside.mesh.options.counts.get(service, 1) for service in SERVICES
    }
    assert all(sum(replicas) > 0 for replicas in counted.values()), counted
    # Batch streams stay open. How they are spread is looked at with streams that come one after the other: those that
    # wait for a first connection together count for no replica yet.
    active = await calls(inside, "rq_active")
    assert all(sum(active[service]) > 0 for service in ("policy", "cost"))


async def test_who_calls_is_known_behind_the_listener(inside: Inside, tenant: Tenant) -> None:
    listener = f"127.0.0.1:{read_state(inside.data)['ports']['east_west']}"
    token = (("authorization", f"Bearer {await tenant.client.identity.token()}"),)
    forged = (FORWARDED_CERTIFICATE, f"Hash={'0' * 64};DNS=orchestrator.comitia")
    target = inside.targets["cost"]
    wrong: list[str] = []
    async with AsyncExitStack() as stack:
        callers = {
            service: await stack.enter_async_context(
                channel(target, identity=inside.identity(service, east_west=listener))
            )
            for service in SERVICES
            if "cost" in CALLS[service]
        }
        for way in (listener, ""):
            stolen = inside.identity("orchestrator", certificate_of="tools", east_west=way)
            callers[f"stolen by {way}"] = await stack.enter_async_context(channel(target, identity=stolen))
        for rpc in (rpc for rpc in INTERNAL if rpc.path.startswith(("/comitia.cost.", "/comitia.common."))):
            for caller, opened in callers.items():
                refused = await reason(rpc, opened, (*token, forged)) == "PEER_NOT_ALLOWED"
                if refused is (caller in rpc.guard.peers):
                    wrong.append(f"{caller} -> {rpc.name}")
    assert not wrong, "\n".join(wrong)


async def test_sessions_go_on_when_a_replica_is_killed(inside: Inside, tenant: Tenant) -> None:
    await tenant.cast("Bob")

    async def session() -> bool:
        started = await tenant.client.sessions.start("Lakes", agents=["Bob"], max_rounds=1)
        return (await tenant.ended(started.session_id)).state == SUCCEEDED

    for victim in ("cost-2", "policy-2"):
        before = {child.name: child for child in status.status(inside.mesh.data_dir).children}[victim]
        sessions = [asyncio.create_task(session()) for _ in range(6)]
        os.kill(before.pid, signal.SIGKILL)
        assert all(await asyncio.gather(*sessions))

        async def found_again(service: str = victim.partition("-")[0]) -> bool:
            rows = await calls(inside, "cx_active")
            return min(rows[service]) > 0

        # It starts anew, which takes a machine that has more to do than it can its time.
        await until(found_again, seconds=60)
