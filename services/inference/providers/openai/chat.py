"""The chat-completions wire: OpenAI itself, and all who speak its dialect, each with manners of its own."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from services.inference.domain.answer import Finished, Piece, ReasoningDelta, StopReason, TextDelta, Whole
from services.inference.domain.deployment import DeploymentVersion
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp
from services.inference.providers.instruction import CannotBeTold
from services.inference.providers.openai.chat_wire import (
    Chunk,
    Manners,
    ToolCalls,
    UsageCounter,
    request_body,
    stop_reason_of,
)
from services.inference.usecases.ports import ProviderCall
from services.meshkit.core.secret import NO_SECRET, Secret

_DECODER: Final = msgspec.json.Decoder(Chunk)
_DONE: Final = b"[DONE]"
OPENAI: Final = Manners()
#: Azure reads PDFs by its Responses API only.
AZURE: Final = replace(OPENAI, pdfs=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a dialect is spoken, and with which key."""

    #: Without a slash at the end, such as `https://api.openai.com/v1`.
    base_url: str
    key: Secret = NO_SECRET

    def headers(self) -> dict[str, str]:
        """Gives the header that carries the key, if there is one."""
        return {"authorization": f"Bearer {self.key.reveal()}"} if self.key else {}


class ChatProvider:
    """Asks a server that speaks OpenAI's chat dialect."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint, manners: Manners = OPENAI) -> None:
        self._http = http
        self._url = f"{endpoint.base_url}/chat/completions"
        self._headers = endpoint.headers()
        self._manners = manners

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = ChatReader(call.deployment)
        body = chat_body(call, self._manners, stream=True)
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
                if event.data == _DONE:
                    answer.done = True
                    break
                for piece in answer.take(event.data):
                    yield piece
        yield answer.finished(ends_with_done=self._manners.ends_with_done)

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        body = chat_body(call, self._manners, stream=False)
        raw = await self._http.body(
            call.deployment.name,
            self._url,
            self._headers,
            body,
            call.clearance,
            seconds=call.seconds,
            between_seconds=call.between_seconds,
        )
        answer = ChatReader(call.deployment)
        text = "".join(piece.text for piece in answer.take(raw) if isinstance(piece, TextDelta))
        return Whole(text=text, finished=answer.finished(ends_with_done=False))


def chat_body(call: ProviderCall, manners: Manners, *, stream: bool) -> bytes:
    """Writes the request of a call. Raises: ProviderRefused: something of it cannot be told."""
    try:
        return request_body(call.prompt, model=call.deployment.model, manners=manners, stream=stream)
    except CannotBeTold as cause:
        raise failures.cannot_be_told(call.deployment.name, cause.field) from cause


class ChatReader:
    """Puts one answer together from its chunks, or from the one body that it is."""

    def __init__(self, deployment: DeploymentVersion) -> None:
        self._deployment = deployment
        self._tool_calls = ToolCalls()
        self._finish_reason: str | None = None
        self._refused = False
        self._usage = UsageCounter()
        self._model = deployment.model
        self.done = False

    def take(self, data: bytes) -> list[TextDelta | ReasoningDelta]:
        """Takes a chunk and gives what it adds."""
        try:
            chunk = _DECODER.decode(data)
        except failures.UNREADABLE as cause:
            raise failures.garbage(self._deployment.name) from cause
        if chunk.failed:
            raise failures.error_event(self._deployment.name, data)
        self._usage.take(chunk.usage)
        self._model = chunk.model or self._model
        pieces: list[TextDelta | ReasoningDelta] = []
        for choice in chunk.choices:
            self._finish_reason = choice.finish_reason or self._finish_reason
            said = choice.delta or choice.message
            if said is None:
                continue
            thought = said.reasoning_content or said.reasoning
            if thought:
                pieces.append(ReasoningDelta(thought))
            text = f"{said.content or ''}{said.refusal or ''}"
            if text:
                pieces.append(TextDelta(text))
            self._refused |= bool(said.refusal)
            for piece in said.calls:
                self._tool_calls.add(piece)
        return pieces

    def finished(self, *, ends_with_done: bool) -> Finished:
        """Gives the end of the answer.

        Raises: ProviderUnavailable: the answer is not whole, or a tool call makes no sense.
        """
        name, usage = self._deployment.name, self._usage.total()
        if self._finish_reason is None or (ends_with_done and not self.done):
            raise failures.cut_off(name)
        if stop_reason_of(self._finish_reason, tool_calls=False) is StopReason.LENGTH:
            # A tool call that the limit cut off cannot be made.
            return Finished(stop_reason=StopReason.LENGTH, usage=usage, model=self._model)
        try:
            calls = self._tool_calls.whole()
        except failures.UNREADABLE as cause:
            raise failures.garbage(name, usage=usage) from cause
        reason = stop_reason_of(self._finish_reason, tool_calls=bool(calls))
        if self._refused and reason is StopReason.STOP:
            reason = StopReason.REFUSAL
        return Finished(stop_reason=reason, usage=usage, tool_calls=calls, model=self._model)
