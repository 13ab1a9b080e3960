"""Answers at `/v1/chat/completions`, whole and streamed. Pure.

Source: the OpenAI API reference; the tests read every answer with the types of the official client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from services.inference.domain.answer import Answer, StopReason
from services.inference.transport.doors.said import text_and_calls
from services.meshkit.content import ToolCallPart, Usage

_FINISH: Final = {
    StopReason.STOP: "stop",
    StopReason.LENGTH: "length",
    StopReason.TOOL_CALLS: "tool_calls",
    StopReason.CONTENT_FILTER: "content_filter",
    StopReason.REFUSAL: "stop",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """What stands in every part of one answer."""

    id: str
    #: Unix time, seconds.
    created: int
    #: Model that was asked for.
    model: str

    def whole(self, answer: Answer) -> bytes:
        """Writes an answer that is not streamed."""
        text, calls = text_and_calls(answer)
        refused = answer.stop_reason is StopReason.REFUSAL
        message: dict[str, object] = {
            "role": "assistant",
            "content": None if refused or (calls and not text) else text,
            "refusal": text if refused else None,
        }
        if calls:
            message["tool_calls"] = [_written(call) for call in calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[answer.stop_reason]}
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": answer.model or self.model,
                "choices": [choice],
                "usage": usage(answer.usage) if answer.usage_known else None,
            }
        )

    def chunk(self, delta: Mapping[str, object], finish: str | None = None) -> bytes:
        """Writes a part of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event([choice])

    def counts(self, answer: Answer) -> bytes:
        """Writes the part that holds what a streamed answer used."""
        return self._event([], usage=usage(answer.usage) if answer.usage_known else None)

    def _event(self, choices: Sequence[Mapping[str, object]], **beside: object) -> bytes:
        event = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **beside,
        }
        return b"data: %b\n\n" % msgspec.json.encode(event)


class ChatStream:
    """Writes one streamed answer, event by event."""

    def __init__(self, answer: ChatAnswer, *, include_usage: bool) -> None:
        self._answer = answer
        self._include_usage = include_usage
        self._shown = ""
        self._begun = False

    def text(self, text: str) -> bytes:
        """Writes text that the law passed."""
        self._shown += text
        return self._beginning() + self._answer.chunk({"content": text})

    def end(self, answer: Answer) -> bytes:
        """Writes what is left of the answer, why it ended, and what it used."""
        text, calls = text_and_calls(answer)
        events = [self._beginning()]
        finish = _FINISH[answer.stop_reason]
        if not text.startswith(self._shown):
            # The law took back what it had passed; what it says now cannot stand after that.
            finish = "content_filter"
        elif len(text) > len(self._shown):
            events.append(self._answer.chunk({"content": text[len(self._shown) :]}))
        events += (
            self._answer.chunk({"tool_calls": [{"index": index, **_written(call)}]}) for index, call in enumerate(calls)
        )
        events.append(self._answer.chunk({}, finish))
        if self._include_usage:
            events.append(self._answer.counts(answer))
        events.append(b"data: [DONE]\n\n")
        return b"".join(events)

    def broken(self, body: Mapping[str, object]) -> bytes:
        """Writes that it failed."""
        return b"data: %b\n\n" % msgspec.json.encode(body)

    def _beginning(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._answer.chunk({"role": "assistant", "content": "", "refusal": None})


def usage(used: Usage) -> dict[str, object]:
    """Writes what was used: details are contained in the totals."""
    completion = used.output + used.reasoning + used.audio_out
    cached, written = used.cache_read, used.cache_write_5m + used.cache_write_1h
    return {
        "prompt_tokens": used.total - completion,
        "completion_tokens": completion,
        "total_tokens": used.total,
        "prompt_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": written,
            "audio_tokens": used.audio_in,
        },
        "completion_tokens_details": {"reasoning_tokens": used.reasoning, "audio_tokens": used.audio_out},
    }


def _written(call: ToolCallPart) -> dict[str, object]:
    arguments = msgspec.json.encode(dict(call.arguments)).decode()
    return {"id": call.tool_call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
