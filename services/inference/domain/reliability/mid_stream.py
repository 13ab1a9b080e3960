"""What becomes of an answer that breaks off after text was shown."""

from dataclasses import replace
from enum import Enum
from typing import Final

from services.inference.domain.call_policy import MidStream
from services.inference.domain.output_format import OutputFormat
from services.inference.domain.prompt import Prompt
from services.meshkit.content import Label, Message, MessageRole, text_part

#: What a model is told that continues the text of another. Fixed: nothing of the text gets into it.
GO_ON: Final = (
    "Your answer above broke off. Continue it exactly where it stops, in the same language and form. Repeat nothing "
    "of it and add no remark."
)
_BYTES_PER_TOKEN: Final = 4
_FEWEST_TOKENS: Final = 16


class Resumption(Enum):
    """How the next deployment takes over."""

    #: Nothing was shown: it answers, and nobody notices.
    SILENT = "silent"
    #: What was shown is void, and the caller is told.
    RESTART = "restart"
    CONTINUE = "continue"
    #: It does not: the call fails.
    FAIL = "fail"


def resumption(policy: MidStream, prompt: Prompt, *, shown: str) -> Resumption:
    """Says how the next deployment takes over from one that broke off.

    Args:
        shown: text that the caller has seen, as the law passed it.
    """
    if not shown:
        return Resumption.SILENT
    match policy:
        case MidStream.RESTART:
            return Resumption.RESTART
        case MidStream.CONTINUE if _only_text(prompt):
            return Resumption.CONTINUE
        case _:
            return Resumption.FAIL


def _only_text(prompt: Prompt) -> bool:
    """Says whether an answer can be nothing but text: with tools, a call may have been under way when it broke off."""
    return not prompt.tools and prompt.output_format == OutputFormat()


def continued_prompt(prompt: Prompt, *, shown: str, label: Label) -> Prompt:
    """Gives the prompt for a model that continues `shown`; what was shown takes its part of the longest answer.

    Args:
        label: of the answer that broke off.
    """
    used = -(-len(shown.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)
    return replace(
        prompt,
        messages=(
            *prompt.messages,
            Message(role=MessageRole.ASSISTANT, parts=(text_part(shown, label),)),
            Message(role=MessageRole.USER, parts=(text_part(GO_ON, label),)),
        ),
        max_output_tokens=max(prompt.max_output_tokens - used, min(_FEWEST_TOKENS, prompt.max_output_tokens)),
    )
