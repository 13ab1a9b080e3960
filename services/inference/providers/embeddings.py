"""Embeddings in OpenAI's dialect: OpenAI itself, compatible servers and the local model process."""

import math
from typing import Final

import msgspec

from services.inference.domain.deployment import Deployment
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai import Endpoint
from services.inference.usecases.ports import Embedded
from services.meshkit.calls.ports import Clearance
from services.meshkit.content import Usage


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_DECODER: Final = msgspec.json.Decoder(_Answer)


class OpenAiEmbeddings:
    """Asks for vectors."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def embed(
        self, deployment: Deployment, texts: tuple[str, ...], clearance: Clearance, *, seconds: float
    ) -> Embedded:
        """See `EmbeddingProvider.embed`."""
        body = msgspec.json.encode({"model": deployment.model, "input": list(texts), "encoding_format": "float"})
        url = f"{self._endpoint.base_url}/embeddings"
        raw = await self._http.body(deployment.name, url, self._endpoint.headers(), body, clearance, seconds=seconds)
        try:
            answer = _DECODER.decode(raw)
        except msgspec.MsgspecError as cause:
            raise failures.garbage(deployment.name) from cause
        said = answer.usage.prompt_tokens if answer.usage is not None else 0
        usage = Usage(input=said) if said > 0 else None
        vectors = tuple(_unit(item.embedding) for item in sorted(answer.data, key=lambda item: item.index))
        sizes = {len(vector) for vector in vectors}
        if len(vectors) != len(texts) or len(sizes) != 1 or 0 in sizes:
            raise failures.garbage(deployment.name, usage=usage)
        return Embedded(vectors=vectors, usage=usage)


def _unit(vector: list[float]) -> tuple[float, ...]:
    """Gives the vector at length 1; one without direction becomes empty, which no caller takes."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length) or length == 0:
        return ()
    return tuple(value / length for value in vector)
