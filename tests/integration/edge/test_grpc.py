"""gRPC, reflection, health and gRPC-Web through a real Envoy."""

import asyncio
import json
import struct
import sys
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from comitia.gateway.v1 import identity_service_pb2 as identity
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2
from comitia.orchestrator.v1.agent_service_pb2_grpc import AgentServiceStub
from services.meshkit.grpc.errors import remote_error
from tests.integration.edge.conftest import Outside

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET_AGENT = "/comitia.orchestrator.v1.AgentService/GetAgent"


async def grpcurl(outside: Outside, *arguments: str, say: str = "") -> tuple[int, str]:
    """Runs grpcurl against the edge; gives its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("grpcurl")),
        *("-plaintext", "-H", f"authorization: Bearer {outside.token}", *(("-d", say) if say else ())),
        *(outside.edge.address if argument == "EDGE" else argument for argument in arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_a_native_call_passes(outside: Outside) -> None:
    async with grpc.aio.insecure_channel(outside.edge.address) as channel:
        me = await IdentityServiceStub(channel).WhoAmI(
            identity.WhoAmIRequest(), metadata=(("authorization", f"Bearer {outside.token}"),)
        )
        by_key = await IdentityServiceStub(channel).WhoAmI(
            identity.WhoAmIRequest(), metadata=(("x-api-key", outside.gateway.admin_key),)
        )
    assert me == by_key
    assert me.subject.startswith("key_")


async def test_an_error_of_a_service_keeps_its_details(outside: Outside) -> None:
    async with grpc.aio.insecure_channel(outside.edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await AgentServiceStub(channel).GetAgent(
                agent_service_pb2.GetAgentRequest(name="nobody"),
                metadata=(("authorization", f"Bearer {outside.token}"),),
            )
    error = remote_error(raised.value)
    assert (raised.value.code(), error.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert error.metadata["resource_name"] == "nobody"


@pytest.mark.parametrize("size", [4 * 1024 * 1024 + 1, 5_000_000, 20_000_000])
async def test_a_message_beyond_four_megabytes_is_refused(outside: Outside, size: int) -> None:
    request = agent_service_pb2.CreateAgentRequest(agent=agent_pb2.Agent(description="x" * size))
    async with grpc.aio.insecure_channel(outside.edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await AgentServiceStub(channel).CreateAgent(
                request, metadata=(("authorization", f"Bearer {outside.token}"),)
            )
    error = remote_error(raised.value)
    assert (raised.value.code(), error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    assert error.metadata == {"limit_bytes": str(4 * 1024 * 1024)}


async def test_a_message_just_below_four_megabytes_passes(outside: Outside) -> None:
    agent = agent_pb2.Agent(description="x" * 4_190_000)
    async with grpc.aio.insecure_channel(
        outside.edge.address, options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        answer = await AgentServiceStub(channel).CreateAgent(
            agent_service_pb2.CreateAgentRequest(agent=agent), metadata=(("authorization", f"Bearer {outside.token}"),)
        )
    assert answer.agent == agent


async def test_grpcurl_lists_the_public_services_of_all_seven(outside: Outside) -> None:
    code, listed = await grpcurl(outside, "EDGE", "list")
    public = {path.split("/")[1] for path, guard in GUARDS.items() if not guard.peers}
    assert code == 0, listed
    assert public <= set(listed.split())
    assert {name.split(".")[1] for name in listed.split() if name.startswith("comitia.")} == {
        *("gateway", "orchestrator", "inference", "policy", "memory", "tools", "cost")
    }


async def test_grpcurl_describes_public_rpcs_and_no_internal_one(outside: Outside) -> None:
    code, described = await grpcurl(outside, "EDGE", "describe", "comitia.gateway.v1.IdentityService")
    assert code == 0, described
    assert "rpc WhoAmI" in described
    assert "IssueGrant" not in described
    code, described = await grpcurl(outside, "EDGE", "describe", "comitia.cost.v1.GetCostSummaryRequest")
    assert code == 0, described


@pytest.mark.parametrize(
    ("symbol", "kind"),
    [
        ("comitia.orchestrator.v1.SessionService.StartSession", "a method"),
        ("comitia.orchestrator.v1.Agent.instructions", "a field"),
        ("comitia.orchestrator.v1.WatchSessionResponse.event", "a one-of"),
        ("comitia.orchestrator.v1.SessionState.SESSION_STATE_FAILED", "an enum value"),
    ],
)
async def test_grpcurl_describes_what_is_inside(outside: Outside, symbol: str, kind: str) -> None:
    code, described = await grpcurl(outside, "EDGE", "describe", symbol)
    assert (code, f"{symbol} is {kind}" in described) == (0, True), described


@pytest.mark.parametrize(
    "symbol",
    [
        "comitia.gateway.v1.IdentityService.IssueGrant",
        "comitia.orchestrator.v1.SessionService.Nothing",
        "comitia.orchestrator.v1.SessionState.NOTHING",
        "comitia",
        "nothing",
    ],
)
async def test_grpcurl_describes_nothing_that_is_internal_or_absent(outside: Outside, symbol: str) -> None:
    code, described = await grpcurl(outside, "EDGE", "describe", symbol)
    assert code != 0
    assert "not found" in described


async def test_grpcurl_calls_by_reflection_alone(outside: Outside) -> None:
    code, answer = await grpcurl(
        outside, "EDGE", "comitia.orchestrator.v1.AgentService/GetAgent", say='{"name": "Athena"}'
    )
    assert code == 0, answer
    assert json.loads(answer)["agent"]["name"] == "Athena"


async def test_health_of_the_gateway_is_open(outside: Outside) -> None:
    stub: Any = health_pb2_grpc.HealthStub  # untyped generated code
    async with grpc.aio.insecure_channel(outside.edge.address) as channel:
        answer = await stub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("token", ["good", "none"])
@pytest.mark.parametrize("name", ["Athena", "nobody"])
async def test_grpc_web_speaks_frames_and_ends_with_trailers(outside: Outside, name: str, token: str) -> None:
    message = agent_service_pb2.GetAgentRequest(name=name).SerializeToString()
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    if token == "good":
        headers |= outside.bearer
    async with outside.http.post(
        outside.edge.url + GET_AGENT, data=b"\x00" + struct.pack(">I", len(message)) + message, headers=headers
    ) as answer:
        body, status = await answer.read(), dict(answer.headers)
    assert answer.status == 200
    assert answer.content_type.startswith("application/grpc-web")
    frames = dict(split(body))
    trailers = {**{key.lower(): value for key, value in status.items()}, **read_trailers(frames.get(0x80, b""))}
    expected = "16" if token == "none" else {"Athena": "0", "nobody": "5"}[name]
    assert trailers["grpc-status"] == expected
    if expected == "0":
        assert agent_service_pb2.GetAgentResponse.FromString(frames[0]).agent.name == "Athena"
    else:
        assert "grpc-status-details-bin" in trailers


def split(body: bytes) -> list[tuple[int, bytes]]:
    """Splits gRPC-Web frames into flag and payload."""
    frames: list[tuple[int, bytes]] = []
    while body:
        flag, size = struct.unpack(">BI", body[:5])
        frames.append((flag, body[5 : 5 + size]))
        body = body[5 + size :]
    return frames


def read_trailers(payload: bytes) -> dict[str, str]:
    lines = [line.partition(":") for line in payload.decode().splitlines() if line]
    return {key.strip().lower(): value.strip() for key, _, value in lines}


async def test_browsers_of_other_origins_are_told_nothing(outside: Outside) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    async with aiohttp.ClientSession() as http, http.options(outside.edge.url + GET_AGENT, headers=headers) as answer:
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
