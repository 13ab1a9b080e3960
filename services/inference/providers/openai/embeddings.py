"""Embeddings in OpenAI's dialect: OpenAI itself, compatible servers and the local model process."""

import math
from typing import Annotated, Final

import msgspec

from services.inference.domain.deployment import DeploymentVersion
from services.inference.providers import failures
from services.inference.providers.http import MAX_BODY_BYTES, ProviderHttp
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.ports import Embedded
from services.meshkit.calls.ports import Clearance
from services.meshkit.content import Usage

#: Longest vector, components: more than any model gives that we know of.
MAX_COMPONENTS: Final = 8_192
#: How a component is written at its longest, with its comma, and what stands around all vectors.
_COMPONENT_BYTES: Final = 24
_AROUND_BYTES: Final = 64 * 1024
#: Commas around the components of each vector, and around all of them.
_COMMAS_AROUND: Final = 64


class _Vector(msgspec.Struct):
    embedding: Annotated[list[float], msgspec.Meta(max_length=MAX_COMPONENTS)]
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
        raw = await self._http.body(
            deployment.name,
            url,
            self._endpoint.headers(),
            body,
            clearance,
            seconds=seconds,
            most_bytes=min(MAX_BODY_BYTES, len(texts) * MAX_COMPONENTS * _COMPONENT_BYTES + _AROUND_BYTES),
        )
        # Short components would be many more than their bytes let expect; decoded, each takes 32 bytes.
        if raw.count(b",") > len(texts) * (MAX_COMPONENTS + _COMMAS_AROUND) + _COMMAS_AROUND:
            raise failures.garbage(deployment.name)
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
