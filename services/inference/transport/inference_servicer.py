"""The gRPC face of inference."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from services.inference.domain.answer import Answer
from services.inference.domain.errors import CallArgumentsDiffer
from services.inference.domain.money_bound import bounds_of
from services.inference.transport import convert
from services.inference.transport.call_policy import policy_of
from services.inference.usecases.asked import Asked
from services.inference.usecases.embed import AskedVectors
from services.inference.usecases.embed_once import EmbedOnce
from services.inference.usecases.generate import Generate
from services.inference.usecases.ports import CallStore, Registry
from services.inference.usecases.route_calls import generators
from services.inference.usecases.stream_generate import StreamGenerate
from services.meshkit.batching.serve_batch import serve_items
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.content.received_context import as_reused, received_context
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.call import caller_of, seconds_left
from services.meshkit.grpc.once import once

#: Time kept back from the caller's deadline, so that the failure of a slow model still gets through, seconds.
_MARGIN_SECONDS: Final = 0.25
#: Longest call on a batch stream, as for the unary RPCs, seconds.
_ITEM_SECONDS: Final = 300.0
#: Calls in flight on one stream: more than are made at once, so that one too many hears so instead of waiting unread.
_MOST_ITEMS: Final = 16_384


class InferenceServicer(InferenceServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(
        self,
        *,
        generate: Generate,
        stream_generate: StreamGenerate,
        calls: CallStore,
        embed: EmbedOnce,
        registry: Registry,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._generate = generate
        self._stream_generate = stream_generate
        self._calls = calls
        self._embed = embed
        self._registry = registry
        self._clock = clock
        self._ids = ids

    async def Generate(self, request: pb.GenerateRequest, context: object) -> pb.GenerateResponse:
        with as_reused(request.request_id, CallArgumentsDiffer):
            answer = await self._generate(self._asked(request, caller_of(context), "Generate"))
        return pb.GenerateResponse(generation=convert.generation_to_proto(answer))

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: object
    ) -> AsyncGenerator[pb.StreamGenerateResponse]:
        sequence = 0
        events = self._stream_generate(self._asked(request, caller_of(context), "StreamGenerate"))
        with as_reused(request.request_id, CallArgumentsDiffer):
            async with aclosing(events):
                async for event in events:
                    sequence += 1
                    yield convert.event_to_proto(event, sequence)

    async def BatchGenerate(
        self, request_iterator: AsyncIterator[pb.BatchGenerateRequest], context: object
    ) -> AsyncGenerator[pb.BatchGenerateResponse]:
        async for frame in serve_items(
            request_iterator,
            self._item,
            answers=pb.BatchGenerateResponse,
            max_in_flight=_MOST_ITEMS,
            item_seconds=_ITEM_SECONDS,
        ):
            yield frame

    async def _item(self, item: BatchItem[pb.BatchGenerateRequest.Item]) -> pb.BatchGenerateResponse.Item:
        if item.message.acknowledged:
            await self._calls.acknowledge(convert.acknowledged_from_proto(item.message.acknowledged, item.principal))
            return pb.BatchGenerateResponse.Item()
        request = item.message.generate
        with as_reused(request.request_id, CallArgumentsDiffer):
            asked = self._asked(request, item.caller, "StreamGenerate")
            if not item.message.include_deltas:
                return convert.item_to_proto(await self._generate(asked))
            async with aclosing(self._stream_generate(asked)) as events:
                async for event in events:
                    if isinstance(event, Answer):
                        return convert.item_to_proto(event)
                    item.show(convert.item_to_proto(event))
        raise Internal("a call of a model ended without an answer", call_id=asked.key.call_id)

    async def Embed(self, request: pb.EmbedRequest, context: object) -> pb.EmbedResponse:
        caller = caller_of(context)
        whose, _ = received_context(
            request.context, caller, self._ids, request_id=request.request_id, method="Embed", for_others=True
        )
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
        tenant = caller_of(context).principal.tenant
        candidates = generators(self._registry.resolve(tenant, convert.model_of(request.model)))
        most = max(bound.input for bound in bounds_of(prompt, candidates))
        return pb.CountTokensResponse(input_tokens_bound=most)

    def _asked(self, request: convert.GenerateLike, caller: Caller, method: str) -> Asked:
        whose, repeatable = received_context(
            request.context, caller, self._ids, request_id=request.request_id, method=method
        )
        model = convert.model_of(request.model)
        return Asked(
            principal=caller.principal,
            context=whose,
            model=model,
            prompt=convert.prompt_of(request),
            repeatable=repeatable,
            deadline=self._deadline(),
            policy=policy_of(request.policy, usual=self._registry.policy(caller.principal.tenant, model)),
        )

    def _deadline(self) -> float:
        left = seconds_left()
        return self._clock.monotonic() + (60.0 if left is None else left - _MARGIN_SECONDS)
