"""The nouns that all seven services speak, and their one conversion to and from proto (`content.proto`)."""

from services.meshkit.content.call import MOST_PARENT_STEPS, CallContext, CallId, CallKey
from services.meshkit.content.label import Confidentiality, Integrity, Label, join
from services.meshkit.content.nesting import MAX_ARGUMENT_LEVELS, nests_deeper
from services.meshkit.content.part import (
    BlobPart,
    DocumentPart,
    ImageDetail,
    ImagePart,
    Message,
    MessageRole,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_of,
    text_part,
)
from services.meshkit.content.usage import Usage

__all__ = [
    "MAX_ARGUMENT_LEVELS",
    "MOST_PARENT_STEPS",
    "BlobPart",
    "CallContext",
    "CallId",
    "CallKey",
    "Confidentiality",
    "DocumentPart",
    "ImageDetail",
    "ImagePart",
    "Integrity",
    "Label",
    "Message",
    "MessageRole",
    "Part",
    "TextPart",
    "ToolCallPart",
    "ToolResultPart",
    "Usage",
    "join",
    "nests_deeper",
    "text_of",
    "text_part",
]
