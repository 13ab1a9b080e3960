"""Verdicts on the wire, one by one and in batches."""

import asyncio
import time
from random import Random
from typing import Any

import pytest

from comitia.common.v1 import batch_pb2, content_pb2
from comitia.policy.v1 import policy_pb2
from comitia.policy.v1 import policy_service_pb2 as pb
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import from_status
from tests.integration.policy.conftest import PolicyCaller, PolicyMesh
from tests.support.policy import CANARY, a_bundle, an_evaluation, rules

pytestmark = pytest.mark.asyncio(loop_scope="module")

A_TEXT = content_pb2.Part(text=content_pb2.TextPart(text="x"))
RULES = "name: mine\nversion: 1.0.0\n" + rules(
    f"name: stop, type: keyword, severity: severe, keywords: ['{CANARY}']",
    "name: digits, type: regex, action: redact, pattern: '[0-9]{6}'",
    "name: long, type: resource, severity: minor, params: {output_tokens: 10}, stages: [after]",
)


async def test_a_verdict_names_every_rule_of_the_stage_in_order(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    bundle = await caller.create(RULES)
    verdict = await caller.evaluate(f"{CANARY} and 123456")
    assert verdict.verdict_id.startswith("verdict_")
    assert (verdict.bundle, verdict.bundle_digest, verdict.allowed) == ("mine@1.0.0", bundle.digest, False)
    assert [(result.rule, result.action, result.severity) for result in verdict.results] == [
        ("stop", policy_pb2.ACTION_BLOCK, policy_pb2.SEVERITY_SEVERE),
        ("digits", policy_pb2.ACTION_REDACT, policy_pb2.SEVERITY_MAJOR),
    ]
    assert CANARY not in str(verdict.results)
    assert "123456" not in str(verdict)
    after = await caller.evaluate("fine", stage=policy_pb2.STAGE_AFTER, measures={"output_tokens": 11})
    assert [result.action for result in after.results] == [0, 0, policy_pb2.ACTION_WARN]
    assert (after.allowed, len(after.parts)) == (True, 0)
    assert after.results[2].rationale == "output_tokens is 11, at most 10 is allowed"


async def test_redacted_parts_keep_their_place_and_label(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    label = content_pb2.Label(integrity=content_pb2.INTEGRITY_TRUSTED, sources=["agent:Athena"])
    request = an_evaluation("untouched")
    call = request.subject.parts.add(tool_call=content_pb2.ToolCallPart(name="http_get"), label=label)
    call.tool_call.arguments.update({"n": [{"deep": "a 123456 b"}]})
    request.subject.parts.add(tool_result=content_pb2.ToolResultPart(text="654321"), label=label)
    request.subject.parts.add(document=content_pb2.DocumentPart(media_type="application/pdf", title="No 111111"))
    verdict = (await caller.call("Evaluate", request)).verdict
    text, tool_call, result, document = verdict.parts
    assert text == request.subject.parts[0] or text.text.text == "untouched"
    assert tool_call.tool_call.arguments["n"][0]["deep"] == "a [redacted:digits] b"
    assert result.tool_result.text == "[redacted:digits]"
    assert document.document.title == "No [redacted:digits]"
    assert [tuple(part.label.sources) for part in verdict.parts] == [(), ("agent:Athena",), ("agent:Athena",), ()]
    assert tool_call.label.integrity == content_pb2.INTEGRITY_TRUSTED


async def test_content_is_judged_whole_however_large(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create()
    text = "lorem ipsum " * 20_000
    assert (await caller.evaluate(text)).allowed
    assert not (await caller.evaluate(text + CANARY)).allowed
    too_long = an_evaluation("x" * (256 * 1024 + 1))
    assert await caller.refused("Evaluate", too_long) == "invalid/INVALID_FIELD"


@pytest.mark.parametrize(
    ("field", "subject"),
    [
        ("subject.stage", {"operation": 1}),
        ("subject.stage", {"operation": 1, "stage": 9}),
        ("subject.operation", {"stage": 1}),
        ("subject.parts[0]", {"operation": 1, "stage": 1, "parts": [content_pb2.Part()]}),
        (
            "subject.parts",
            {"operation": 1, "stage": 1, "parts": [A_TEXT] * 257},
        ),
        ("subject.measures['a']", {"operation": 1, "stage": 1, "measures": {"a": float("nan")}}),
        ("subject.measures", {"operation": 1, "stage": 1, "measures": {f"m{n}": 1.0 for n in range(65)}}),
        ("subject.target", {"operation": 1, "stage": 1, "target": "x" * 201}),
        ("subject.context.agent_name", {"operation": 1, "stage": 1, "context": {"agent_name": "a\x00"}}),
    ],
)
async def test_a_subject_that_is_wrong_is_refused(mesh: PolicyMesh, field: str, subject: dict[str, Any]) -> None:
    refusal = await mesh.caller().refusal("Evaluate", pb.EvaluateRequest(subject=policy_pb2.Subject(**subject)))
    assert (refusal.reason, refusal.message.partition(":")[0]) == ("INVALID_FIELD", field)


async def test_a_number_that_json_does_not_know_is_refused(mesh: PolicyMesh) -> None:
    request = an_evaluation()
    request.subject.parts.add(tool_call=content_pb2.ToolCallPart(name="t")).tool_call.arguments["x"] = float("inf")
    assert await mesh.caller().refused("Evaluate", request) == "invalid/INVALID_FIELD"


async def test_an_auditor_may_not_evaluate(mesh: PolicyMesh) -> None:
    assert await mesh.caller(Role.AUDITOR).refused("Evaluate", an_evaluation()) == "denied/PERMISSION_MISSING"


async def test_the_same_subject_gets_the_same_verdict(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    seen: set[bytes] = set()
    for _ in range(5):
        verdict = await caller.evaluate(f"{CANARY} 123456")
        verdict.ClearField("verdict_id")
        for result in verdict.results:
            result.ClearField("elapsed_us")
        seen.add(verdict.SerializeToString(deterministic=True))
    assert len(seen) == 1


# --- batches ---------------------------------------------------------------------------------------------------------


def an_item(number: int, text: str, *, identity: int = 0, seconds: float = 20.0) -> pb.BatchEvaluateRequest.Item:
    header = batch_pb2.ItemHeader(item_id=number, identity_index=identity)
    header.deadline_time.FromNanoseconds(int((time.time() + seconds) * 1e9))
    return pb.BatchEvaluateRequest.Item(header=header, subject=an_evaluation(text).subject)


async def answers_of(caller: PolicyCaller, *frames: pb.BatchEvaluateRequest) -> dict[int, Any]:
    """Sends frames and gives every answer by its number: the verdict, or the error."""
    stream = caller.batch()
    for frame in frames:
        await stream.write(frame)
    await stream.done_writing()
    answers: dict[int, Any] = {}
    async for frame in stream:
        for item in frame.items:
            failed = item.status.HasField("error")
            answers[item.status.item_id] = from_status(item.status.error) if failed else item.verdict
    return answers


async def test_a_frame_holds_items_of_several_tenants(mesh: PolicyMesh) -> None:
    strict = mesh.caller(peer="inference")
    await strict.create()
    lax = mesh.caller(tenant=TenantId(SystemIds().uuid()))
    auditor = mesh.caller(Role.AUDITOR)
    tokens = [each.principal.token.reveal() for each in (strict, lax, auditor)] + ["no token"]
    frame = pb.BatchEvaluateRequest(
        identities=batch_pb2.IdentityTable(access_tokens=tokens),
        items=[
            an_item(1, CANARY),
            an_item(2, CANARY, identity=1),
            an_item(3, CANARY, identity=2),
            an_item(4, CANARY, identity=3),
            an_item(5, "late", seconds=-1.0),
            an_item(6, "x" * (256 * 1024 + 1)),
            an_item(7, "lorem " * 20_000 + CANARY),
            an_item(8, "fine", identity=99),
        ],
    )
    frame.items.add(header=batch_pb2.ItemHeader(item_id=9))
    answers = await answers_of(strict, frame)
    assert [answers[number].allowed for number in (1, 2, 7)] == [False, True, False]
    assert (answers[1].bundle, answers[2].bundle) == ("house@1.0.0", "ground@1.0.0")
    assert {number: answers[number].reason for number in (3, 4, 5, 6, 8, 9)} == {
        3: "PERMISSION_MISSING",
        4: "TOKEN_INVALID",
        5: "DEADLINE_EXCEEDED",
        6: "INVALID_FIELD",
        8: "TOKEN_MISSING",
        9: "INVALID_FIELD",
    }
    assert len(await strict.violations()) == 2


async def test_a_large_frame_is_recorded_together(mesh: PolicyMesh) -> None:
    caller = mesh.caller(peer="tools")
    await caller.create()
    tokens = batch_pb2.IdentityTable(access_tokens=[caller.principal.token.reveal()])
    items = [an_item(number, CANARY if number % 2 else "fine") for number in range(1, 401)]
    answers = await answers_of(caller, pb.BatchEvaluateRequest(identities=tokens, items=items))
    assert sum(not verdict.allowed for verdict in answers.values()) == 200
    recorded = await caller.violations(page_size=500)
    assert [violation.sequence for violation in recorded] == list(range(200, 0, -1))
    assert {violation.verdict_id for violation in recorded} == {
        verdict.verdict_id for verdict in answers.values() if not verdict.allowed
    }


async def test_only_certain_services_may_open_a_batch_stream(mesh: PolicyMesh) -> None:
    for peer in (None, "orchestrator"):
        stream = mesh.caller(peer=peer).batch()
        with pytest.raises(Exception, match="open to certain services"):
            await stream.read()


async def test_a_bundle_made_by_one_item_of_the_mesh_judges_the_next(mesh: PolicyMesh) -> None:
    caller = mesh.caller(peer="memory")
    tokens = batch_pb2.IdentityTable(access_tokens=[caller.principal.token.reveal()])
    frame = pb.BatchEvaluateRequest(identities=tokens, items=[an_item(1, CANARY)])
    assert (await answers_of(caller, frame))[1].allowed
    await caller.create(a_bundle())
    assert not (await answers_of(caller, frame))[1].allowed


async def test_a_bundle_that_takes_long_does_not_hold_up_other_tenants(mesh: PolicyMesh) -> None:
    hostile = mesh.caller()
    lines = [f"name: r{number}, type: regex, pattern: '(?:a|b)*a(?:a|b){{{100 + number}}}c'" for number in range(20)]
    await hostile.create("name: evil\nversion: 1.0.0\n" + rules(*lines))
    other = mesh.caller(tenant=TenantId(SystemIds().uuid()))
    await other.evaluate("warm")
    random = Random(1)
    working = asyncio.ensure_future(hostile.evaluate("".join(random.choices("ab", k=20_000))))
    answered = 0
    while not working.done():
        await other.evaluate("fine")
        answered += not working.done()
    assert (await working).allowed
    # While others are held up, the first of them is answered when it is.
    assert answered > 3
