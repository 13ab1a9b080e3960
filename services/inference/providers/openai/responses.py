"""The Responses wire: OpenAI itself, in the newer of its dialects."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec

from services.inference.domain.answer import Finished, Piece, ReasoningDelta, StopReason, TextDelta, Whole
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import ProviderFailure
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp
from services.inference.providers.instruction import CannotBeTold
from services.inference.providers.openai.chat import Endpoint
from services.inference.providers.openai.chat_wire import tool_call
from services.inference.providers.openai.responses_wire import (
    WireEvent,
    WireItem,
    WireResponse,
    request_body,
    usage_in,
)
from services.inference.usecases.ports import ProviderCall
from services.meshkit.content import ToolCallPart

_EVENTS: Final = msgspec.json.Decoder(WireEvent)
_RESPONSES: Final = msgspec.json.Decoder(WireResponse)
#: Why a response that is not whole is an answer nevertheless; for any other reason it broke off.
_INCOMPLETE: Final = {"max_output_tokens": StopReason.LENGTH, "content_filter": StopReason.CONTENT_FILTER}
_THINKING: Final = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
#: What stands where there is no error.
_NOTHING: Final = (b"", b"null")


class ResponsesProvider:
    """Asks a server that speaks OpenAI's Responses dialect, and has it keep nothing."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._http = http
        self._url = f"{endpoint.base_url}/responses"
        self._headers = endpoint.headers()

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = ResponseReader(call.deployment)
        events = self._http.events(
            call.deployment.name,
            self._url,
            self._headers,
            responses_body(call, stream=True),
            call.clearance,
            seconds=call.seconds,
            first_byte_seconds=call.first_byte_seconds,
            between_seconds=call.between_seconds,
        )
        async with aclosing(events):
            async for event in events:
                for piece in answer.take(event.data):
                    yield piece
                if answer.ended:
                    break
        yield answer.finished()

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        raw = await self._http.body(
            call.deployment.name,
            self._url,
            self._headers,
            responses_body(call, stream=False),
            call.clearance,
            seconds=call.seconds,
            between_seconds=call.between_seconds,
        )
        answer = ResponseReader(call.deployment)
        return Whole(text=answer.take_whole(raw), finished=answer.finished())


def responses_body(call: ProviderCall, *, stream: bool) -> bytes:
    """Writes the request of a call. Raises: ProviderRefused: something of it cannot be told."""
    try:
        return request_body(call.prompt, model=call.deployment.model, stream=stream)
    except CannotBeTold as cause:
        raise failures.cannot_be_told(call.deployment.name, cause.field) from cause


class ResponseReader:
    """Puts one answer together from its events, or from the one body that it is."""

    def __init__(self, deployment: DeploymentVersion) -> None:
        self._deployment = deployment
        self._items: list[WireItem] = []
        self._refused = False
        self._end: WireResponse | None = None

    @property
    def ended(self) -> bool:
        """True once the response itself was told: nothing that counts comes after it."""
        return self._end is not None

    def take(self, data: bytes) -> list[TextDelta | ReasoningDelta]:
        """Takes an event and gives what it adds."""
        try:
            event = _EVENTS.decode(data)
        except failures.UNREADABLE as cause:
            raise failures.garbage(self._deployment.name) from cause
        match event:
            case WireEvent(type="response.output_text.delta", delta=str(text)) if text:
                return [TextDelta(text)]
            case WireEvent(type="response.refusal.delta", delta=str(text)) if text:
                self._refused = True
                return [TextDelta(text)]
            case WireEvent(type=kind, delta=str(text)) if kind in _THINKING and text:
                return [ReasoningDelta(text)]
            case WireEvent(type="response.output_item.done", item=WireItem() as item):
                self._items.append(item)
            case WireEvent(type="response.completed" | "response.incomplete", response=WireResponse() as response):
                self._end = response
            case WireEvent(type="response.failed", response=WireResponse(error=error)):
                raise self._failed(error)
            case WireEvent(type="error", error=error):
                # Some servers put the error into the event itself.
                raise self._failed(error if bytes(error) not in _NOTHING else data)
            case _:
                pass
        return []

    def take_whole(self, data: bytes) -> str:
        """Takes the one body and gives its text."""
        try:
            self._end = _RESPONSES.decode(data)
        except failures.UNREADABLE as cause:
            raise failures.garbage(self._deployment.name) from cause
        if bytes(self._end.error) not in _NOTHING:
            raise self._failed(self._end.error)
        said = [content for item in self._end.output or () if item.type == "message" for content in item.content or ()]
        self._refused = any(content.refusal for content in said)
        return "".join(f"{content.text or ''}{content.refusal or ''}" for content in said)

    def finished(self) -> Finished:
        """Gives the end of the answer.

        Raises: ProviderUnavailable: the answer is not whole, or a tool call makes no sense.
        """
        name, end = self._deployment.name, self._end
        if end is None:
            raise failures.cut_off(name)
        usage, model = usage_in(end.usage), end.model or self._deployment.model
        if end.status == "incomplete":
            reason = None if end.incomplete_details is None else end.incomplete_details.reason
            if reason not in _INCOMPLETE:
                raise failures.cut_off(name)
            # A tool call that the limit cut off cannot be made.
            return Finished(stop_reason=_INCOMPLETE[reason], usage=usage, model=model)
        if end.status != "completed":
            raise failures.cut_off(name)
        try:
            calls = _calls(end.output or self._items)
        except failures.UNREADABLE as cause:
            raise failures.garbage(name, usage=usage) from cause
        reason = StopReason.REFUSAL if self._refused else StopReason.STOP
        return Finished(
            stop_reason=StopReason.TOOL_CALLS if calls else reason, usage=usage, tool_calls=calls, model=model
        )

    def _failed(self, error: bytes) -> ProviderFailure:
        return failures.error_event(self._deployment.name, b'{"error": %b}' % bytes(error))


def _calls(items: list[WireItem]) -> tuple[ToolCallPart, ...]:
    """Gives the tool calls. Raises: msgspec.MsgspecError: the arguments of one are no object, or it has no name."""
    called = [item for item in items if item.type == "function_call"]
    return tuple(
        tool_call(item.call_id or f"call_{index}", item.name or "", item.arguments or "")
        for index, item in enumerate(called)
    )
