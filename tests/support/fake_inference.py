"""Inference as memory sees it: embeds by hashing, on the real RPC, under the real guard."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from comitia.guard_table import GUARDS
from comitia.inference.v1 import generation_pb2
from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.server import Server, serve
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.support.hashing_embedder import vector_of


class FakeInference(InferenceServiceServicer):
    """Embeds; remembers for whom and what."""

    def __init__(self) -> None:
        self.faults = FaultQueue()
        self.model = "hashing-384"
        self.dimensions = 384
        #: Callers and requests, in order.
        self.asked: list[tuple[Caller, pb.EmbedRequest]] = []
        #: Answers wait while this is not set.
        self.answers = asyncio.Event()
        self.answers.set()
        self.target = ""

    @property
    def texts(self) -> list[str]:
        """Everything embedded so far."""
        return [text for _, request in self.asked for text in request.texts]

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self.asked.append((caller_of(context), request))
        await self.answers.wait()
        self.faults.hit()
        if not request.texts or any(not text.strip() for text in request.texts):
            raise Invalid("texts", "must not be blank")
        made = [generation_pb2.Embedding(values=vector_of(text, self.dimensions)) for text in request.texts]
        return pb.EmbedResponse(embeddings=made, model=self.model)


@asynccontextmanager
async def fake_inference(keys: MeshKeys, *, port: int = 0) -> AsyncGenerator[FakeInference]:
    """Serves while the block runs."""
    inference = FakeInference()  # pyright: ignore[reportAbstractUsage]  # only what memory calls
    server = Server(
        name="inference",
        listen=f"127.0.0.1:{port}",
        registrations=(partial(add_InferenceServiceServicer_to_server, inference),),
        admission=keys.admission(GUARDS),
        drain_seconds=0.2,
    )
    async with serve(server) as running:
        inference.target = f"127.0.0.1:{running.port}"
        yield inference
