"""Violations on the wire: recorded before the answer, listed, watched."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest

from comitia.policy.v1 import policy_pb2
from comitia.policy.v1 import policy_service_pb2 as pb
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import remote_error
from tests.integration.policy.conftest import PolicyMesh
from tests.support.policy import CANARY, an_evaluation, rules

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = "name: mine\nversion: 1.0.0\n" + rules(
    f"name: minor_one, type: keyword, severity: minor, keywords: ['{CANARY}']",
    f"name: severe_one, type: keyword, severity: severe, action: warn, keywords: ['{CANARY}']",
)
RUN, OTHER_RUN = SystemIds().new("run"), SystemIds().new("run")


async def test_a_violation_says_what_when_and_where_but_not_the_text(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    verdict = await caller.evaluate(f"{CANARY} {CANARY}", run_id=RUN)
    severe, minor = await caller.violations()
    assert (minor.rule, severe.rule) == ("minor_one", "severe_one")
    assert (minor.sequence, severe.sequence) == (1, 2)
    assert minor.verdict_id == severe.verdict_id == verdict.verdict_id
    assert severe.violation_id.startswith("violation_")
    assert (severe.severity, severe.action) == (policy_pb2.SEVERITY_SEVERE, policy_pb2.ACTION_WARN)
    assert (severe.stage, severe.operation) == (policy_pb2.STAGE_BEFORE, policy_pb2.OPERATION_GENERATE)
    assert (severe.run_id, severe.path, severe.agent_name) == (RUN, "rounds/1/Athena", "Athena")
    assert severe.bundle == "mine@1.0.0"
    assert severe.rationale == "keyword found 2 times in parts[0]"
    assert severe.create_time.seconds > 0


async def test_a_pass_records_nothing(mesh: PolicyMesh) -> None:
    await mesh.caller().evaluate("all is well")
    assert await mesh.caller().violations() == []


async def test_a_direct_call_belongs_to_no_run(mesh: PolicyMesh) -> None:
    await mesh.caller().create(RULES)
    await mesh.caller().evaluate(CANARY, run_id="direct_1")
    assert {violation.run_id for violation in await mesh.caller().violations()} == {""}


async def test_violations_are_filtered_and_paged(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    for run_id in (RUN, OTHER_RUN, RUN):
        await caller.evaluate(CANARY, run_id=run_id)
    assert len(await caller.violations()) == 6
    assert {violation.sequence for violation in await caller.violations(run_id=RUN)} == {1, 2, 5, 6}
    assert {violation.sequence for violation in await caller.violations(rule="minor_one")} == {1, 3, 5}
    severe = await caller.violations(min_severity=policy_pb2.SEVERITY_MAJOR, run_id=OTHER_RUN)
    assert [violation.sequence for violation in severe] == [4]
    token, seen = "", list[int]()
    while True:
        request = pb.ListViolationsRequest(page_size=2, page_token=token, run_id=RUN)
        page = await caller.call("ListViolations", request)
        seen += [violation.sequence for violation in page.violations]
        token = page.next_page_token
        if not token:
            break
    assert seen == [6, 5, 2, 1]


@pytest.mark.parametrize(
    "fields", [{"page_size": -1}, {"page_token": "?"}, {"run_id": "x"}, {"min_severity": 9}, {"rule": "r" * 64}]
)
async def test_a_wrong_filter_is_refused(mesh: PolicyMesh, fields: dict[str, Any]) -> None:
    assert await mesh.caller().refused("ListViolations", pb.ListViolationsRequest(**fields)) == "invalid/INVALID_FIELD"


async def test_another_tenants_violations_are_not_seen(mesh: PolicyMesh) -> None:
    await mesh.caller().create(RULES)
    await mesh.caller().evaluate(CANARY, run_id=RUN)
    stranger = mesh.caller(tenant=TenantId(SystemIds().uuid()))
    assert await stranger.violations() == []
    assert await stranger.violations(run_id=RUN) == []
    watch = stranger.watch()
    await mesh.caller().evaluate(CANARY, run_id=RUN)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.read(), 0.3)
    watch.cancel()


async def test_a_watch_gives_what_was_and_what_comes(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    await caller.evaluate(CANARY, run_id=RUN)
    watch = caller.watch()
    first = [await watch.read() for _ in range(2)]
    assert [event.sequence for event in first] == [1, 2]
    assert first[0].violation.rule == "minor_one"
    await caller.evaluate(CANARY, run_id=OTHER_RUN)
    assert [(await watch.read()).sequence for _ in range(2)] == [3, 4]
    watch.cancel()
    resumed = caller.watch(after_sequence=2, run_id=OTHER_RUN)
    assert [(await resumed.read()).sequence for _ in range(2)] == [3, 4]
    resumed.cancel()


async def test_a_watch_from_a_negative_sequence_is_refused(mesh: PolicyMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.caller().watch(after_sequence=-1).read()
    assert remote_error(caught.value).reason == "INVALID_FIELD"


async def test_concurrent_verdicts_are_watched_without_gap_or_repeat(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    watch = caller.watch()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(60):
            tasks.create_task(caller.evaluate(CANARY, run_id=RUN))
    assert [(await watch.read()).sequence for _ in range(120)] == list(range(1, 121))
    watch.cancel()


async def test_a_growing_answer_is_recorded_once_per_rule(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    text = f"{CANARY} "
    for _ in range(4):
        text += "and so on "
        assert (await caller.evaluate(text, stage=policy_pb2.STAGE_DURING, run_id=RUN)).results[0].action
    assert len(await caller.violations()) == 2
    await caller.evaluate(text, stage=policy_pb2.STAGE_DURING, run_id=RUN, call_index=1)
    await caller.evaluate(text, stage=policy_pb2.STAGE_AFTER, run_id=RUN)
    assert len(await caller.violations()) == 6


async def test_there_is_no_verdict_when_the_answer_dies_after_the_record(
    mesh: PolicyMesh, armed: Callable[[str], None]
) -> None:
    caller = mesh.caller()
    await caller.create(RULES)
    armed("policy.after_violation_commit=error")
    assert await caller.refused("Evaluate", an_evaluation(CANARY)) == "internal/FAILPOINT"
    armed("")
    assert len(await caller.violations()) == 2  # recorded, and nobody was told
