"""What policy says becomes a verdict; what cannot be carried out stops everything."""

from typing import Any

import pytest

from comitia.policy.v1 import policy_pb2, policy_service_pb2
from services.meshkit.calls.law_gate import PolicyLawGate
from services.meshkit.content import CallContext, CallId, Label, Part, ToolCallPart, text_part
from services.meshkit.content.law import Stage, Subject
from services.meshkit.content.proto import parts_to_proto
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.core.secret import Secret
from services.meshkit.testing.mesh_keys import TENANT

ANNA = Principal(tenant=TENANT, subject="anna", roles=frozenset(), token=Secret("token-of-anna"))
CALL = Part(ToolCallPart(tool_call_id="", name="search", arguments={"q": "secret"}), Label())
SUBJECT = Subject(
    stage=Stage.AFTER,
    parts=(text_part("secret", Label()), CALL),
    measures={"latency_ms": 7.0},
    context=CallContext(call_id=CallId(run_id="run_1")),
    target="gpt-test",
)


class Evaluations:
    """Policy's end of the stream: says the same to everything."""

    def __init__(self, **verdict: Any) -> None:
        self.verdict = policy_pb2.Verdict(verdict_id="verdict_1", bundle="words@1.0.0", **verdict)
        self.asked: list[policy_pb2.Subject] = []

    async def call(
        self, item: policy_service_pb2.BatchEvaluateRequest.Item, *, principal: Principal, timeout_seconds: float
    ) -> policy_service_pb2.BatchEvaluateResponse.Item:
        assert (principal, timeout_seconds) == (ANNA, 10.0)
        self.asked.append(item.subject)
        return policy_service_pb2.BatchEvaluateResponse.Item(verdict=self.verdict)


def gate(evaluations: Any) -> PolicyLawGate:
    return PolicyLawGate(evaluations, operation=policy_pb2.OPERATION_GENERATE)


async def test_policy_is_shown_everything_and_its_rules_come_back() -> None:
    results = [
        policy_pb2.RuleResult(rule="secrets", action=policy_pb2.ACTION_BLOCK, elapsed_us=3),
        policy_pb2.RuleResult(rule="length", action=policy_pb2.ACTION_WARN, elapsed_us=1),
        policy_pb2.RuleResult(rule="words"),
    ]
    policy = Evaluations(allowed=False, results=results, bundle_digest="ab" * 32)
    verdict = await gate(policy).evaluate(ANNA, SUBJECT)
    [asked] = policy.asked
    assert (asked.operation, asked.stage, asked.target) == (
        policy_pb2.OPERATION_GENERATE,
        policy_pb2.STAGE_AFTER,
        "gpt-test",
    )
    assert (len(asked.parts), dict(asked.measures), asked.context.call_id.run_id) == (2, {"latency_ms": 7.0}, "run_1")
    assert [(rule.rule, rule.status, rule.stage) for rule in verdict.rules] == [
        ("secrets", "block", "after"),
        ("length", "warn", "after"),
        ("words", "pass", "after"),
    ]
    assert (verdict.allowed, verdict.blocking, verdict.parts) == (False, ("secrets",), ())
    assert (verdict.id, verdict.bundle, verdict.bundle_digest) == ("verdict_1", "words@1.0.0", "ab" * 32)


async def test_a_redaction_comes_back_as_parts() -> None:
    redacted = (text_part("[secret]", Label()), CALL)
    verdict = await gate(Evaluations(allowed=True, parts=parts_to_proto(redacted))).evaluate(ANNA, SUBJECT)
    assert verdict.parts == redacted


@pytest.mark.parametrize("parts", [(CALL,), (CALL, CALL), (text_part("a", Label()), CALL, CALL)])
async def test_a_redaction_that_does_not_fit_stops_everything(parts: tuple[Part, ...]) -> None:
    with pytest.raises(Unavailable):
        await gate(Evaluations(allowed=True, parts=parts_to_proto(parts))).evaluate(ANNA, SUBJECT)
