"""Messages and their labelled parts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.meshkit.content.label import UNKNOWN, Label


class MessageRole(StrEnum):
    """Who is speaking in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text."""

    text: str


class ImageDetail(StrEnum):
    """How closely a model looks at a picture."""

    #: As the provider sees fit.
    AUTO = "auto"
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """An encoded picture and its media type."""

    media_type: str
    data: bytes = field(repr=False)
    detail: ImageDetail = ImageDetail.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPart:
    """An encoded document, its media type and title."""

    media_type: str
    data: bytes = field(repr=False)
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallPart:
    """A tool call that a model asks for."""

    tool_call_id: str
    name: str
    #: JSON object; open by nature, checked against the tool's schema by the tools service.
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResultPart:
    """What a tool answered, as text."""

    tool_call_id: str
    name: str
    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobPart:
    """A reference to a payload in its owner's object store."""

    blob_id: str
    media_type: str
    size_bytes: int
    owner: str


PartContent = TextPart | ImagePart | DocumentPart | ToolCallPart | ToolResultPart | BlobPart


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of content with the label that travels with it."""

    content: PartContent
    label: Label = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation: at least one part."""

    role: MessageRole
    parts: tuple[Part, ...]
    #: Name of the speaker where several share a role.
    name: str = ""


def text_part(text: str, label: Label) -> Part:
    """Makes a part of plain text."""
    return Part(TextPart(text), label)


def text_of(parts: Iterable[Part]) -> str:
    """Joins the text of text parts and tool results with newlines; other parts say nothing."""
    said = (part.content for part in parts)
    return "\n".join(content.text for content in said if isinstance(content, TextPart | ToolResultPart))
