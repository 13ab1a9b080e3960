"""`/v1/responses`: answers, whole and event by event. Pure.

Every event that ends something says all of it once more, and the last one says the whole response. Where the law took
back what it had passed, these say what it left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from services.inference.domain.answer import Answer, StopReason
from services.inference.transport.doors.openai_responses import ResponsesRequest
from services.inference.transport.doors.said import text_and_calls
from services.meshkit.content import ToolCallPart, Usage

_COMPLETED: Final = "completed"
_INCOMPLETE: Final = "incomplete"
_IN_PROGRESS: Final = "in_progress"
#: Why an answer is not whole.
_BROKEN: Final = {StopReason.LENGTH: "max_output_tokens", StopReason.CONTENT_FILTER: "content_filter"}
#: What a response that failed may name as its error; our own code stands in the event that ends the stream.
_FAILED: Final = "server_error"
_FAILURES: Final = {"requests": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt"}

Item = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseAnswer:
    """What stands in every part of one answer."""

    #: What follows `resp_`, `msg_` and `fc_`.
    id: str
    #: Unix time, seconds.
    created: int
    #: Model that was asked for.
    model: str
    asked: ResponsesRequest

    def whole(self, answer: Answer) -> bytes:
        """Writes an answer that is not streamed."""
        text, calls = text_and_calls(answer)
        refused = answer.stop_reason is StopReason.REFUSAL
        status = _INCOMPLETE if answer.stop_reason in _BROKEN else _COMPLETED
        items = [self.message(status, [_refusal(text) if refused else _text(text)])] if text else []
        items += [self.call(index, call) for index, call in enumerate(calls)]
        return msgspec.json.encode(self.finished(answer, items, reason=_BROKEN.get(answer.stop_reason)))

    def finished(self, answer: Answer, items: Sequence[Item], *, reason: str | None) -> dict[str, object]:
        """Gives a response that is done.

        Args:
            reason: why it is not whole; None: it is.
        """
        return self.response(
            _COMPLETED if reason is None else _INCOMPLETE,
            items,
            model=answer.model or self.model,
            incomplete_details=None if reason is None else {"reason": reason},
            usage=usage(answer.usage) if answer.usage_known else None,
        )

    def response(self, status: str, items: Sequence[Item] = (), **known: object) -> dict[str, object]:
        """Gives a response as far as it is known. What was asked for is said back, as the dialect does."""
        asked = self.asked
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self.model,
            "output": items,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None if asked.reasoning is None else asked.reasoning.effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"} if asked.text is None else asked.text.format or {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or (),
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": asked.user,
            **known,
        }

    def message(self, status: str, content: Sequence[Item]) -> Item:
        """Gives what was said as an item."""
        return {
            "id": f"msg_{self.id}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def call(self, index: int, call: ToolCallPart, *, begun: bool = False) -> Item:
        """Gives a tool call as an item.

        Args:
            begun: True: it is only just coming.
        """
        return {
            "id": f"fc_{self.id}_{index}",
            "type": "function_call",
            "status": _IN_PROGRESS if begun else _COMPLETED,
            "arguments": "" if begun else _arguments(call),
            "call_id": call.tool_call_id,
            "name": call.name,
        }


class ResponseStream:
    """Writes one streamed answer, event by event."""

    def __init__(self, answer: ResponseAnswer) -> None:
        self._answer = answer
        self._shown = ""
        self._events = 0

    def text(self, text: str) -> bytes:
        """Writes text that the law passed."""
        return self._more(text, refused=False)

    def end(self, answer: Answer) -> bytes:
        """Writes what is left of the answer, why it ended, and what it used."""
        text, calls = text_and_calls(answer)
        reason, written, items = _BROKEN.get(answer.stop_reason), b"", list[Item]()
        # What was shown as text stays text, though it was a refusal.
        refused = answer.stop_reason is StopReason.REFUSAL and not self._shown
        if not text.startswith(self._shown):
            # The law took back what it had passed; what it says now cannot stand after that.
            reason = _BROKEN[StopReason.CONTENT_FILTER]
        elif len(text) > len(self._shown):
            written += self._more(text[len(self._shown) :], refused=refused)
        if not self._events:
            written += self._beginning()
        if self._shown:
            item, done = self._said(text, _COMPLETED if reason is None else _INCOMPLETE, refused=refused)
            written, items = written + done, [item]
        for index, call in enumerate(calls):
            written += self._called(index, call, place=len(items))
            items.append(self._answer.call(index, call))
        whole = self._answer.finished(answer, items, reason=reason)
        return written + self._event(f"response.{_COMPLETED if reason is None else _INCOMPLETE}", response=whole)

    def broken(self, body: dict[str, object]) -> bytes:
        """Writes that it failed: as a response that did, and as the error that ends the stream."""
        error = msgspec.convert(body["error"], dict[str, object])
        said = {"code": _FAILURES.get(str(error["type"]), _FAILED), "message": error["message"]}
        failed = self._event("response.failed", response=self._answer.response("failed", error=said))
        # Older clients look for the error by itself, newer ones at the event.
        flat = {name: error[name] for name in ("code", "message", "param")}
        return failed + self._event("error", **flat, error=error)

    def _more(self, text: str, *, refused: bool) -> bytes:
        written = b"" if self._events else self._beginning()
        kind, place = "refusal" if refused else "output_text", self._place()
        if not self._shown:
            empty = _refusal("") if refused else _text("")
            written += self._event(
                "response.output_item.added", output_index=0, item=self._answer.message(_IN_PROGRESS, ())
            )
            written += self._event("response.content_part.added", **place, part=empty)
        self._shown += text
        logprobs = {} if refused else {"logprobs": ()}
        return written + self._event(f"response.{kind}.delta", **place, delta=text, **logprobs)

    def _beginning(self) -> bytes:
        begun = self._answer.response(_IN_PROGRESS)
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def _said(self, text: str, status: str, *, refused: bool) -> tuple[Item, bytes]:
        """Gives the message that was said as an item, and the events that end it."""
        place, part = self._place(), _refusal(text) if refused else _text(text)
        item = self._answer.message(status, (part,))
        written = (
            self._event("response.refusal.done", **place, refusal=text)
            if refused
            else self._event("response.output_text.done", **place, text=text, logprobs=())
        )
        written += self._event("response.content_part.done", **place, part=part)
        return item, written + self._event("response.output_item.done", output_index=0, item=item)

    def _called(self, index: int, call: ToolCallPart, *, place: int) -> bytes:
        begun, done = self._answer.call(index, call, begun=True), self._answer.call(index, call)
        at = {"item_id": done["id"], "output_index": place}
        arguments = done["arguments"]
        return (
            self._event("response.output_item.added", output_index=place, item=begun)
            + self._event("response.function_call_arguments.delta", **at, delta=arguments)
            + self._event("response.function_call_arguments.done", **at, name=call.name, arguments=arguments)
            + self._event("response.output_item.done", output_index=place, item=done)
        )

    def _place(self) -> dict[str, object]:
        return {"item_id": f"msg_{self._answer.id}", "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: object) -> bytes:
        event = {"type": kind, "sequence_number": self._events, **fields}
        self._events += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(event))


def usage(used: Usage) -> dict[str, object]:
    """Writes what was used: details are contained in the totals."""
    answer = used.output + used.reasoning + used.audio_out
    return {
        "input_tokens": used.total - answer,
        "input_tokens_details": {
            "cached_tokens": used.cache_read,
            "cache_write_tokens": used.cache_write_5m + used.cache_write_1h,
        },
        "output_tokens": answer,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.total,
    }


def _text(text: str) -> Item:
    return {"type": "output_text", "annotations": (), "logprobs": (), "text": text}


def _refusal(text: str) -> Item:
    return {"type": "refusal", "refusal": text}


def _arguments(call: ToolCallPart) -> str:
    return msgspec.json.encode(dict(call.arguments)).decode()
