"""Asks the policy service. When it cannot be asked, nothing goes on."""

from typing import Final

from comitia.policy.v1 import policy_pb2, policy_service_pb2
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.content.proto import context_to_proto, parts_from_proto, parts_to_proto
from services.meshkit.core.identity import Principal
from services.tools.domain.law import Stage, Subject, Verdict

Evaluations = Coalescer[policy_service_pb2.BatchEvaluateRequest.Item, policy_service_pb2.BatchEvaluateResponse.Item]

_STAGES: Final = {
    Stage.BEFORE: policy_pb2.STAGE_BEFORE,
    Stage.DURING: policy_pb2.STAGE_DURING,
    Stage.AFTER: policy_pb2.STAGE_AFTER,
}
_TIMEOUT_SECONDS: Final = 10.0


class PolicyLawGate:
    """Has content judged over a batch stream to policy. A `LawGate`."""

    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations = evaluations

    async def evaluate(self, principal: Principal, subject: Subject) -> Verdict:
        """See `LawGate.evaluate`."""
        asked = policy_pb2.Subject(
            operation=policy_pb2.OPERATION_INVOKE_TOOL,
            stage=_STAGES[subject.stage],
            parts=parts_to_proto(subject.parts),
            measures=subject.measures,
            context=context_to_proto(subject.context),
            target=subject.target,
        )
        item = policy_service_pb2.BatchEvaluateRequest.Item(subject=asked)
        answer = await self._evaluations.call(item, principal=principal, timeout_seconds=_TIMEOUT_SECONDS)
        return _verdict(answer.verdict, subject)


def _verdict(said: policy_pb2.Verdict, subject: Subject) -> Verdict:
    parts = parts_from_proto(said.parts, field="verdict.parts")
    same_shape = [type(part.content) for part in parts] == [type(part.content) for part in subject.parts]
    return Verdict(
        id=said.verdict_id,
        # A redaction that does not fit its subject cannot be carried out, so nothing may go on.
        allowed=said.allowed and (not parts or same_shape),
        blocking=tuple(result.rule for result in said.results if result.action == policy_pb2.ACTION_BLOCK),
        parts=parts,
        bundle_digest=said.bundle_digest,
        bundle=said.bundle,
    )
