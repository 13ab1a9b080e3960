"""Asks the policy service. When it cannot be asked, nothing goes on."""

from functools import lru_cache
from random import Random
from typing import Final

import grpc.aio

from comitia.policy.v1 import policy_pb2, policy_service_pb2
from comitia.policy.v1.policy_service_pb2_grpc import PolicyServiceStub
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.content.law import RuleOutcome, Stage, Subject, Verdict
from services.meshkit.content.proto import context_to_proto, parts_from_proto, parts_to_proto
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal

Evaluations = Coalescer[policy_service_pb2.BatchEvaluateRequest.Item, policy_service_pb2.BatchEvaluateResponse.Item]

_STAGES: Final = {
    Stage.BEFORE: policy_pb2.STAGE_BEFORE,
    Stage.DURING: policy_pb2.STAGE_DURING,
    Stage.AFTER: policy_pb2.STAGE_AFTER,
}
_STATUSES: Final = {
    policy_pb2.ACTION_UNSPECIFIED: "pass",
    policy_pb2.ACTION_WARN: "warn",
    policy_pb2.ACTION_REDACT: "redact",
    policy_pb2.ACTION_BLOCK: "block",
}
#: Outcomes of rules that are kept.
_KEPT_OUTCOMES: Final = 4096


def evaluations(to_policy: grpc.aio.Channel, *, clock: Clock) -> Evaluations:
    """Gives the batch stream that a `PolicyLawGate` asks over, to be opened with `async with`."""
    stub = PolicyServiceStub(to_policy)
    frame = policy_service_pb2.BatchEvaluateRequest
    return Evaluations(stub.BatchEvaluate, frame=frame, name="policy", clock=clock, random=Random())


class PolicyLawGate:
    """Has content judged over a batch stream to policy. A `LawGate`.

    Args:
        operation: what the service does, as rules name it.
        timeout_seconds: longest wait for a verdict.
    """

    def __init__(
        self, evaluations: Evaluations, *, operation: policy_pb2.Operation.ValueType, timeout_seconds: float = 10.0
    ) -> None:
        self._evaluations = evaluations
        self._operation = operation
        self._timeout_seconds = timeout_seconds

    async def evaluate(self, principal: Principal, subject: Subject) -> Verdict:
        """See `LawGate.evaluate`."""
        asked = policy_pb2.Subject(
            operation=self._operation,
            stage=_STAGES[subject.stage],
            parts=parts_to_proto(subject.parts),
            measures=subject.measures,
            context=context_to_proto(subject.context),
            target=subject.target,
        )
        item = policy_service_pb2.BatchEvaluateRequest.Item(subject=asked)
        answer = await self._evaluations.call(item, principal=principal, timeout_seconds=self._timeout_seconds)
        return _verdict(answer.verdict, subject)


@lru_cache(maxsize=_KEPT_OUTCOMES)
def _outcome(rule: str, action: policy_pb2.Action.ValueType, elapsed_us: int, stage: Stage) -> RuleOutcome:
    """Makes what one rule said. Kept: nearly all pass, in a few microseconds."""
    return RuleOutcome(rule=rule, status=_STATUSES.get(action, "block"), elapsed_us=elapsed_us, stage=stage)


def _verdict(said: policy_pb2.Verdict, subject: Subject) -> Verdict:
    parts = parts_from_proto(said.parts, field="verdict.parts")
    if parts and [type(part.content) for part in parts] != [type(part.content) for part in subject.parts]:
        # A redaction that does not fit its subject cannot be carried out, so nothing may go on.
        raise Unavailable("policy", verdict_id=said.verdict_id)
    return Verdict(
        id=said.verdict_id,
        allowed=said.allowed,
        rules=tuple([_outcome(one.rule, one.action, one.elapsed_us, subject.stage) for one in said.results]),
        parts=parts,
        bundle_digest=said.bundle_digest,
        bundle=said.bundle,
    )
