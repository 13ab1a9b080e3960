"""OpenAI: the chat-completions wire, streamed, usage included."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import msgspec

from services.inference.domain.answer import Finished, StopReason, TextDelta
from services.inference.domain.deployment import DeploymentVersion
from services.inference.providers import failures
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat_wire import (
    Chunk,
    LimitField,
    ToolCalls,
    UsageCounter,
    request_body,
    stop_reason_of,
)
from services.inference.usecases.ports import ProviderCall
from services.meshkit.core.secret import NO_SECRET, Secret

_DECODER: Final = msgspec.json.Decoder(Chunk)
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a dialect is spoken, and with which key."""

    #: Without a slash at the end, such as `https://api.openai.com/v1`.
    base_url: str
    key: Secret = NO_SECRET

    def headers(self) -> dict[str, str]:
        """Gives the header that carries the key, if there is one."""
        return {"authorization": f"Bearer {self.key.reveal()}"} if self.key else {}


class OpenAiProvider:
    """Asks OpenAI."""

    #: What OpenAI itself does and its imitators do not always do.
    limit_field: LimitField = "max_completion_tokens"
    names = True
    #: True when a stream without `[DONE]` at its end was cut off.
    ends_with_done = True

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def stream(self, call: ProviderCall) -> AsyncGenerator[TextDelta | Finished]:
        """See `ModelProvider.stream`."""
        deployment = call.deployment
        body = request_body(call.prompt, model=deployment.model, limit_field=self.limit_field, names=self.names)
        url = f"{self._endpoint.base_url}/chat/completions"
        answer = _Reader(deployment)
        events = self._http.events(
            deployment.name, url, self._endpoint.headers(), body, call.clearance, seconds=call.seconds
        )
        async with aclosing(events):
            async for event in events:
                if event.data == _DONE:
                    answer.done = True
                    break
                text = answer.take(event.data)
                if text:
                    yield TextDelta(text)
        yield answer.finished(ends_with_done=self.ends_with_done)


class _Reader:
    """Puts one answer together from its chunks."""

    def __init__(self, deployment: DeploymentVersion) -> None:
        self._deployment = deployment
        self._tool_calls = ToolCalls()
        self._finish_reason: str | None = None
        self._usage = UsageCounter()
        self._model = deployment.model
        self.done = False

    def take(self, data: bytes) -> str:
        """Takes a chunk and gives its text."""
        try:
            chunk = _DECODER.decode(data)
        except msgspec.MsgspecError as cause:
            raise failures.garbage(self._deployment.name) from cause
        if chunk.failed:
            raise failures.error_event(self._deployment.name, data)
        self._usage.take(chunk.usage)
        self._model = chunk.model or self._model
        texts: list[str] = []
        for choice in chunk.choices:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.delta is None:
                continue
            texts += [choice.delta.content or "", choice.delta.refusal or ""]
            for piece in choice.delta.calls:
                self._tool_calls.add(piece)
        return "".join(texts)

    def finished(self, *, ends_with_done: bool) -> Finished:
        """Gives the end of the answer.

        Raises: ProviderUnavailable: the stream ended before the answer did, or a tool call makes no sense.
        """
        name, usage = self._deployment.name, self._usage.total()
        if self._finish_reason is None or (ends_with_done and not self.done):
            raise failures.cut_off(name)
        if stop_reason_of(self._finish_reason, tool_calls=False) is StopReason.LENGTH:
            # A tool call that the limit cut off cannot be made.
            return Finished(stop_reason=StopReason.LENGTH, usage=usage, model=self._model)
        try:
            calls = self._tool_calls.whole()
        except msgspec.MsgspecError as cause:
            raise failures.garbage(name, usage=usage) from cause
        reason = stop_reason_of(self._finish_reason, tool_calls=bool(calls))
        return Finished(stop_reason=reason, usage=usage, tool_calls=calls, model=self._model)
