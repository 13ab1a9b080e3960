"""An adapter as a third party writes one: it speaks a dialect that nobody else does, and its models shout."""

import json
from collections.abc import AsyncGenerator

from services.inference.domain.answer import Finished, Piece, StopReason, TextDelta, Whole
from services.inference.providers.catalogue import AdapterSpec
from services.inference.providers.http import ProviderHttp
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.ports import ProviderCall
from services.meshkit.content import Usage, text_of


class ShoutingProvider:
    """A `ModelProvider`."""

    def __init__(self, http: ProviderHttp, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def whole(self, call: ProviderCall) -> Whole:
        """See `ModelProvider.whole`."""
        prompt = call.prompt
        asked = {
            "model": call.deployment.model,
            "messages": [{"role": "user", "content": text_of(prompt.parts).upper()}],
            "max_tokens": prompt.max_output_tokens,
        }
        raw = await self._http.body(
            call.deployment.name,
            f"{self._endpoint.base_url}/chat/completions",
            self._endpoint.headers(),
            json.dumps(asked).encode(),
            call.clearance,
            seconds=call.seconds,
            between_seconds=call.between_seconds,
        )
        said = json.loads(raw)
        usage = Usage(input=said["usage"]["prompt_tokens"], output=said["usage"]["completion_tokens"])
        text = said["choices"][0]["message"]["content"].upper()
        return Whole(text=text, finished=Finished(stop_reason=StopReason.STOP, usage=usage, model=said["model"]))

    async def stream(self, call: ProviderCall) -> AsyncGenerator[Piece]:
        """See `ModelProvider.stream`."""
        answer = await self.whole(call)
        yield TextDelta(answer.text)
        yield answer.finished


ADAPTER = AdapterSpec(capabilities=frozenset(), open=ShoutingProvider)
