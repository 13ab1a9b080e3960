"""What a model is asked."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final, cast

from services.inference.domain.media import (
    as_law_left,
    shown_to_law,
)
from services.inference.domain.output_format import OutputFormat
from services.meshkit.content import (
    BlobPart,
    DocumentPart,
    ImageDetail,
    ImagePart,
    Integrity,
    Label,
    Message,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    join,
    text_part,
)

DEFAULT_OUTPUT_TOKENS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """A tool as it is shown to a model."""

    name: str
    description: str = ""
    #: JSON Schema of its arguments; open by nature.
    input_schema: Mapping[str, object]

    def schema_json(self) -> str:
        """Writes the schema as compact JSON."""
        return _compact(self.input_schema)


class ToolChoiceMode(StrEnum):
    """How free a model is in calling tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    #: It calls the named one.
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Which tools a model may call, and must."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    #: With `TOOL` only.
    name: str = ""


class ReasoningEffort(StrEnum):
    """How long a reasoning model may think."""

    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen, beside the temperature; None is the provider's default."""

    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: ReasoningEffort | None = None

    def asked(self) -> dict[str, object]:
        """Gives what is asked for, by name."""
        if self == _DEFAULT_SAMPLING:
            return {}
        return {name: value for name, value in asdict(self).items() if value is not None}


#: What a prompt says that asks for nothing of these: left out of its identity, so that calls recorded before they were
#: known keep theirs.
_ANY_TOOL: Final = ToolChoice()
_TEXT: Final = OutputFormat()
_DEFAULT_SAMPLING: Final = Sampling()
#: What stands beside the messages is for whoever calls to say, and nobody vouches for it.
_BESIDE: Final = Label(integrity=Integrity.USER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation and how it is to be continued."""

    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    max_output_tokens: int = DEFAULT_OUTPUT_TOKENS
    temperature: float | None = None
    stop_sequences: tuple[str, ...] = ()
    tool_choice: ToolChoice = _ANY_TOOL
    #: None is the provider's default.
    parallel_tool_calls: bool | None = None
    output_format: OutputFormat = _TEXT
    sampling: Sampling = _DEFAULT_SAMPLING

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of all messages, in order: what the law looks at."""
        return tuple(part for message in self.messages for part in message.parts)

    def label(self, *, model: str) -> Label:
        """Gives the label of an answer to this prompt: the join of all that was read, and the model as a source.

        What stands beside the messages was read, too (INV-10).
        """
        read = join(part.label for part in self.parts)
        if self._shows_more:
            read = read.joined(_BESIDE)
        return replace(read, sources=read.sources | {f"model:{model}"})

    def with_parts(self, parts: tuple[Part, ...]) -> "Prompt":
        """Gives the same prompt with its parts replaced one by one, as the law redacted them."""
        if len(parts) != len(self.parts):
            raise ValueError(f"{len(self.parts)} parts cannot be replaced by {len(parts)}")
        rest = iter(parts)
        messages = tuple(replace(message, parts=tuple(next(rest) for _ in message.parts)) for message in self.messages)
        return replace(self, messages=messages)

    @property
    def _shows_more(self) -> bool:
        """True when a model reads more than messages."""
        beside = self.tools or self.output_format.schema or self.stop_sequences
        return bool(beside) or any(message.name for message in self.messages)

    @property
    def beside(self) -> Part | None:
        """What a model reads beside the messages: tools, the form of the answer, where it stops, and who speaks."""
        if not self._shows_more:
            return None
        texts = [
            *(text for tool in self.tools for text in (tool.name, tool.description, *_texts_of(tool.input_schema))),
            *((self.output_format.name, *_texts_of(self.output_format.schema)) if self.output_format.schema else ()),
            *self.stop_sequences,
            *dict.fromkeys(message.name for message in self.messages),
        ]
        text = "\n".join(filter(None, texts))
        return text_part(text, _BESIDE) if text else None

    def shown_to_law(self) -> tuple[Part, ...]:
        """Gives all parts as the law is shown them: pictures and PDFs as lines that say which ones they are.

        What stands beside the messages is the last one, if there is any.
        """
        beside = self.beside
        return shown_to_law(self.parts) if beside is None else (*shown_to_law(self.parts), beside)

    def as_law_left(self, judged: tuple[Part, ...]) -> "Prompt":
        """Gives the same prompt as the law left the parts of its messages; no parts: it changed nothing."""
        return self.with_parts(as_law_left(self.parts, judged)) if judged else self

    def arguments_hash(self, model: str) -> bytes:
        """Gives SHA-256 over everything that makes this intent this intent, labels included.

        Labels count because a repeat with a higher label must not get an answer that carries the lower one.
        """
        intent: dict[str, object] = {
            "model": model,
            "messages": [
                {"role": message.role, "name": message.name, "parts": [_part_identity(part) for part in message.parts]}
                for message in self.messages
            ],
            "tools": [[tool.name, tool.description, tool.input_schema] for tool in self.tools],
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "stop": self.stop_sequences,
            **self._asked_beside(),
        }
        return hashlib.sha256(_compact(intent).encode("utf-8", "surrogatepass")).digest()

    def _asked_beside(self) -> dict[str, object]:
        """Gives what the prompt asks for that most do not."""
        asked: dict[str, object] = {}
        if self.tool_choice != _ANY_TOOL:
            asked["tool_choice"] = asdict(self.tool_choice)
        if self.parallel_tool_calls is not None:
            asked["parallel_tool_calls"] = self.parallel_tool_calls
        if self.output_format != _TEXT:
            wanted = self.output_format
            asked["output_format"] = [wanted.kind, wanted.name, wanted.schema, wanted.strict]
        if self.sampling != _DEFAULT_SAMPLING:
            asked["sampling"] = asdict(self.sampling)
        return asked


def _part_identity(part: Part) -> list[object]:
    label = [int(part.label.integrity), int(part.label.confidentiality), sorted(part.label.sources)]
    match part.content:
        case TextPart(text):
            return ["text", text, label]
        case ImagePart(media_type=media_type, data=data, detail=detail):
            asked = [] if detail is ImageDetail.AUTO else [str(detail)]
            return ["image", media_type, hashlib.sha256(data).hexdigest(), label, *asked]
        case DocumentPart(media_type=media_type, data=data, title=title):
            return ["document", media_type, hashlib.sha256(data).hexdigest(), title, label]
        case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
            return ["tool_call", call, name, dict(arguments), label]
        case ToolResultPart(tool_call_id=call, name=name, text=text, failed=failed):
            return ["tool_result", call, name, text, failed, label]
        case BlobPart(blob_id=blob_id, owner=owner):
            return ["blob", blob_id, owner, label]


def _texts_of(schema: Mapping[str, object]) -> Iterator[str]:
    """Gives a schema as JSON and, as JSON hides them behind escapes, the strings that are written differently."""
    yield _compact(schema)
    left: list[object] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            for key, item in cast(Mapping[str, object], value).items():
                left += (item, key)
        elif isinstance(value, list):
            left += cast(list[object], value)
        elif isinstance(value, str) and _compact(value)[1:-1] != value:
            yield value


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
