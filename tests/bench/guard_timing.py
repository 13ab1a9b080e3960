"""Measures whether time tells what the text of a refusal does not: that another tenant has what was asked for.

A whole mesh, asked at the services themselves, where nothing is between the caller and the difference. For each kind
one call with an id that another tenant has and one with an id that nobody has, in turn, in an order that is drawn anew
for each pair. The difference of the medians stands beside the range in which chance leaves it: time tells nothing as
long as that holds 0.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final
from uuid import uuid4

import grpc.aio
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from comitia.gateway.v1 import identity_service_pb2
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.memory.v1 import memory_service_pb2
from comitia.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from comitia.orchestrator.v1 import session_service_pb2
from comitia.orchestrator.v1.session_service_pb2_grpc import SessionServiceStub
from comitia_sdk.aio import AsyncClient
from services.launcher.services import SERVICES
from services.meshkit.core.ids import SystemIds
from tests.support.mesh import RunningMesh, running_mesh

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
PAIRS: Final = 400 if SHORT else 3_000
_DRAWS: Final = 400
#: Pairs before anything is measured.
_WARM: Final = 50
#: Things of each kind that the other tenant has.
_OWNED: Final = 8
_IDS: Final = SystemIds()

Figure = Callable[..., None]
Ask = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Something that is asked for by its id."""

    name: str
    ask: Ask
    #: Ids, or keys, that somebody else has; gives another one each time.
    theirs: Callable[[], str]
    #: One that nobody has.
    nobodys: Callable[[], str]


async def measure(figure: Figure) -> None:
    """Measures all kinds."""
    # Rates have figures of their own; here each call is to be answered.
    environment = {f"COMITIA_{service.upper()}_RATE_FACTOR": "10000" for service in SERVICES}
    with ExitStack() as stack:
        # It runs a loop of its own while it comes up.
        mesh = await asyncio.to_thread(stack.enter_context, running_mesh(environment=environment))
        async with kinds(mesh) as found:
            for kind in found:
                await _report(figure, kind)


async def _report(figure: Figure, kind: Kind) -> None:
    theirs: list[float] = []
    nobodys: list[float] = []
    for number in range(_WARM + PAIRS):
        pair = [(kind.theirs(), theirs), (kind.nobodys(), nobodys)]
        random.shuffle(pair)
        for asked, times in pair:
            began = time.perf_counter()
            await kind.ask(asked)
            if number >= _WARM:
                times.append((time.perf_counter() - began) * 1e6)
    middle = statistics.median(nobodys)
    difference = statistics.median(theirs) - middle
    low, high = _interval(theirs, nobodys)
    figure(
        f"refusal_time_difference_{kind.name}",
        difference,
        "us",
        better="lower",
        note=f"{difference / middle:+.2%} of {middle:.0f} us; 95 % sure of {low:+.0f} to {high:+.0f} us; {PAIRS} pairs",
    )


def _interval(theirs: Sequence[float], nobodys: Sequence[float]) -> tuple[float, float]:
    """Gives what the difference of the medians is in 95 of 100 samples drawn anew from what was measured."""
    drawn = sorted(
        statistics.median(random.choices(theirs, k=len(theirs)))
        - statistics.median(random.choices(nobodys, k=len(nobodys)))
        for _ in range(_DRAWS)
    )
    return drawn[_DRAWS // 40], drawn[-_DRAWS // 40]


@asynccontextmanager
async def kinds(mesh: RunningMesh) -> AsyncGenerator[Sequence[Kind]]:
    """Makes two tenants and gives what one of them has to be asked for by the other."""
    services = mesh.addresses.services
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(AsyncClient(mesh.url, api_key=mesh.admin_key))
        clients = [
            await stack.enter_async_context(
                AsyncClient(mesh.url, api_key=(await operator.tenants.create(f"timing-{name}")).admin_api_key)
            )
            for name in ("owner", "stranger")
        ]
        owner, stranger = clients
        metadata = (("authorization", f"Bearer {await stranger.identity.token()}"),)
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(services[name]))
            for name in ("gateway", "memory", "orchestrator")
        }
        agent = await owner.agents.create("Ada")
        sessions: list[str] = []
        while len(sessions) < _OWNED:
            sessions.append((await owner.sessions.start("Rivers", agents=[agent.name], max_rounds=1)).session_id)
            async for _ in owner.sessions.watch(sessions[-1]):
                pass
        memories = [(await owner.memories.remember(f"A memory {number}.")).memory_id for number in range(_OWNED)]
        keys = [(await owner.identity.create_key(f"key {number}")) for number in range(_OWNED)]
        session_stub: Any = SessionServiceStub(channels["orchestrator"])
        memory_stub: Any = MemoryServiceStub(channels["memory"])
        identity: Any = IdentityServiceStub(channels["gateway"])
        # The package xds-protos brings no types.
        edge: Any = external_auth_pb2_grpc.AuthorizationStub(channels["gateway"])  # type: ignore[no-untyped-call]

        async def session(asked: str) -> None:
            request = session_service_pb2.GetSessionRequest(session_id=asked)
            await _not_found(session_stub.GetSession(request, metadata=metadata))

        async def memory(asked: str) -> None:
            request = memory_service_pb2.GetMemoryRequest(memory_id=asked)
            await _not_found(memory_stub.GetMemory(request, metadata=metadata))

        async def api_key(asked: str) -> None:
            request = identity_service_pb2.RevokeApiKeyRequest(api_key_id=asked, request_id=str(uuid4()))
            await _not_found(identity.RevokeApiKey(request, metadata=metadata))

        async def at_the_edge(asked: str) -> None:
            pb: Any = external_auth_pb2
            request = pb.CheckRequest()
            request.attributes.request.http.headers["x-api-key"] = asked
            # From another address each time: one that sends many wrong keys has to wait.
            request.attributes.source.address.socket_address.address = ".".join(
                str(random.randrange(1, 255)) for _ in range(4)
            )
            answer = await edge.Check(request)
            assert answer.denied_response.status.code == 401, answer

        def wrong_secret(key_id: str) -> str:
            return f"ck_{key_id.removeprefix('key_')}_{token_hex(32)}"

        key_ids = [key.api_key.api_key_id for key in keys]
        yield [
            Kind(name="session", ask=session, theirs=lambda: random.choice(sessions), nobodys=lambda: _IDS.new("run")),
            Kind(name="memory", ask=memory, theirs=lambda: random.choice(memories), nobodys=lambda: _IDS.new("memory")),
            Kind(name="api_key", ask=api_key, theirs=lambda: random.choice(key_ids), nobodys=lambda: _IDS.new("key")),
            Kind(
                name="key_at_the_edge",
                ask=at_the_edge,
                theirs=lambda: wrong_secret(random.choice(key_ids)),
                nobodys=lambda: wrong_secret(_IDS.new("key")),
            ),
        ]


async def _not_found(call: Awaitable[object]) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return
        raise
    raise AssertionError("it was answered")
