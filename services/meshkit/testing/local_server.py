"""A real gRPC server inside the test, on a port of its own, with keys of its own."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from services.meshkit.core.clock import Clock, SystemClock
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.guard import Guard
from services.meshkit.grpc.server import Background, Registration, Server, Serving, serve
from services.meshkit.testing.mesh_keys import MeshKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """A server that runs inside the test."""

    running: Serving
    keys: MeshKeys
    #: Carries the assertion of the peer that the test plays.
    channel: grpc.aio.Channel

    @property
    def target(self) -> str:
        """Address of the server."""
        return f"127.0.0.1:{self.running.port}"


@asynccontextmanager
async def local_server(
    *registrations: Registration,
    guards: Mapping[str, Guard],
    folder: Path,
    name: str = "tested",
    peer: str = "inference",
    clock: Clock | None = None,
    background: tuple[Background, ...] = (),
    drain_seconds: float = 2.0,
) -> AsyncGenerator[LocalServer]:
    """Serves these servicers with all layers of the mesh on, and opens a channel to them as the service `peer`.

    Args:
        folder: where the keys are written; a temporary one.
    """
    moment = SystemClock() if clock is None else clock
    keys = MeshKeys.make(folder, clock=moment)
    server = Server(
        name=name,
        listen="127.0.0.1:0",
        registrations=registrations,
        admission=keys.admission(guards),
        background=background,
        drain_seconds=drain_seconds,
    )
    async with serve(server) as running:
        target = f"127.0.0.1:{running.port}"
        async with channel(target, identity=keys.workload(peer)) as opened:
            yield LocalServer(running=running, keys=keys, channel=opened)
