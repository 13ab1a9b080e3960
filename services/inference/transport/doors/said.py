"""What an answer says, in the two ways that dialects tell apart."""

from services.inference.domain.answer import Answer
from services.meshkit.content import TextPart, ToolCallPart, text_of


def text_and_calls(answer: Answer) -> tuple[str, list[ToolCallPart]]:
    """Gives the text of an answer, and the tools that it calls."""
    calls = [part.content for part in answer.parts if isinstance(part.content, ToolCallPart)]
    return text_of(part for part in answer.parts if isinstance(part.content, TextPart)), calls
