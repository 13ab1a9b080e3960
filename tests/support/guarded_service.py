"""A service whose doors are guarded as those of all seven: it lists tools, watches sessions, and does nothing else."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import session_service_pb2 as session_pb
from comitia.orchestrator.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    SessionServiceStub,
    add_SessionServiceServicer_to_server,
)
from services.meshkit.core.clock import SystemClock
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.server import Server, Serving, serve
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.settings import ServiceSettings
from services.meshkit.testing.mesh_keys import MeshKeys


class Sessions(SessionServiceServicer):  # the rest answers UNIMPLEMENTED
    """Knows no session; a watch says one thing and then nothing."""

    async def ListSessions(self, request: Any, context: Any) -> session_pb.ListSessionsResponse:
        return session_pb.ListSessionsResponse()

    async def WatchSession(self, request: Any, context: Any) -> AsyncGenerator[session_pb.WatchSessionResponse]:
        yield session_pb.WatchSessionResponse(sequence=1)
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class GuardedService:
    """A guarded service that runs, and a stub that speaks to it as an outside caller."""

    feed: GuardFeed
    sessions: Any
    serving: Serving


@asynccontextmanager
async def guarded_service(
    keys: MeshKeys,
    gateway_target: str,
    *,
    jwks_path: Path | None = None,
    jwks_from_gateway: bool = False,
    guard_path: Path | None = None,
) -> AsyncGenerator[GuardedService]:
    """Runs a service that follows the guard feed of a gateway.

    Args:
        jwks_path: its own key set file; that of `keys` unless given.
        jwks_from_gateway: has the file kept by what the gateway's `GetKeySet` says.
        guard_path: where it keeps what the gateway said last; what `keys` has there says that nobody is revoked.
    """
    clock = SystemClock()
    settings = ServiceSettings.model_validate(
        {
            "listen": "127.0.0.1:0",
            "database_url": "postgresql://nowhere",
            "maintenance_database_url": "postgresql://nowhere",
            "jwks_path": jwks_path or keys.jwks_path,
            "jwks_from_gateway": jwks_from_gateway,
            "workload_key_path": keys.key_path("orchestrator"),
            "workload_jwks_path": keys.workload_jwks_path,
            "gateway_target": gateway_target,
            "guard_wait_seconds": 0,
            "guard_path": guard_path or keys.guard_path,
        }
    )
    workload = keys.workload("orchestrator")
    async with mesh_guard(settings, GUARDS, service="orchestrator", clock=clock, workload=workload) as guard:
        server = Server(
            name="orchestrator",
            listen=settings.listen,
            registrations=(partial(add_SessionServiceServicer_to_server, Sessions()),),  # pyright: ignore[reportAbstractUsage]
            admission=guard.admission,
            background=guard.background,
            drain_seconds=0.2,
        )
        async with (
            serve(server) as serving,
            channel(f"127.0.0.1:{serving.port}", identity=keys.workload("tools")) as opened,
        ):
            yield GuardedService(guard.feed, SessionServiceStub(opened), serving)


async def until_fed(service: GuardedService, *, within_seconds: float = 5.0) -> None:
    """Waits until the service has heard the gateway's whole state."""
    async with asyncio.timeout(within_seconds):
        while service.feed.version == 0:  # noqa: ASYNC110  # the feed has no bell for a first word that changes nothing
            await asyncio.sleep(0.01)
