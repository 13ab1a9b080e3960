"""Asks the policy service. When it cannot be asked, nothing is stored."""

from typing import Final

from comitia.policy.v1 import policy_pb2, policy_service_pb2
from services.memory.usecases.ports import Verdict
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.content import CallContext, Part
from services.meshkit.content.proto import context_to_proto, parts_from_proto, parts_to_proto
from services.meshkit.core.identity import Principal

Evaluations = Coalescer[policy_service_pb2.BatchEvaluateRequest.Item, policy_service_pb2.BatchEvaluateResponse.Item]

_TIMEOUT_SECONDS: Final = 8.0


class PolicyLawGate:
    """Has content judged over a batch stream to policy. A `LawGate`."""

    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations = evaluations

    async def judge(self, principal: Principal, parts: tuple[Part, ...], context: CallContext) -> Verdict:
        """See `LawGate.judge`."""
        asked = policy_pb2.Subject(
            operation=policy_pb2.OPERATION_REMEMBER,
            stage=policy_pb2.STAGE_BEFORE,
            parts=parts_to_proto(parts),
            context=context_to_proto(context),
        )
        item = policy_service_pb2.BatchEvaluateRequest.Item(subject=asked)
        answer = await self._evaluations.call(item, principal=principal, timeout_seconds=_TIMEOUT_SECONDS)
        said = answer.verdict
        return Verdict(
            id=said.verdict_id,
            allowed=said.allowed,
            blocking=tuple(result.rule for result in said.results if result.action == policy_pb2.ACTION_BLOCK),
            parts=parts_from_proto(said.parts, field="verdict.parts"),
            bundle=said.bundle,
        )
