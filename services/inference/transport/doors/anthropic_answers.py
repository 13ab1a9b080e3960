"""Answers in Anthropic's dialect, whole and as streams. Pure.

Source: the Anthropic API reference; the contract tests read every answer with the types of the official client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from services.inference.domain.answer import Answer, StopReason
from services.inference.transport.doors.said import text_and_calls
from services.meshkit.content import ToolCallPart, Usage

_STOPS: Final = {
    StopReason.STOP: "end_turn",
    StopReason.LENGTH: "max_tokens",
    StopReason.TOOL_CALLS: "tool_use",
    StopReason.CONTENT_FILTER: "refusal",
    StopReason.REFUSAL: "refusal",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAnswer:
    """What stands in every part of one answer."""

    id: str
    #: Model that was asked for.
    model: str
    #: About how long the prompt is, for the beginning of a stream.
    prompt_tokens: int

    def whole(self, answer: Answer) -> bytes:
        """Writes an answer that is not streamed."""
        text, calls = text_and_calls(answer)
        content: list[dict[str, object]] = [{"type": "text", "text": text}] if text else []
        content += [_written(call, dict(call.arguments)) for call in calls]
        return msgspec.json.encode(
            {
                **self._shape(answer.model or self.model),
                "content": content,
                "stop_reason": _STOPS[answer.stop_reason],
                "usage": usage(answer.usage),
            }
        )

    def beginning(self) -> bytes:
        """Writes the first event of a stream. The provider has not counted yet; the last event corrects it."""
        counted = usage(Usage(input=self.prompt_tokens))
        message = {**self._shape(self.model), "content": (), "stop_reason": None, "usage": counted}
        return event("message_start", message=message)

    def _shape(self, model: str) -> dict[str, object]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": model, "stop_sequence": None}


class MessageStream:
    """Writes one streamed answer, event by event."""

    def __init__(self, answer: MessageAnswer) -> None:
        self._answer = answer
        self._shown = ""
        self._begun = False

    def text(self, text: str) -> bytes:
        """Writes text that the law passed."""
        before = b"" if self._begun else self._answer.beginning()
        self._begun = True
        if not self._shown:
            before += event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        self._shown += text
        return before + event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def end(self, answer: Answer) -> bytes:
        """Writes what is left of the answer, why it ended, and what it used."""
        text, calls = text_and_calls(answer)
        reason, events = _STOPS[answer.stop_reason], b""
        if not text.startswith(self._shown):
            # The law took back what it had passed; what it says now cannot stand after that.
            reason = "refusal"
        elif len(text) > len(self._shown):
            events += self.text(text[len(self._shown) :])
        if not self._begun:
            events += self._answer.beginning()
        if self._shown:
            events += event("content_block_stop", index=0)
        for index, call in enumerate(calls, start=1 if self._shown else 0):
            written = msgspec.json.encode(dict(call.arguments)).decode()
            events += event("content_block_start", index=index, content_block=_written(call, {}))
            delta = {"type": "input_json_delta", "partial_json": written}
            events += event("content_block_delta", index=index, delta=delta)
            events += event("content_block_stop", index=index)
        delta = {"stop_reason": reason, "stop_sequence": None}
        events += event("message_delta", delta=delta, usage=usage(answer.usage))
        return events + event("message_stop")

    def broken(self, body: Mapping[str, object]) -> bytes:
        """Writes that it failed."""
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(body)


def event(kind: str, **fields: object) -> bytes:
    """Writes an event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


def usage(used: Usage) -> dict[str, object]:
    """Writes what was used: classes do not overlap here, but for reasoning, which is output."""
    return {
        "input_tokens": used.input + used.image + used.audio_in,
        "cache_creation_input_tokens": used.cache_write_5m + used.cache_write_1h,
        "cache_read_input_tokens": used.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.cache_write_5m,
            "ephemeral_1h_input_tokens": used.cache_write_1h,
        },
        "output_tokens": used.output + used.reasoning + used.audio_out,
    }


def _written(call: ToolCallPart, arguments: dict[str, object]) -> dict[str, object]:
    return {"type": "tool_use", "id": call.tool_call_id, "name": call.name, "input": arguments}
