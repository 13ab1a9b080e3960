"""Asks inference for vectors, with the caller's token."""

from array import array
from collections.abc import Sequence

import grpc.aio

from comitia.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from services.memory.domain.vector import Embedding, Space
from services.meshkit.content import CallContext
from services.meshkit.content.proto import context_to_proto
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors


class InferenceEmbedder:
    """Embeds with `InferenceService.Embed`. An `Embedder`.

    Args:
        model: `default`, or a name from ListModels.
    """

    def __init__(self, channel: grpc.aio.Channel, *, model: str) -> None:
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self._model = model

    async def embed(
        self, principal: Principal, context: CallContext, texts: Sequence[str], *, seconds: float
    ) -> Sequence[Embedding]:
        """See `Embedder.embed`."""
        request = inference_service_pb2.EmbedRequest(context=context_to_proto(context), texts=texts, model=self._model)
        with remote_errors():
            answer = await self._inference.Embed(request, timeout=seconds, metadata=call_metadata(principal))
        lengths = {len(made.values) for made in answer.embeddings}
        if len(answer.embeddings) != len(texts) or len(lengths) != 1 or 0 in lengths:
            # Vectors that cannot be told apart are worse than none.
            raise Unavailable("inference", texts=len(texts), embeddings=len(answer.embeddings))
        space = Space(model=answer.model, dimensions=lengths.pop())
        return [Embedding(space, array("f", made.values)) for made in answer.embeddings]
