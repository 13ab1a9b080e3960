"""How many tokens a call can be billed for at most, known before a byte leaves.

A token of the byte-level and SentencePiece vocabularies in use covers at least one byte of the text as the tokeniser
sees it. So the bytes of the prompt bound its tokens, once two things are added: what a tokeniser's normalisation can
make longer (NFKC), and what a provider's template writes around requests, messages and tools. Output is bounded by the
limit that every adapter sends along.

The bound names counts, not money: the cost service prices `input` at the dearest class a prompt token can fall into.
Source: DESIGN section 4; the overheads are generous readings of OpenAI's and Anthropic's published examples, and
`tests/unit/inference/test_money_bound.py` fuzzes them against real vocabularies.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from services.inference.domain.deployment import Adapter, DeploymentVersion
from services.inference.domain.errors import CallNotBounded
from services.inference.domain.media import Size, is_pdf, size_of
from services.inference.domain.output_format import IN_WORDS, OutputFormat, OutputKind
from services.inference.domain.prompt import Prompt, ToolDefinition
from services.meshkit.content import (
    BlobPart,
    DocumentPart,
    ImagePart,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)


class PictureCount(Enum):
    """How a provider counts the tokens of a picture."""

    #: Nobody can say, unless the deployment says how many it takes.
    UNKNOWN = "unknown"
    #: OpenAI: by tiles of 512 pixels, once it is scaled into 2048 x 2048 and to 768 pixels at its shorter side.
    TILES = "tiles"
    #: Anthropic: by area, up to a limit to which it is scaled.
    AREA = "area"


#: What gpt-4o-mini takes for a picture, the most of all models that are counted by tiles; those that are counted by
#: patches take less. Source: OpenAI, "Images and vision", calculating costs.
_TILES_BASE: Final = 2_833
_TILE: Final = 5_667
_MOST_TILES: Final = 8
_FIT: Final = 2_048
_SHORT_SIDE: Final = 768
_TILE_SIDE: Final = 512
#: The largest picture of the models with high resolution takes 4,784. Source: Anthropic, "Vision", image costs.
_MOST_AREA: Final = 5_000
#: No model that reads PDFs has a smaller window, whatever is said of it.
_LEAST_WINDOW: Final = 128_000
_AREA_BASE: Final = 16
#: What introduces a schema that is told in words, bytes.
_SAID_OF_A_SCHEMA: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What a dialect adds to the bytes of a prompt, in tokens."""

    request: int
    message: int
    #: Once, when any tool is shown: the hidden instructions for using tools.
    tools: int
    #: For each tool, besides its name, description and schema.
    tool: int
    #: For each key of a tool's schema: providers rewrite schemas in a syntax of their own.
    schema_key: int = 4
    pictures: PictureCount = PictureCount.UNKNOWN


#: Compatible servers: templates such as Harmony write a page of their own; pictures depend on the model.
_OPENAI: Final = Overhead(request=64, message=16, tools=256, tool=64, pictures=PictureCount.TILES)
_SERVER: Final = Overhead(request=1_024, message=32, tools=1_024, tool=128, schema_key=8)
OVERHEADS: Final[dict[str, Overhead]] = {
    Adapter.OPENAI: _OPENAI,
    Adapter.OPENAI_RESPONSES: _OPENAI,
    Adapter.AZURE: _OPENAI,
    Adapter.ANTHROPIC: Overhead(request=64, message=16, tools=1_024, tool=64, pictures=PictureCount.AREA),
    Adapter.VLLM: _SERVER,
    Adapter.TGI: _SERVER,
    Adapter.OLLAMA: _SERVER,
    Adapter.LLAMA_CPP: _SERVER,
    Adapter.OPENAI_COMPATIBLE: _SERVER,
    Adapter.LOCAL: Overhead(request=256, message=32, tools=1_024, tool=128, schema_key=8),
    Adapter.STUB: Overhead(request=0, message=8, tools=0, tool=64),
}


def overhead_of(adapter: str) -> Overhead:
    """Gives what the dialect of an adapter adds; one that an installation adds is taken for a server nobody knows."""
    return OVERHEADS.get(adapter, _SERVER)


def bound_of(prompt: Prompt, deployment: DeploymentVersion) -> Usage:
    """Gives the most that a call can be billed for.

    Raises: CallNotBounded: a part whose tokens nobody can bound.
    """
    overhead = overhead_of(deployment.adapter)
    tokens, window = overhead.request, 0
    for index, message in enumerate(prompt.messages):
        tokens += overhead.message + _text(message.name)
        for number, part in enumerate(message.parts):
            place = f"messages[{index}].parts[{number}]"
            if is_pdf(part):
                window = _window(deployment, place)
            elif isinstance(part.content, ImagePart):
                tokens += overhead.message + _picture(part.content, deployment, overhead, place)
            else:
                tokens += _part(part, overhead, place)
    if prompt.tools:
        tokens += overhead.tools + sum(_tool(tool, overhead) for tool in prompt.tools)
    if prompt.output_format.kind is not OutputKind.TEXT:
        tokens += _form(prompt.output_format, overhead)
    return Usage(input=max(window, tokens), output=prompt.max_output_tokens)


