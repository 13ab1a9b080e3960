"""Asks a service for its health by `grpc.health.v1`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.gateway.usecases.ports import Health
from services.meshkit.grpc.channel import bare_channel
from services.meshkit.grpc.tls import MeshTls

_PROBE_SECONDS: Final = 2.0


class GrpcHealthProbe:
    """Implements `usecases.ports.HealthProbe`."""

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self._name = name
        make: Any = health_pb2_grpc.HealthStub
        self._stub = make(channel)

    @property
    def name(self) -> str:
        """See `HealthProbe.name`."""
        return self._name

    async def __call__(self) -> Health:
        """See `HealthProbe`."""
        try:
            answer = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS)
        except grpc.aio.AioRpcError:
            return Health.UNREACHABLE
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return Health.SERVING if serving else Health.NOT_SERVING


@asynccontextmanager
async def health_probe(name: str, target: str, *, tls: MeshTls | None) -> AsyncGenerator[GrpcHealthProbe]:
    """Opens a channel for probes only.

    Not `meshkit.grpc.channel.channel`: that one keeps calls away from a service that says NOT_SERVING, which is just
    what a probe wants to hear. Looks again every second at a service that is away.

    Args:
        tls: shown to the service, which has to show its own; None speaks plain text.
    """
    options = [("grpc.max_reconnect_backoff_ms", 1000)]
    async with bare_channel(target, tls=tls, options=options) as opened:
        yield GrpcHealthProbe(name, opened)
