"""An answer that does not keep its form is given back to who gave it, with the rule that it broke."""

from dataclasses import replace
from typing import Final

from services.inference.domain.errors import OutputInvalid
from services.inference.domain.prompt import Prompt
from services.meshkit.content import Integrity, Label, Message, MessageRole, text_part

#: The mesh wrote it.
_OURS: Final = Label(integrity=Integrity.TRUSTED)


def repaired(prompt: Prompt, broken: OutputInvalid, *, model: str) -> Prompt:
    """Gives the prompt that asks for a repair: the answer as it came, where it is wrong, and never the schema again."""
    said = text_part(broken.answer, prompt.label(model=model))
    wish = f"This does not have the form that was asked for. At {broken.place}: {broken.rule}. Answer again, corrected."
    return replace(
        prompt,
        messages=(
            *prompt.messages,
            *([Message(role=MessageRole.ASSISTANT, parts=(said,))] if broken.answer.strip() else []),
            Message(role=MessageRole.USER, parts=(text_part(wish, _OURS),)),
        ),
    )
