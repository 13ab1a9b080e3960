"""Puts together what tells of the mesh: how its services are, and their contracts. A part of the wiring."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from comitia.gateway.v1.status_service_pb2_grpc import add_StatusServiceServicer_to_server
from comitia.guard_table import GUARDS
from services.gateway.clients.health_probe import health_probe
from services.gateway.transport import edge_reflection
from services.gateway.transport.status_servicer import StatusServicer
from services.gateway.usecases.mesh_status import MeshStatus
from services.gateway.wiring.ground import Ground, mesh
from services.meshkit.grpc.server import Registration


@asynccontextmanager
async def mesh_status(on: Ground) -> AsyncGenerator[Sequence[Registration]]:
    """Gives the services of both."""
    settings = on.settings
    async with AsyncExitStack() as stack:
        probe = partial(health_probe, tls=on.workload.tls)
        probes = [await stack.enter_async_context(probe(name, target)) for name, target in mesh(settings).items()]
        status = StatusServicer(
            status=MeshStatus(probes), version=version("comitia"), openapi=settings.openapi_path.read_bytes()
        )

        def reflection(server: Any) -> None:
            descriptors = settings.descriptors_path.read_bytes()
            edge_reflection.add_to_server(server, descriptors=descriptors, guards=GUARDS)

        yield partial(add_StatusServiceServicer_to_server, status), reflection
