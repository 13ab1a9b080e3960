"""Language and embedding models."""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import (
    generation_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from comitia_sdk.connection import Connection

#: Longest wait for a model's answer, seconds.
_MODEL_TIMEOUT: Final = 300.0


class AsyncModels:
    """Language and embedding models, under law and money."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._models = model_service_pb2_grpc.ModelServiceStub(connection.channel)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(connection.channel)

    async def list(self) -> Sequence[model_pb2.ModelDeployment]:
        """Gives the models in the order in which the default chain asks them."""
        request = model_service_pb2.ListModelsRequest()
        return (await self._connection.call(self._models.ListModels, request)).models

    async def generate(self, prompt: str, *, model: str = "", max_output_tokens: int = 0) -> generation_pb2.Generation:
        """Asks a model and waits for the whole answer. Raises: PermissionDenied, LimitReached, FailedPrecondition."""
        request = inference_service_pb2.GenerateRequest(
            model=model, messages=[_user_message(prompt)], max_output_tokens=max_output_tokens
        )
        answer = await self._connection.call(self._inference.Generate, request, timeout=_MODEL_TIMEOUT)
        return answer.generation

    async def stream(
        self, prompt: str, *, model: str = "", max_output_tokens: int = 0
    ) -> AsyncGenerator[inference_service_pb2.StreamGenerateResponse]:
        """Asks a model and gives its answer as it comes; the last message is the whole answer."""
        request = inference_service_pb2.StreamGenerateRequest(
            model=model, messages=[_user_message(prompt)], max_output_tokens=max_output_tokens
        )
        async for event in self._connection.stream(self._inference.StreamGenerate, request, timeout=_MODEL_TIMEOUT):
            yield event

    async def count_tokens(self, prompt: str, *, model: str = "") -> int:
        """Gives the most tokens that a prompt can count as; money is held for so many."""
        request = inference_service_pb2.CountTokensRequest(model=model, messages=[_user_message(prompt)])
        return (await self._connection.call(self._inference.CountTokens, request)).input_tokens_bound

    async def embed(self, texts: Sequence[str], *, model: str = "") -> Sequence[Sequence[float]]:
        """Embeds texts as unit vectors."""
        request = inference_service_pb2.EmbedRequest(texts=texts, model=model)
        answer = await self._connection.call(self._inference.Embed, request, timeout=_MODEL_TIMEOUT)
        return [list(embedding.values) for embedding in answer.embeddings]


def _user_message(text: str) -> content_pb2.Message:
    part = content_pb2.Part(text=content_pb2.TextPart(text=text))
    return content_pb2.Message(role=content_pb2.MESSAGE_ROLE_USER, parts=[part])
