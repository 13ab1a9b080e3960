"""The doors `/v1/messages` and `/v1/messages/count_tokens`."""

from typing import Final

import msgspec
from aiohttp import web

from services.inference.transport.convert import model_of
from services.inference.transport.doors.anthropic_answers import MessageAnswer, MessageStream, event
from services.inference.transport.doors.anthropic_messages import (
    count_request,
    estimated_tokens,
    messages_request,
    prompt_of,
)
from services.inference.transport.doors.door import Asking, Visit
from services.inference.transport.doors.errors import Dialect
from services.inference.transport.doors.headers import answer_headers
from services.inference.transport.doors.stream import streamed
from services.inference.usecases.ports import Registry
from services.inference.usecases.route_calls import generators

_DOOR: Final = "messages"
_PING: Final = event("ping")


class MessagesDoor:
    """Answers messages in Anthropic's dialect."""

    dialect = Dialect.ANTHROPIC
    rpc = "/comitia.inference.v1.InferenceService/Generate"

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def __call__(self, visit: Visit) -> web.StreamResponse:
        """See `Door`."""
        request = messages_request(await visit.request.read())
        prompt = prompt_of(request)
        user = None if request.metadata is None else request.metadata.user_id
        asked = self._asking.asked(visit, model_of(request.model), prompt, door=_DOOR, user=user)
        said = MessageAnswer(
            id=f"msg_{asked.context.call_id.run_id.rpartition('_')[2]}",
            model=asked.model,
            prompt_tokens=estimated_tokens(prompt) if request.stream else 0,
        )
        if request.stream:
            events = self._asking.calls(asked).stream(asked)
            return await streamed(visit, events, MessageStream(said), quiet=_PING)
        answer = await self._asking.calls(asked).answer(asked)
        headers = {**visit.headers, **answer_headers(answer)}
        return web.Response(body=said.whole(answer), content_type="application/json", headers=headers)


class CountTokensDoor:
    """Says about how many tokens a prompt has, in Anthropic's dialect."""

    dialect = Dialect.ANTHROPIC
    rpc = "/comitia.inference.v1.InferenceService/CountTokens"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, visit: Visit) -> web.StreamResponse:
        """See `Door`."""
        request = count_request(await visit.request.read())
        generators(self._registry.resolve(visit.principal.tenant, model_of(request.model)))
        body = msgspec.json.encode({"input_tokens": estimated_tokens(prompt_of(request))})
        return web.Response(body=body, content_type="application/json", headers=dict(visit.headers))