def bounds_of(prompt: Prompt, deployments: Sequence[DeploymentVersion]) -> list[Usage]:
    """Gives the bounds of those deployments that have one for this prompt.

    Raises: CallNotBounded: none has.
    """
    bounds: list[Usage] = []
    refusals: list[CallNotBounded] = []
    for one in deployments:
        try:
            bounds.append(bound_of(prompt, one))
        except CallNotBounded as error:
            refusals.append(error)
    if not bounds:
        raise refusals[0]
    return bounds


def bounded_everywhere(prompt: Prompt) -> bool:
    """Says whether every deployment can bound this prompt: nothing is in it but text and tools."""
    return not any(
        isinstance(part.content, ImagePart | DocumentPart | BlobPart)
        for message in prompt.messages
        for part in message.parts
    )


def embedding_bound(texts: tuple[str, ...]) -> Usage:
    """Gives the most tokens that embedding these texts can be billed for."""
    return Usage(input=sum(_text(text) + 16 for text in texts))


def _part(part: Part, overhead: Overhead, place: str) -> int:
    match part.content:
        case TextPart(text):
            return _text(text) + 2
        case ToolResultPart(tool_call_id=call, name=name, text=text):
            return overhead.message + _text(call) + _text(name) + _text(text)
        case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
            return overhead.message + _text(call) + _text(name) + _json(dict(arguments), overhead)
        case DocumentPart(media_type="text/plain", data=data, title=title):
            return overhead.message + 4 * len(data) + _text(title)
        case DocumentPart(media_type=media_type):
            raise CallNotBounded(
                f"{place}.document.media_type", f"nobody can bound the tokens of {media_type!r}; send its text instead"
            )
        case BlobPart() | ImagePart():
            raise CallNotBounded(f"{place}.blob", "a blob is not read here; send its content inline")


def _window(deployment: DeploymentVersion, place: str) -> int:
    """Bounds a prompt with a PDF: nobody knows how much is in one, but no prompt is longer than its model's window."""
    if not deployment.context_tokens:
        raise CallNotBounded(
            f"{place}.document.media_type",
            "nobody can bound the tokens of a PDF where the window of the model is not known; send its text instead",
        )
    return max(_LEAST_WINDOW, deployment.context_tokens)


def _picture(picture: ImagePart, deployment: DeploymentVersion, overhead: Overhead, place: str) -> int:
    """Bounds a picture by its size; a size that it does not say is taken for the largest.

    What a deployment says of its pictures raises that, and lowers nothing that is known of its dialect.
    """
    said, size = deployment.image_tokens, size_of(picture)
    known = size.width > 0 and size.height > 0
    match overhead.pictures:
        case PictureCount.TILES:
            return max(said, _TILES_BASE + _TILE * (_tiles(size) if known else _MOST_TILES))
        case PictureCount.AREA:
            return max(said, min(_MOST_AREA, _AREA_BASE + _area(size)) if known else _MOST_AREA)
        case PictureCount.UNKNOWN if said:
            return said
        case PictureCount.UNKNOWN:
            raise CallNotBounded(f"{place}.image", "nobody can bound the tokens that pictures take here")


def _tiles(size: Size) -> int:
    """Counts the tiles of 512 pixels, in whole numbers that are rounded up once.

    A side that is rounded up before the other is scaled by it would make that one too short.
    """
    long, short = max(size.width, size.height), min(size.width, size.height)
    if short * _FIT > _SHORT_SIDE * max(long, _FIT):
        long, short = -(-long * _SHORT_SIDE // short), _SHORT_SIDE
    elif long > _FIT:
        long, short = _FIT, -(-short * _FIT // long)
    return -(-long // _TILE_SIDE) * -(-short // _TILE_SIDE)


def _area(size: Size) -> int:
    """Counts by 750 pixels, or by patches of 28 x 28 that sides are filled up to, whichever are more."""
    return max(-(-size.width * size.height // 750), -(-size.width // 28) * -(-size.height // 28))


def _form(wanted: OutputFormat, overhead: Overhead) -> int:
    """Bounds what says the form of an answer: in the provider's words, or in ours, as a message with the schema."""
    told = 2 * overhead.message + overhead.tools + _text(IN_WORDS) + _SAID_OF_A_SCHEMA + _text(wanted.name)
    return told if wanted.schema is None else told + _json(dict(wanted.schema), overhead)


def _tool(tool: ToolDefinition, overhead: Overhead) -> int:
    return overhead.tool + _text(tool.name) + _text(tool.description) + _json(dict(tool.input_schema), overhead)


def _json(value: object, overhead: Overhead) -> int:
    """Bounds a JSON value however a provider writes it: all its strings, and a toll for each node around them."""
    if isinstance(value, str):
        # A provider may write it with escapes: a character outside ASCII then takes up to twelve bytes.
        return max(_text(value), len(json.dumps(value))) + 4
    if isinstance(value, dict):
        pairs: dict[object, object] = value  # pyright: ignore[reportUnknownVariableType]
        return 4 + sum(
            overhead.schema_key + _json(str(key), overhead) + _json(item, overhead) for key, item in pairs.items()
        )
    if isinstance(value, list | tuple):
        items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return 4 + sum(4 + _json(item, overhead) for item in items)
    return len(str(value)) + 4


def _text(text: str) -> int:
    """Bounds the tokens of a text by its bytes, before or after a tokeniser's normalisation, whichever are more."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if text.isascii():
        return size
    return max(
        size,
        len(unicodedata.normalize("NFKC", text).encode("utf-8", "surrogatepass")),
        len(unicodedata.normalize("NFKD", text).encode("utf-8", "surrogatepass")),
    )
