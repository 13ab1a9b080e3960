"""Health per service (`grpc.health.v1`), with watches that end when the server drains."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Tells whether the services of one server take work. The service named "" stands for all of them.

    grpcio-health-checking has one too; its watches never end, so every drain would wait for them to the last second.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self._draining = False
        self._changed = asyncio.Condition()

    @property
    def serving(self) -> bool:
        """Tells whether all services of the server take work."""
        return self._serving

    async def set_serving(self, serving: bool) -> None:
        """Changes the state of all services of the server. Nothing brings a draining server back."""
        async with self._changed:
            self._serving = serving and not self._draining
            self._changed.notify_all()

    async def drain(self) -> None:
        """Ends all watches with NOT_SERVING, for good."""
        async with self._changed:
            self._serving, self._draining = False, True
            self._changed.notify_all()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """See `grpc.health.v1.Health`."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=self._state(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse]:
        """See `grpc.health.v1.Health`."""
        told: int | None = None
        while True:
            state = self._state(request.service)
            if state != told:
                told = state
                yield health_pb2.HealthCheckResponse(status=state)
            async with self._changed:
                if self._draining:
                    return
                if self._state(request.service) == told:
                    await self._changed.wait()

    def _state(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self._serving else _NOT_SERVING
