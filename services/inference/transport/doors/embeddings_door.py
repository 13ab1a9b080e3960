"""The door `/v1/embeddings`."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from services.inference.transport.convert import model_of
from services.inference.transport.doors.door import Visit
from services.inference.transport.doors.errors import Dialect
from services.inference.transport.doors.openai_embeddings import embedding_request, embeddings, in_dialect
from services.inference.usecases.embed import AskedVectors, Vectors
from services.meshkit.content import CallContext, CallId
from services.meshkit.content.call import DIRECT
from services.meshkit.core.errors import Invalid
from services.meshkit.core.ids import IdSource

_DOOR: Final = "embeddings"


class EmbeddingsDoor:
    """Makes vectors in OpenAI's dialect."""

    dialect = Dialect.OPENAI
    rpc = "/comitia.inference.v1.InferenceService/Embed"

    def __init__(self, embed: Callable[[AskedVectors], Awaitable[Vectors]], *, ids: IdSource) -> None:
        self._embed = embed
        self._ids = ids

    async def __call__(self, visit: Visit) -> web.StreamResponse:
        """See `Door`."""
        request = embedding_request(await visit.request.read())
        principal = visit.principal
        asked = AskedVectors(
            principal=principal,
            context=CallContext(
                call_id=CallId(run_id=self._ids.new(DIRECT), path=_DOOR),
                agent_name=principal.subject,
                project=principal.project or "",
            ),
            model=model_of(request.model),
            texts=(request.input,) if isinstance(request.input, str) else tuple(request.input),
            deadline=visit.deadline,
        )
        try:
            made = await self._embed(asked)
        except Invalid as refused:
            raise in_dialect(refused) from refused
        return web.Response(
            body=embeddings(made, request), content_type="application/json", headers=dict(visit.headers)
        )
