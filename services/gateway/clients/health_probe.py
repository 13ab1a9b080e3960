"""Asks a service for its health by `grpc.health.v1`."""

from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.gateway.usecases.ports import Health

_PROBE_SECONDS: Final = 2.0


class GrpcHealthProbe:
    """Implements `usecases.ports.HealthProbe` over a channel to the service."""

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self.name = name
        make: Any = health_pb2_grpc.HealthStub
        self._stub = make(channel)

    async def __call__(self) -> Health:
        """See `HealthProbe`."""
        try:
            answer = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS)
        except grpc.aio.AioRpcError:
            return Health.UNREACHABLE
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return Health.SERVING if serving else Health.NOT_SERVING
