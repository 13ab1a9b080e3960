"""What no adapter sends yet."""

from services.inference.domain.prompt import Prompt
from services.meshkit.core.errors import Invalid


def refuse_unsent(prompt: Prompt) -> None:
    """Raises: Invalid: the prompt asks for what no adapter sends, rather than pass over it."""
    plain = Prompt(messages=prompt.messages)
    for field in ("tool_choice", "parallel_tool_calls", "output_format", "sampling"):
        if getattr(prompt, field) != getattr(plain, field):
            raise Invalid(field, "is not taken yet")
