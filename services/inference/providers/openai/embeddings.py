"""Embeddings in OpenAI's dialect: OpenAI itself, compatible servers and the local model process."""

import math
from typing import Final

import msgspec

from services.inference.domain.deployment import DeploymentVersion
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.ports import Embedded
from services.meshkit.calls.ports import Clearance
from services.meshkit.content import Usage


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int | None = None


class _Answer(msgspec.Struct):
    data: list[_Vector]
    # Read apart: counts that make no sense spoil no vectors.
    usage: msgspec.Raw = msgspec.Raw()


_DECODER: Final = msgspec.json.Decoder(_Answer)
_USAGE: Final = msgspec.json.Decoder(_Usage | None)


class OpenAiEmbeddings:
    """Asks for vectors."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def embed(
        self, deployment: DeploymentVersion, texts: tuple[str, ...], clearance: Clearance, *, seconds: float
    ) -> Embedded:
        """See `EmbeddingProvider.embed`."""
        body = msgspec.json.encode({"model": deployment.model, "input": list(texts), "encoding_format": "float"})
        url = f"{self._endpoint.base_url}/embeddings"
        raw = await self._http.body(deployment.name, url, self._endpoint.headers(), body, clearance, seconds=seconds)
        try:
            answer = _DECODER.decode(raw)
        except failures.UNREADABLE as cause:
            raise failures.garbage(deployment.name) from cause
        usage = _usage_of(answer.usage)
        vectors = tuple(_unit(item.embedding) for item in sorted(answer.data, key=lambda item: item.index))
        sizes = {len(vector) for vector in vectors}
        if len(vectors) != len(texts) or len(sizes) != 1 or 0 in sizes:
            raise failures.garbage(deployment.name, usage=usage)
        return Embedded(vectors=vectors, usage=usage)


def _usage_of(said: msgspec.Raw) -> Usage | None:
    """Gives the tokens; None when they were not said, or make no sense."""
    try:
        counts = _USAGE.decode(said) if bytes(said) else None
    except failures.UNREADABLE:
        return None
    if counts is None or counts.prompt_tokens == 0 or counts.total_tokens not in (None, counts.prompt_tokens):
        return None
    usage = Usage(input=counts.prompt_tokens)
    return usage if usage.plausible else None


def _unit(vector: list[float]) -> tuple[float, ...]:
    """Gives the vector at length 1; one without direction becomes empty, which no caller takes."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length) or length == 0:
        return ()
    return tuple(value / length for value in vector)
