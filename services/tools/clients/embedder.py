"""Asks inference for vectors, with the caller's token and money."""

from collections.abc import Sequence

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from services.meshkit.core.errors import DeadlineExceeded, Internal
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors
from services.tools.usecases.ports import Embedded


class InferenceEmbedder:
    """Embeds by inference's default chain. An `Embedder`."""

    def __init__(self, inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub", *, ids: IdSource) -> None:
        self._inference = inference
        self._ids = ids

    async def embed(self, principal: Principal, texts: Sequence[str], *, seconds: float) -> Embedded:
        """See `Embedder.embed`."""
        if seconds <= 0:
            raise DeadlineExceeded("the time for embedding is used up")
        call_id = content_pb2.CallId(run_id=principal.run_id or self._ids.new("direct"), path="tools/search")
        context = content_pb2.CallContext(call_id=call_id)
        request = inference_service_pb2.EmbedRequest(context=context, texts=texts)
        with remote_errors():
            answer = await self._inference.Embed(request, timeout=seconds, metadata=call_metadata(principal))
        if len(answer.embeddings) != len(texts):
            raise Internal("inference gave not as many vectors as texts")
        return Embedded(vectors=tuple(tuple(made.values) for made in answer.embeddings), model=answer.model)
