"""A worker's stream in raw bytes, so that a test can say anything on it."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc.aio

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.errors import remote_error

WORK = "/comitia.orchestrator.v1.WorkerService/Work"


class Stream:
    """One worker's."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, message: pb.WorkRequest | bytes) -> None:
        """Sends a frame. Why a stream has been ended meanwhile is told to who reads."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def hello(self, *steps: str, credits: int = 4, held: Any = (), projects: Any = ()) -> "Stream":
        """Says who works."""
        hello = pb.WorkerHello(worker="w-1", steps=steps or ("charge",), credits=credits, held=held, projects=projects)
        await self.send(pb.WorkRequest(hello=hello))
        return self

    async def says(self, *outcomes: pb.StepOutcome) -> None:
        """Sends outcomes."""
        await self.send(pb.WorkRequest(outcomes=pb.StepOutcomes(outcomes=outcomes)))

    async def hears(self) -> pb.WorkResponse:
        """Reads a frame. Raises: MeshError: the stream was ended with it; EOFError: it ended well."""
        try:
            async with asyncio.timeout(5):
                raw = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise remote_error(error) from error
        if not isinstance(raw, bytes):
            raise EOFError
        return pb.WorkResponse.FromString(raw)

    async def refusal(self) -> MeshError:
        """Reads on until the stream is ended; says with what."""
        try:
            while True:
                await self.hears()
        except MeshError as error:
            return error
