"""What a dialect has no words for: told to the model itself, or refused."""

from dataclasses import replace

import msgspec

from services.inference.domain.output_format import IN_WORDS, OutputKind
from services.inference.domain.prompt import Prompt
from services.meshkit.content import Integrity, Label, Message, MessageRole, text_part

#: The mesh wrote it.
_OURS = Label(integrity=Integrity.TRUSTED)


class CannotBeTold(Exception):
    """A prompt asks for something that the dialect has no words for, and that no sentence can stand for."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def in_words(prompt: Prompt, *, schema: bool) -> Prompt:
    """Gives the prompt with the wanted form as the last thing that its system says.

    That an answer is to be JSON at all is always said: OpenAI refuses to keep to it otherwise.

    Args:
        schema: False where the server is told a schema in its own way.
    """
    wanted = prompt.output_format
    if wanted.kind is OutputKind.TEXT or (wanted.schema is not None and not schema):
        return prompt
    text = IN_WORDS if wanted.schema is None else f"{IN_WORDS} It keeps this JSON Schema: {_written(wanted.schema)}"
    said = text_part(text, _OURS)
    for index, message in enumerate(prompt.messages):
        if message.role is MessageRole.SYSTEM:
            system = replace(message, parts=(*message.parts, said))
            return replace(prompt, messages=(*prompt.messages[:index], system, *prompt.messages[index + 1 :]))
    return replace(prompt, messages=(Message(role=MessageRole.SYSTEM, parts=(said,)), *prompt.messages))


def _written(schema: object) -> str:
    return msgspec.json.encode(schema).decode()
