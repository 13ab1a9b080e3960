"""The door `/v1/responses`."""

from typing import Final

from aiohttp import web

from services.inference.transport.convert import model_of
from services.inference.transport.doors.door import Asking, Visit
from services.inference.transport.doors.errors import Dialect
from services.inference.transport.doors.headers import answer_headers
from services.inference.transport.doors.openai_responses import responses_request
from services.inference.transport.doors.openai_responses_answer import ResponseAnswer, ResponseStream
from services.inference.transport.doors.openai_responses_prompt import prompt_of
from services.inference.transport.doors.stream import streamed

_DOOR: Final = "responses"
_KEEP_ALIVE: Final = b": keep-alive\n\n"


class ResponsesDoor:
    """Answers requests in OpenAI's newer dialect. Nothing is kept for a later one."""

    dialect = Dialect.OPENAI
    rpc = "/comitia.inference.v1.InferenceService/Generate"

    def __init__(self, asking: Asking, *, default_output: int) -> None:
        self._asking = asking
        self._default_output = default_output

    async def __call__(self, visit: Visit) -> web.StreamResponse:
        """See `Door`."""
        request = responses_request(await visit.request.read())
        prompt = prompt_of(request, default_output=self._default_output)
        user = request.safety_identifier or request.user
        asked = self._asking.asked(visit, model_of(request.model), prompt, door=_DOOR, user=user)
        said = ResponseAnswer(
            id=asked.context.call_id.run_id.rpartition("_")[2],
            created=int(self._asking.clock.now().timestamp()),
            model=asked.model,
            asked=request,
        )
        if request.stream:
            events = self._asking.calls(asked).stream(asked)
            return await streamed(visit, events, ResponseStream(said), quiet=_KEEP_ALIVE)
        answer = await self._asking.calls(asked).answer(asked)
        headers = {**visit.headers, **answer_headers(answer)}
        return web.Response(body=said.whole(answer), content_type="application/json", headers=headers)
