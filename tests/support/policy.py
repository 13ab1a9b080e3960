"""Builders of what policy judges and stores."""

from typing import Any, Final
from uuid import uuid4

from comitia.common.v1 import content_pb2
from comitia.policy.v1 import policy_pb2
from comitia.policy.v1 import policy_service_pb2 as pb
from services.meshkit.content import CallContext, CallId, Label, Part, text_part
from services.meshkit.testing.fake_clock import NOON
from services.policy.domain.bundle import Bundle, BundleId
from services.policy.domain.subject import Operation, Stage, Subject
from services.policy.domain.verdict import Judgement
from services.policy.rules.compiled import CompiledBundle
from services.policy.rules.parse import parse_bundle
from services.policy.usecases.ports import NewBundle

#: Sits in the place of a secret; rationales must never repeat it.
CANARY: Final = "xylophone-4711"


def a_bundle(*, name: str = "house", version: str = "1.0.0", keyword: str = CANARY, action: str = "block") -> str:
    """Gives the source of a bundle with one keyword rule."""
    return f"""
name: {name}
version: {version}
rules:
  - name: no_canary
    type: keyword
    severity: severe
    action: {action}
    keywords: ["{keyword}"]
"""


def a_new_bundle(*, name: str = "house", version: str = "1.0.0", source: str = "", digest: str = "") -> NewBundle:
    """Gives a bundle that is to be stored."""
    source = source or a_bundle(name=name, version=version)
    bundle = Bundle(
        id=BundleId(uuid4()),
        name=name,
        version=version,
        digest=digest or parse_bundle(source).digest,
        source=source,
        rule_count=1,
        created=NOON,
    )
    return NewBundle(bundle=bundle, by="key_test")


def rules(*lines: str) -> str:
    """Gives the source of a bundle with these rules, each as a flow mapping's inside."""
    return "rules:\n" + "\n".join(f"  - {{{line}}}" for line in lines)


def a_subject(
    *texts: str,
    parts: tuple[Part, ...] = (),
    stage: Stage = Stage.BEFORE,
    operation: Operation = Operation.GENERATE,
    run_id: str = "direct_1",
    **fields: Any,
) -> Subject:
    """Gives something to judge."""
    return Subject(
        operation=operation,
        stage=stage,
        parts=(*(text_part(text, Label()) for text in texts), *parts),
        context=CallContext(call_id=CallId(run_id=run_id, path="rounds/1/Athena")),
        **fields,
    )


def judged(source: str, subject: Subject) -> Judgement:
    """Judges under the rules of a source; time stands still."""
    return CompiledBundle(parse_bundle(source).rules).judge(subject, timer=lambda: 0.0)


def an_evaluation(
    text: str = "hello",
    *,
    stage: policy_pb2.Stage.ValueType = policy_pb2.STAGE_BEFORE,
    run_id: str = "direct_1",
    call_index: int = 0,
    **fields: Any,
) -> pb.EvaluateRequest:
    """Gives a request for a verdict on a text."""
    subject = policy_pb2.Subject(
        operation=policy_pb2.OPERATION_GENERATE,
        stage=stage,
        parts=[content_pb2.Part(text=content_pb2.TextPart(text=text))],
        context=content_pb2.CallContext(
            call_id=content_pb2.CallId(run_id=run_id, path="rounds/1/Athena", call_index=call_index),
            agent_name="Athena",
        ),
        **fields,
    )
    return pb.EvaluateRequest(subject=subject)
