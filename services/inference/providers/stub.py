"""The stub: answers without a model, only when asked for by name, and every answer says so (INV-17).

The same prompt gets the same answer, so that tests and benchmarks can rely on it.
"""

import hashlib
from collections.abc import AsyncGenerator
from typing import Final

from services.inference.domain.answer import Finished, Piece, StopReason, TextDelta, Whole
from services.inference.domain.prompt import Prompt
from services.inference.usecases.ports import ProviderCall
from services.meshkit.content import Usage, text_of

_NOTICE: Final = "This is the stub model, not a language model."
_VIEWS: Final = (
    "The strongest point so far deserves a closer look.",
    "The costs fall on those who decide least.",
    "A small trial would tell more than another argument.",
    "The evidence points one way and the incentives another.",
    "What was said before holds under one condition.",
    "The exception matters more than the rule here.",
    "Both sides agree on more than they say.",
    "The question should be narrowed before it is answered.",
)
#: Bytes that count as one token, rounded up; below the money bound by construction.
_BYTES_PER_TOKEN: Final = 4


class StubProvider:
    """Answers from the hash of the prompt. Opens no socket, and takes its clearance like all others."""

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        text = " ".join(_sentences(call.prompt))
        most = call.prompt.max_output_tokens * _BYTES_PER_TOKEN
        stop_reason = StopReason.STOP
        if len(text) > most:
            text, stop_reason = text[:most], StopReason.LENGTH
        usage = Usage(input=_tokens(text_of(call.prompt.parts)), output=_tokens(text))
        return Whole(text=text, finished=Finished(stop_reason=stop_reason, usage=usage, model=call.deployment.model))

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = await self.whole(call)
        text, start = answer.text, 0
        while start < len(text):
            end = text.find(". ", start) + 2
            piece = text[start:] if end == 1 else text[start:end]
            start += len(piece)
            yield TextDelta(piece)
        yield answer.finished


def _sentences(prompt: Prompt) -> list[str]:
    digest = hashlib.sha256()
    for message in prompt.messages:
        digest.update(
            f"{message.role}\x00{message.name}\x00{text_of(message.parts)}\x00".encode("utf-8", "surrogatepass")
        )
    picks = digest.digest()
    views = list(dict.fromkeys(_VIEWS[pick % len(_VIEWS)] for pick in picks[:3]))
    return [_NOTICE, *views, f"Prompt {picks.hex()[:12]}."]


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)
