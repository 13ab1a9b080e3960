"""gRPC face of the state of the mesh."""

from typing import Any

from google.api.httpbody_pb2 import HttpBody

from comitia.gateway.v1 import status_service_pb2 as pb
from comitia.gateway.v1.status_service_pb2_grpc import StatusServiceServicer
from services.gateway.transport import convert
from services.gateway.usecases.mesh_status import MeshStatus
from services.gateway.usecases.ports import Health


class StatusServicer(StatusServiceServicer):
    """Answers how the mesh is and what its REST face looks like.

    Args:
        version: release of this gateway.
        openapi: the document, JSON.
    """

    def __init__(self, *, status: MeshStatus, version: str, openapi: bytes) -> None:
        self._status = status
        self._version = version
        self._openapi = openapi

    async def GetMeshStatus(self, request: pb.GetMeshStatusRequest, context: Any) -> pb.GetMeshStatusResponse:
        """See `status_service.proto`, as the other method."""
        states = await self._status()
        return pb.GetMeshStatusResponse(
            services=[
                pb.GetMeshStatusResponse.Service(name=name, health=convert.health_to_proto(health))
                for name, health in states.items()
            ],
            version=self._version,
            serving=all(health is Health.SERVING for health in states.values()),
        )

    async def GetOpenApi(self, request: pb.GetOpenApiRequest, context: Any) -> HttpBody:
        return HttpBody(content_type="application/json", data=self._openapi)
