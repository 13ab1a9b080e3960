"""The doors `/v1/messages` and `/v1/messages/count_tokens`."""

from typing import Final

import msgspec
from aiohttp import web

from services.inference.transport.convert import model_of
from services.inference.transport.doors.anthropic_answers import MessageAnswer, MessageStream, event
from services.inference.transport.doors.anthropic_messages import count_request, messages_request
from services.inference.transport.doors.anthropic_prompt import conversation_of, estimated_tokens, prompt_of
from services.inference.transport.doors.door import Asking, Visit
from services.inference.transport.doors.errors import Dialect
from services.inference.transport.doors.stream import answered
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
        request = messages_request(await self._asking.body(visit))
        talk = conversation_of(request)
        prompt = prompt_of(request, talk)
        user = None if request.metadata is None else request.metadata.user_id
        asked = self._asking.asked(visit, model_of(request.model), prompt, door=_DOOR, user=user)
        said = MessageAnswer(
            id=f"msg_{asked.context.call_id.run_id.rpartition('_')[2]}",
            model=asked.model,
            prompt_tokens=estimated_tokens(prompt) if request.stream else 0,
        )
        stream = MessageStream(said) if request.stream else None
        return await answered(visit, self._asking, asked, of=talk, said=said, as_stream=stream, quiet=_PING)


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
        body = msgspec.json.encode({"input_tokens": estimated_tokens(prompt_of(request, conversation_of(request)))})
        return web.Response(body=body, content_type="application/json", headers=dict(visit.headers))
