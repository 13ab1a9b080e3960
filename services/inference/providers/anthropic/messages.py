"""Anthropic: the messages wire, with the cache classes of its usage."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import msgspec

from services.inference.domain.answer import Finished, Piece, ReasoningDelta, StopReason, TextDelta, Whole
from services.inference.domain.deployment import Capability, DeploymentVersion
from services.inference.providers import failures
from services.inference.providers.anthropic.wire import Block, Delta, Event, UsageCounter, request_body, stop_reason_of
from services.inference.providers.http import ProviderHttp
from services.inference.providers.instruction import CannotBeTold
from services.inference.providers.openai.chat import Endpoint
from services.inference.providers.openai.chat_wire import tool_call
from services.inference.usecases.ports import ProviderCall
from services.meshkit.content import ToolCallPart

_DECODER: Final = msgspec.json.Decoder(Event)
_VERSION: Final = "2023-06-01"


def anthropic_headers(endpoint: Endpoint) -> dict[str, str]:
    """Gives the headers that carry the key and say which wire is spoken."""
    return {"x-api-key": endpoint.key.reveal(), "anthropic-version": _VERSION}


class AnthropicProvider:
    """Asks Anthropic."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._http = http
        self._url = f"{endpoint.base_url}/v1/messages"
        self._headers = anthropic_headers(endpoint)

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = MessageReader(call.deployment)
        body = messages_body(call, stream=True)
        events = self._http.events(
            call.deployment.name,
            self._url,
            self._headers,
            body,
            call.clearance,
            seconds=call.seconds,
            first_byte_seconds=call.first_byte_seconds,
            between_seconds=call.between_seconds,
        )
        async with aclosing(events):
            async for event in events:
                piece = answer.take(event.data)
                if piece is not None:
                    yield piece
                if answer.stopped:
                    break
        yield answer.finished()

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        body = messages_body(call, stream=False)
        raw = await self._http.body(
            call.deployment.name,
            self._url,
            self._headers,
            body,
            call.clearance,
            seconds=call.seconds,
            between_seconds=call.between_seconds,
        )
        answer = MessageReader(call.deployment)
        text = answer.take_whole(raw)
        return Whole(text=text, finished=answer.finished())


def messages_body(call: ProviderCall, *, stream: bool) -> bytes:
    """Writes the request of a call. Raises: ProviderRefused: something of it cannot be told."""
    deployment = call.deployment
    # Models that nobody says otherwise of can be held to a schema; those before them are a version that says so.
    schemas = deployment.capabilities is None or Capability.JSON_SCHEMA in deployment.capabilities
    try:
        return request_body(call.prompt, model=deployment.model, schemas=schemas, stream=stream)
    except CannotBeTold as cause:
        raise failures.cannot_be_told(deployment.name, cause.field) from cause


@dataclass(slots=True)
class _ToolUse:
    """A tool call that is arriving."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list[str])


class MessageReader:
    """Puts one answer together from its events, or from the one message that it is."""

    def __init__(self, deployment: DeploymentVersion) -> None:
        self._name = deployment.name
        self._model = deployment.model
        self._usage = UsageCounter()
        self._stop_reason: str | None = None
        self._tool_uses: dict[int, _ToolUse] = {}
        self.stopped = False

    def take(self, data: bytes) -> TextDelta | ReasoningDelta | None:
        """Takes an event and gives what it adds. Types that are new to us are passed over, as the dialect asks."""
        event = self._decoded(data)
        match event.type:
            case "message_start" if event.message is not None:
                self._usage.start(event.message.usage)
                self._model = event.message.model or self._model
            case "content_block_start" if event.content_block is not None:
                return self._start_block(event.index, event.content_block)
            case "content_block_delta" if event.delta is not None:
                return self._extend_block(event.index, event.delta)
            case "message_delta":
                self._usage.end(event.usage)
                if event.delta is not None:
                    self._stop_reason = event.delta.stop_reason or self._stop_reason
            case "message_stop":
                self.stopped = True
            case "error":
                raise failures.error_event(self._name, data)
            case _:
                pass
        return None

    def take_whole(self, data: bytes) -> str:
        """Takes a whole message and gives its text."""
        message = self._decoded(data)
        if message.type != "message":
            raise failures.garbage(self._name)
        self._usage.end(message.usage)
        self._model = message.model or self._model
        self._stop_reason = message.stop_reason
        self.stopped = True
        for index, block in enumerate(message.content):
            self._start_block(index, block)
            if block.type == "tool_use" and block.input:
                self._tool_uses[index].pieces.append(msgspec.json.encode(block.input).decode())
        return "".join(block.text for block in message.content)

    def _decoded(self, data: bytes) -> Event:
        try:
            return _DECODER.decode(data)
        except failures.UNREADABLE as cause:
            raise failures.garbage(self._name) from cause

    def _start_block(self, index: int, block: Block) -> TextDelta | None:
        if block.type == "tool_use":
            self._tool_uses[index] = _ToolUse(block.id, block.name)
        return TextDelta(block.text) if block.text else None

    def _extend_block(self, index: int, delta: Delta) -> TextDelta | ReasoningDelta | None:
        tool_use = self._tool_uses.get(index)
        if tool_use is not None and delta.partial_json:
            tool_use.pieces.append(delta.partial_json)
        if delta.thinking:
            return ReasoningDelta(delta.thinking)
        return TextDelta(delta.text) if delta.text else None

    def finished(self) -> Finished:
        """Gives the end of the answer.

        Raises: ProviderUnavailable: the stream ended before the answer did, or a tool call makes no sense.
        """
        if not self.stopped or self._stop_reason is None:
            raise failures.cut_off(self._name)
        usage = self._usage.total()
        reason = stop_reason_of(self._stop_reason)
        calls: tuple[ToolCallPart, ...] = ()
        if reason is not StopReason.LENGTH:
            # A tool call that the limit cut off cannot be made.
            try:
                calls = tuple(tool_call(use.id, use.name, "".join(use.pieces)) for use in self._tool_uses.values())
            except failures.UNREADABLE as cause:
                raise failures.garbage(self._name, usage=usage) from cause
        return Finished(
            stop_reason=StopReason.TOOL_CALLS if calls else reason, usage=usage, tool_calls=calls, model=self._model
        )
