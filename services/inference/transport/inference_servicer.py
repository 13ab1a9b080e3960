"""The gRPC face of inference."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer, ModelServiceServicer
from services.inference.domain.call import check_whose
from services.inference.domain.deployment import Deployments
from services.inference.domain.errors import CallArgumentsDiffer
from services.inference.domain.money_bound import bound_of
from services.inference.transport import convert
from services.inference.usecases.asked import Asked
from services.inference.usecases.embed import AskedVectors
from services.inference.usecases.embed_once import EmbedOnce
from services.inference.usecases.generate import Generate
from services.inference.usecases.list_models import ListModels
from services.inference.usecases.stream_generate import StreamGenerate
from services.meshkit.content.received_context import as_reused, received_context
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.call import caller_of, seconds_left
from services.meshkit.grpc.once import once

#: Time kept back from the caller's deadline, so that the failure of a slow model still gets through, seconds.
_MARGIN_SECONDS = 0.25


class InferenceServicer(InferenceServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(
        self,
        *,
        generate: Generate,
        stream_generate: StreamGenerate,
        embed: EmbedOnce,
        deployments: Deployments,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._generate = generate
        self._stream_generate = stream_generate
        self._embed = embed
        self._deployments = deployments
        self._clock = clock
        self._ids = ids

    async def Generate(self, request: pb.GenerateRequest, context: object) -> pb.GenerateResponse:
        with as_reused(request.request_id, CallArgumentsDiffer):
            answer = await self._generate(self._asked(request, context, "Generate"))
        return pb.GenerateResponse(generation=convert.generation_to_proto(answer))

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: object
    ) -> AsyncGenerator[pb.StreamGenerateResponse]:
        sequence = 0
        events = self._stream_generate(self._asked(request, context, "StreamGenerate"))
        with as_reused(request.request_id, CallArgumentsDiffer):
            async with aclosing(events):
                async for event in events:
                    sequence += 1
                    yield convert.event_to_proto(event, sequence)

    async def Embed(self, request: pb.EmbedRequest, context: object) -> pb.EmbedResponse:
        caller = caller_of(context)
        whose, _ = received_context(request.context, caller, self._ids, request_id=request.request_id, method="Embed")
        asked = AskedVectors(
            principal=caller.principal,
            context=whose,
            model=convert.model_of(request.model),
            texts=tuple(request.texts),
            deadline=self._deadline(),
        )
        return await once(request, lambda: self._embed(asked), convert.vectors_to_proto, answers=pb.EmbedResponse)

    async def CountTokens(self, request: pb.CountTokensRequest, context: object) -> pb.CountTokensResponse:
        prompt = convert.counted_prompt_of(request)
        candidates = self._deployments.generators(convert.model_of(request.model))
        most = max(bound_of(prompt, deployment.adapter).input for deployment in candidates)
        return pb.CountTokensResponse(input_tokens_bound=most)

    def _asked(self, request: convert.GenerateLike, context: object, method: str) -> Asked:
        caller = caller_of(context)
        whose, repeatable = received_context(
            request.context, caller, self._ids, request_id=request.request_id, method=method
        )
        if repeatable and not request.request_id:
            check_whose(whose.call_id, run=caller.principal.run_id)
        return Asked(
            principal=caller.principal,
            context=whose,
            model=convert.model_of(request.model),
            prompt=convert.prompt_of(request),
            repeatable=repeatable,
            deadline=self._deadline(),
        )

    def _deadline(self) -> float:
        left = seconds_left()
        return self._clock.monotonic() + (60.0 if left is None else left - _MARGIN_SECONDS)


class ModelServicer(ModelServiceServicer):
    """Says which models the mesh can ask."""

    def __init__(self, *, list_models: ListModels) -> None:
        self._list_models = list_models

    async def ListModels(self, request: pb.ListModelsRequest, context: object) -> pb.ListModelsResponse:
        listed = await self._list_models(caller_of(context).principal)
        return pb.ListModelsResponse(models=convert.deployments_to_proto(listed))
