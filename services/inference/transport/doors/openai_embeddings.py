"""`/v1/embeddings`: requests of OpenAI's dialect, and answers in it. Pure."""

import base64
import re
import struct
from typing import Final, Literal

import msgspec

from services.inference.transport.doors.bodies import read
from services.inference.usecases.embed import Vectors
from services.meshkit.core.errors import Invalid

_TEXTS: Final = re.compile(r"^texts")


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request. Texts that a client has cut into tokens are not taken: each model cuts in its own way."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


_DECODER: Final = msgspec.json.Decoder(EmbeddingRequest)


def embedding_request(body: bytes) -> EmbeddingRequest:
    """Reads a request.

    Raises: UnknownField, Invalid, naming the field.
    """
    return read(body, _DECODER)


def in_dialect(refused: Invalid) -> Invalid:
    """Gives the same refusal with the name that the field has in the request."""
    return refused.about(_TEXTS.sub("input", refused.field or "body"))


def embeddings(made: Vectors, request: EmbeddingRequest) -> bytes:
    """Writes vectors, as numbers or as the base64 of little-endian float32."""
    written = [
        {"object": "embedding", "index": index, "embedding": _written(vector, request.encoding_format)}
        for index, vector in enumerate(made.vectors)
    ]
    tokens = made.usage.total
    return msgspec.json.encode(
        {
            "object": "list",
            "data": written,
            "model": made.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _written(vector: tuple[float, ...], form: str | None) -> object:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if form == "base64" else vector
