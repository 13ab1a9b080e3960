"""gRPC face of verdicts."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc.aio import ServicerContext

from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1.policy_service_pb2_grpc import PolicyServiceServicer
from services.meshkit.batching.serve_batch import serve_batch
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.call import caller_of
from services.policy.transport import convert
from services.policy.usecases.evaluate import Answer, Evaluate, Question

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class PolicyServicer(PolicyServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(self, *, evaluate: Evaluate) -> None:
        self._evaluate = evaluate

    async def Evaluate(self, request: pb.EvaluateRequest, context: Context) -> pb.EvaluateResponse:
        question = convert.to_question(request.subject, caller_of(context).principal)
        return pb.EvaluateResponse(verdict=convert.verdict_to_proto(await self._evaluate.one(question)))

    async def BatchEvaluate(
        self, request_iterator: AsyncIterator[pb.BatchEvaluateRequest], context: Context
    ) -> AsyncIterator[pb.BatchEvaluateResponse]:
        async for frame in serve_batch(request_iterator, self._evaluate_frame, answers=pb.BatchEvaluateResponse):
            yield frame

    async def _evaluate_frame(
        self, items: Sequence[BatchItem[pb.BatchEvaluateRequest.Item]]
    ) -> Sequence[pb.BatchEvaluateResponse.Item | MeshError]:
        read = [_question(item) for item in items]
        answers = iter(await self._evaluate.many([question for question in read if isinstance(question, Question)]))
        return [_answer(question if isinstance(question, MeshError) else next(answers)) for question in read]


def _question(item: BatchItem[pb.BatchEvaluateRequest.Item]) -> Question | MeshError:
    try:
        return convert.to_question(item.message.subject, item.principal, traceparent=item.traceparent, inside=True)
    except MeshError as refusal:
        return refusal


def _answer(answer: Answer) -> pb.BatchEvaluateResponse.Item | MeshError:
    if isinstance(answer, MeshError):
        return answer
    return pb.BatchEvaluateResponse.Item(verdict=convert.verdict_to_proto(answer))
