"""Memory as its callers see it: the real service on real Postgres and Milvus Lite; law and embedder are fakes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import grpc.aio
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from comitia.common.v1 import content_pb2
from comitia.memory.v1 import memory_service_pb2 as pb
from comitia.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from services.memory.settings import MemorySettings
from services.memory.wiring import memory
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.server import serve
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import maintenance_scope
from services.meshkit.testing import failpoints
from services.meshkit.testing.mesh_keys import TENANT, MeshKeys
from tests.integration.conftest import MakeDatabase
from tests.support.fake_inference import FakeInference, fake_inference
from tests.support.fake_policy import FakePolicy, fake_policy

SERVICES = ("inference", "orchestrator", "policy", "memory", "gateway")


class TravelClock(SystemClock):
    """Real time, moved ahead by what a test asks for."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What memory depends on; outlives it."""

    keys: MeshKeys
    urls: DatabaseUrls
    law: FakePolicy
    inference: FakeInference
    folder: Path
    clock: TravelClock


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMesh:
    """A running memory service and one caller of it."""

    around: Neighbours
    channel: grpc.aio.Channel
    principal: Principal
    #: Service that calls; None for an outside caller.
    peer: str | None = None

    def speaking_as(
        self, *roles: Role, tenant: TenantId | None = None, peer: str | None = None, **changes: Any
    ) -> "MemoryMesh":
        principal = self.around.keys.principal(*roles, tenant=tenant or self.principal.tenant, **changes)
        return replace(self, principal=principal, peer=peer)

    async def call(self, method: str, request: Any) -> Any:
        """Calls an RPC; a refusal comes as the error that the wire carried."""
        metadata = [("authorization", f"Bearer {self.principal.token.reveal()}")]
        if self.peer is not None:
            metadata.append(("comitia-workload", self.around.keys.workload(self.peer).assertion()))
        try:
            return await getattr(MemoryServiceStub(self.channel), method)(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from None

    async def refused(self, method: str, request: Any) -> str:
        """Calls an RPC that must fail; gives kind, reason and field."""
        try:
            answer = await self.call(method, request)
        except MeshError as error:
            return "/".join(part for part in (error.kind.value, error.reason, error.field) if part)
        raise AssertionError(f"{method} was not refused: {answer}")

    async def remember(self, *texts: str, **changes: Any) -> pb.Memory:
        return (await self.call("Remember", a_remember(*texts, **changes))).memory

    async def recall(self, query: str = "", **changes: Any) -> pb.RecallResponse:
        return await self.call("Recall", pb.RecallRequest(query=query, **changes))

    async def get(self, memory_id: str) -> pb.Memory:
        return (await self.call("GetMemory", pb.GetMemoryRequest(memory_id=memory_id))).memory

    async def page(self, **changes: Any) -> pb.ListMemoriesResponse:
        return await self.call("ListMemories", pb.ListMemoriesRequest(**changes))

    async def forget(self, memory_id: str) -> None:
        await self.call("ForgetMemory", pb.ForgetMemoryRequest(memory_id=memory_id))

    async def embedded(self, *memories: pb.Memory) -> None:
        """Waits until these are found by similarity."""

        async def all_embedded() -> bool:
            return all([(await self.get(one.memory_id)).embedded for one in memories])

        await until(all_embedded)

    async def rows(self, columns: str = "*") -> list[Any]:
        """Reads the table behind the service's back."""
        query = text(f"SELECT {columns} FROM memory ORDER BY create_time")
        async with sql_engine(self.around.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            return list((await scope.execute(query)).all())


class StartMemory(Protocol):
    """Starts memory; what it is given goes into the settings."""

    def __call__(self, **changes: Any) -> AbstractAsyncContextManager[MemoryMesh]: ...


def a_part(words: str, *, integrity: Any = content_pb2.INTEGRITY_USER) -> content_pb2.Part:
    label = content_pb2.Label(
        integrity=integrity, confidentiality=content_pb2.CONFIDENTIALITY_TENANT, sources=["agent:Athena"]
    )
    return content_pb2.Part(text=content_pb2.TextPart(text=words), label=label)


def a_context(path: str = "", *, run_id: str | None = None, **changes: Any) -> content_pb2.CallContext:
    call_id = content_pb2.CallId(run_id=SystemIds().new("essay") if run_id is None else run_id, path=path)
    return content_pb2.CallContext(call_id=call_id, **changes)


def a_remember(*texts: str, **changes: Any) -> pb.RememberRequest:
    parts = [a_part(words) for words in texts or ("Cities should ban cars.",)]
    values: dict[str, Any] = {"parts": parts, "agent_name": "Athena", **changes}
    return pb.RememberRequest(**values)


def a_session() -> str:
    return SystemIds().new("run")


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """Waits for a condition, at most so long."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # the condition lies in a database
            await asyncio.sleep(0.02)


@pytest.fixture
async def around(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[Neighbours]:
    """Gives an empty, migrated database, keys, and the two fakes."""
    urls = await make_migrated("memory")
    clock = TravelClock()
    keys = MeshKeys.make(tmp_path, clock=clock, services=SERVICES)
    create_kek_file(tmp_path / "kek")
    async with fake_policy(keys) as law, fake_inference(keys) as inference:
        yield Neighbours(keys=keys, urls=urls, law=law, inference=inference, folder=tmp_path, clock=clock)


def settings_of(around: Neighbours, **changes: Any) -> MemorySettings:
    values: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "database_url": SecretStr(around.urls.app),
        "maintenance_database_url": SecretStr(around.urls.maintenance),
        "jwks_path": around.keys.jwks_path,
        "workload_key_path": around.keys.key_path("memory"),
        "workload_jwks_path": around.keys.workload_jwks_path,
        "guard_wait_seconds": 0,
        "guard_path": around.keys.guard_path,
        # Rates have tests of their own; here a test may ask as fast as it can.
        "rate_factor": 1000,
        "kek_path": around.folder / "kek",
        "data_dir": around.folder / "vectors",
        "policy_target": around.law.target,
        "inference_target": around.inference.target,
        "embed_look_seconds": 0.0,
        "embed_lease_seconds": 0.5,
        "sweep_seconds": 0.2,
        "check_seconds": 0.5,
        # The library of Milvus takes seconds to import the first time.
        "similarity_seconds": 10.0,
        "drain_seconds": 1.0,
    }
    return MemorySettings.model_validate({**values, **changes})


@pytest.fixture
def start_memory(around: Neighbours) -> StartMemory:
    """Gives a function that starts memory; what was stored is there when it is started again."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[MemoryMesh]:
        async with (
            memory(settings_of(around, **changes), clock=around.clock, ids=SystemIds()) as server,
            serve(server) as running,
            grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
        ):
            yield MemoryMesh(around=around, channel=channel, principal=around.keys.principal(tenant=TENANT))

    return start


@pytest.fixture
async def mesh(start_memory: StartMemory) -> AsyncIterator[MemoryMesh]:
    async with start_memory() as running:
        yield running


@pytest.fixture
def other(mesh: MemoryMesh) -> MemoryMesh:
    """A caller of another tenant."""
    return mesh.speaking_as(tenant=TenantId(uuid4()))


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    """Arms failpoints for the test only."""
    yield failpoints.arm
    failpoints.arm("")
