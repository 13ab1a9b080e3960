"""The chunks of an answer as one completion, for callers who do not stream."""

from typing import Final

import msgspec

from services.inference.providers.openai.chat_wire import Chunk, ToolCalls

_DECODER: Final = msgspec.json.Decoder(Chunk)


def whole_answer(chunks: list[bytes]) -> dict[str, object]:
    """Puts chunks together.

    Raises: msgspec.MsgspecError: they are none of the dialect.
    """
    text: list[str] = []
    calls = ToolCalls()
    reason: str | None = None
    answer: dict[str, object] = {"object": "chat.completion"}
    for data in chunks:
        chunk = _DECODER.decode(data)
        if chunk.model is not None:
            answer["model"] = chunk.model
        if bytes(chunk.usage) not in (b"", b"null"):
            answer["usage"] = chunk.usage
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            if choice.delta is not None:
                text.append(choice.delta.content or "")
                for piece in choice.delta.calls:
                    calls.add(piece)
    message: dict[str, object] = {"role": "assistant", "content": "".join(text)}
    if calls:
        message["tool_calls"] = calls.written()
    return {**answer, "choices": [{"index": 0, "message": message, "finish_reason": reason}]}
