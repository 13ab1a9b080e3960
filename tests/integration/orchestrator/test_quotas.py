"""What a tenant may have is counted by all replicas together."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import grpc.aio

from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2, session_pb2
from comitia.orchestrator.v1 import session_service_pb2 as pb
from services.meshkit.core.tenant import Quotas
from services.meshkit.grpc.errors import remote_error
from tests.integration.orchestrator.conftest import OTHER_TENANT, House, Replica

TENANT: Final = OTHER_TENANT
#: Calls at each of two replicas, all at once.
CALLS: Final = 10
DONE: Final = "done"


async def create_agent(replica: Replica, name: str) -> None:
    request = agent_service_pb2.CreateAgentRequest(agent=agent_pb2.Agent(name=name, version="1.0.0"))
    await replica.agents.CreateAgent(request, metadata=replica.as_tenant(TENANT))


async def start_session(replica: Replica) -> session_pb2.Session:
    request = pb.StartSessionRequest(
        topic="Rivers", mode=session_pb2.SESSION_MODE_DIALOGUE, agents=["Ada"], max_rounds=1
    )
    return (await replica.sessions.StartSession(request, metadata=replica.as_tenant(TENANT))).session


async def outcome(call: Awaitable[object]) -> str:
    """Gives the reason of a refusal and the quota that it names."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        refusal = remote_error(error)
        return f"{refusal.reason} {refusal.metadata.get('quota')}"
    return DONE


async def at_both(one: Replica, two: Replica, call: Callable[[Replica, int], Awaitable[object]]) -> list[str]:
    """Makes calls at two replicas at once; each has a number of its own."""
    calls = (
        outcome(call(replica, 2 * number + at)) for number in range(CALLS) for at, replica in enumerate((one, two))
    )
    return await asyncio.gather(*calls)


async def test_two_replicas_make_no_more_agents_than_the_tenant_may_have(house: House) -> None:
    house.tenants.set(TENANT, quotas=Quotas(max_agents=3))
    async with AsyncExitStack() as stack:
        one, two = await house.replica(stack, name="one"), await house.replica(stack, name="two")
        outcomes = await at_both(one, two, lambda replica, number: create_agent(replica, f"Agent{number}"))
        assert sorted(outcomes) == sorted([DONE] * 3 + ["QUOTA_EXCEEDED max_agents"] * (2 * CALLS - 3))
        for replica in (one, two):
            listed = await replica.agents.ListAgents(
                agent_service_pb2.ListAgentsRequest(), metadata=replica.as_tenant(TENANT)
            )
            assert len(listed.agents) == 3
            assert await outcome(create_agent(replica, "Another")) == "QUOTA_EXCEEDED max_agents"


async def test_two_replicas_run_no_more_sessions_than_the_tenant_may_have(house: House) -> None:
    house.tenants.set(TENANT, quotas=Quotas(max_concurrent_runs=3))
    async with AsyncExitStack() as stack:
        one, two = await house.replica(stack, name="one"), await house.replica(stack, name="two")
        for replica in (one, two):
            replica.calls.open.clear()
        await create_agent(one, "Ada")
        outcomes = await at_both(one, two, lambda replica, _: start_session(replica))
        assert sorted(outcomes) == sorted([DONE] * 3 + ["QUOTA_EXCEEDED max_concurrent_runs"] * (2 * CALLS - 3))
        listed = await one.sessions.ListSessions(pb.ListSessionsRequest(), metadata=one.as_tenant(TENANT))
        assert len(listed.sessions) == 3

        # What ends at one makes room at the other.
        cancel = pb.CancelSessionRequest(session_id=listed.sessions[0].session_id)
        await one.sessions.CancelSession(cancel, metadata=one.as_tenant(TENANT))
        async with asyncio.timeout(20):
            while await outcome(start_session(two)) != DONE:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await outcome(start_session(one)) == "QUOTA_EXCEEDED max_concurrent_runs"
