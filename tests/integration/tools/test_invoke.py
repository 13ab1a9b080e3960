"""Calling tools: results, labels, verdicts, money and records, through the real servicer."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from comitia.common.v1 import content_pb2
from comitia.tools.v1 import tool_service_pb2 as pb
from services.meshkit.calls.sweep import Sweep
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.testing import failpoints
from tests.integration.tools.conftest import (
    StartTools,
    ToolsMesh,
    a_context,
    a_template,
    a_tool,
    an_invoke,
    text_of,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRUSTED = content_pb2.Label(
    integrity=content_pb2.INTEGRITY_TRUSTED,
    confidentiality=content_pb2.CONFIDENTIALITY_RESTRICTED,
    sources=["agent:Athena"],
)


async def test_the_calculator_answers_with_hold_verdicts_and_bundle(mesh: ToolsMesh) -> None:
    done = await mesh.compute("2 ** 10 / 4")
    assert text_of(done) == "256"
    assert not done.failed
    assert done.tool == "calculator@1.0.0"
    assert done.hold_id.startswith("hold_")
    assert len(done.verdict_ids) == 2
    assert done.bundle_digest == "cd" * 32
    assert not done.cached
    assert mesh.law.stages() == ["before", "after"]
    before, after = mesh.law.seen
    assert before.parts[0].tool_call.name == "calculator"
    assert before.target == after.target == "calculator"
    assert before.context.call_id.run_id.startswith("direct_")
    await mesh.until_settled("settled")
    [row] = await mesh.rows()
    assert (row.state, row.settle_state, row.hold_id) == ("confirmed", "settled", done.hold_id)
    assert b"256" not in row.outcome
    assert row.token is None


async def test_a_tool_that_fails_is_an_answer(mesh: ToolsMesh) -> None:
    done = await mesh.compute("1 / 0")
    assert done.failed
    assert text_of(done) == "cannot compute: division by zero"
    assert [row.state for row in await mesh.rows("state")] == ["failed"]


async def test_a_call_costs_what_its_tool_says(mesh: ToolsMesh) -> None:
    await mesh.register(cost_nano_usd=5_000)
    done = await mesh.invoke("sums", arguments={"expression": "1"})
    assert done.cost_nano_usd == 5_000
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (5_000, 0)
    [charge] = await mesh.charges()
    assert (charge.model, charge.hold_id) == ("sums", done.hold_id)


async def test_without_money_nothing_runs(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/{city}"), cost_nano_usd=5_000))
    await mesh.limit(4_999)
    assert await mesh.refused("InvokeTool", an_invoke("weather", arguments={"city": "Ulm"})) == (
        "exhausted/BUDGET_EXHAUSTED"
    )
    assert mesh.site.asked == []
    assert await mesh.rows() == []


async def test_the_law_stops_arguments_before_anything_is_held(mesh: ToolsMesh) -> None:
    mesh.law.blocked.add("42")
    assert await mesh.refused("InvokeTool", an_invoke("calculator", arguments={"expression": "42"})) == (
        "denied/LAW_BLOCKED"
    )
    assert mesh.law.stages() == ["before"]
    assert await mesh.rows() == []


async def test_the_law_keeps_a_result_back_and_the_repeat_neither_runs_nor_costs(mesh: ToolsMesh) -> None:
    await mesh.register(cost_nano_usd=7)
    mesh.law.blocked.add("43")
    asked = an_invoke("sums", arguments={"expression": "42 + 1"}, path="blocked")
    assert await mesh.refused("InvokeTool", asked) == "denied/LAW_BLOCKED"
    mesh.law.forget()
    assert await mesh.refused("InvokeTool", asked) == "denied/LAW_BLOCKED"
    assert mesh.law.seen == []
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (7, 0)


async def test_what_the_law_redacts_is_what_is_sent_and_what_is_shown(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/{city}")))
    mesh.law.redacted["Atlantis"] = "Ulm"
    done = await mesh.invoke("weather", arguments={"city": "Atlantis"})
    assert mesh.site.asked == ["/Ulm"]
    assert text_of(done) == "page /Ulm"
    mesh.law.redacted["page"] = "[redacted]"
    done = await mesh.invoke("weather", arguments={"city": "Bern"})
    assert text_of(done) == "[redacted] /Bern"


async def test_arguments_that_do_not_fit_after_redaction_are_refused(mesh: ToolsMesh) -> None:
    schema = {"type": "object", "properties": {"expression": {"type": "string", "pattern": "^[0-9]+$"}}}
    await mesh.register(input_schema=schema)
    mesh.law.redacted["4"] = "x"
    refusal = await mesh.refused("InvokeTool", an_invoke("sums", arguments={"expression": "14"}))
    assert refusal == "invalid/TOOL_ARGUMENTS_WRONG/arguments.expression"


async def test_labels_of_results_never_fall_below_the_choice(mesh: ToolsMesh) -> None:
    inside = mesh.speaking_as(peer="orchestrator")
    done = await inside.compute("1", choice_label=TRUSTED, path="labels/1")
    assert done.parts[0].label == TRUSTED
    done = await inside.fetch(mesh.site.url(), choice_label=TRUSTED, path="labels/2")
    label = done.parts[0].label
    assert label.integrity == content_pb2.INTEGRITY_UNTRUSTED
    assert label.confidentiality == content_pb2.CONFIDENTIALITY_RESTRICTED
    assert list(label.sources) == ["agent:Athena", "tool:http_get"]
    done = await inside.compute("1", path="labels/3")
    assert done.parts[0].label.integrity == content_pb2.INTEGRITY_UNTRUSTED


async def test_an_outside_caller_cannot_claim_to_be_trusted(mesh: ToolsMesh) -> None:
    done = await mesh.compute("1", choice_label=TRUSTED)
    assert done.parts[0].label.integrity == content_pb2.INTEGRITY_USER
    assert done.parts[0].label.confidentiality == content_pb2.CONFIDENTIALITY_RESTRICTED


async def test_a_repeat_under_a_higher_label_gets_the_higher_label(mesh: ToolsMesh) -> None:
    inside = mesh.speaking_as(peer="orchestrator")
    await inside.compute("1", choice_label=TRUSTED, path="labels/4")
    again = await inside.compute("1", path="labels/4")
    assert again.parts[0].label.integrity == content_pb2.INTEGRITY_UNTRUSTED
    assert again.parts[0].label.confidentiality == content_pb2.CONFIDENTIALITY_RESTRICTED


async def test_the_same_call_id_gives_the_recorded_result(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/{city}"), cost_nano_usd=11))
    first = await mesh.invoke("weather", arguments={"city": "Ulm"}, path="repeat")
    mesh.law.forget()
    await mesh.register(**a_template(mesh.site.url("/new/{city}"), version="1.1.0"))
    again = await mesh.invoke("weather", arguments={"city": "Ulm"}, path="repeat")
    assert again == first
    assert mesh.site.asked == ["/Ulm"]
    assert mesh.law.seen == []
    assert (await mesh.budget()).spent_nano_usd == 11


async def test_the_same_call_id_with_other_arguments_is_a_conflict(mesh: ToolsMesh) -> None:
    await mesh.compute("1", path="differs")
    for name, arguments in (("calculator", {"expression": "2"}), ("calculator@1.0.0", {"expression": "1"})):
        asked = an_invoke(name, arguments=arguments, path="differs")
        assert await mesh.refused("InvokeTool", asked) == "conflict/CALL_ARGUMENTS_DIFFER"
    assert len(await mesh.rows()) == 1


async def test_the_same_call_twice_at_once_runs_once(mesh: ToolsMesh) -> None:
    asked = mesh.fetch(mesh.site.url("/hang"), path="at-once"), mesh.fetch(mesh.site.url("/hang"), path="at-once")
    both = asyncio.gather(*asked)
    await _someone_came(mesh)
    mesh.site.released.set()
    one, other = await both
    assert one == other
    assert mesh.site.asked == ["/hang"]


async def test_a_caller_that_leaves_finds_the_result_when_it_comes_back(mesh: ToolsMesh) -> None:
    leaving = asyncio.create_task(mesh.fetch(mesh.site.url("/hang"), path="leaves"))
    await _someone_came(mesh)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    mesh.site.released.set()
    await mesh.until_settled("settled")
    assert text_of(await mesh.fetch(mesh.site.url("/hang"), path="leaves")) == "at last"
    assert mesh.site.asked == ["/hang"]


async def test_another_tenant_may_use_the_same_call_id(mesh: ToolsMesh) -> None:
    await mesh.compute("1", path="shared")
    other = mesh.speaking_as(tenant=TenantId(uuid4()))
    assert text_of(await other.compute("2", path="shared")) == "2"


async def test_the_metrics_page_shows_what_the_bounded_maps_hold(start: StartTools) -> None:
    async with start() as mesh:
        await mesh.register(**a_template(mesh.site.url("/{city}"), cache_ttl_seconds=60))
        await mesh.invoke("weather", arguments={"city": "Ulm"})
        held = {
            cache: REGISTRY.get_sample_value("comitia_cache_items", {"cache": f"tools.{cache}"})
            for cache in ("results", "rate_own", "schemas", "definition_vectors")
        }
        assert held == {"results": 1, "rate_own": 1, "schemas": 1, "definition_vectors": 0}
        assert (REGISTRY.get_sample_value("comitia_cache_bytes", {"cache": "tools.results"}) or 0) > 0


async def test_equal_calls_answer_from_cache_for_free_and_are_judged_anew(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/{city}"), cost_nano_usd=9, cache_ttl_seconds=60))
    first = await mesh.invoke("weather", arguments={"city": "Ulm"}, path="cache/1")
    again = await mesh.invoke("weather", arguments={"city": "Ulm"}, path="cache/2")
    assert (again.cached, again.cost_nano_usd, again.hold_id) == (True, 0, "")
    assert text_of(again) == text_of(first)
    assert again.verdict_ids != first.verdict_ids
    assert again.parts[0].label.integrity == content_pb2.INTEGRITY_UNTRUSTED
    assert mesh.site.asked == ["/Ulm"]
    assert (await mesh.budget()).spent_nano_usd == 9
    assert await mesh.invoke("weather", arguments={"city": "Ulm"}, path="cache/2") == again
    mesh.law.blocked.add("page")
    assert await mesh.refused("InvokeTool", an_invoke("weather", arguments={"city": "Ulm"}, path="cache/3")) == (
        "denied/LAW_BLOCKED"
    )
    mesh.law.forget()
    other = mesh.speaking_as(tenant=TenantId(uuid4()))
    await other.register(**a_template(mesh.site.url("/{city}"), cost_nano_usd=9, cache_ttl_seconds=60))
    assert not (await other.invoke("weather", arguments={"city": "Ulm"})).cached


async def test_a_failed_result_is_not_cached(mesh: ToolsMesh) -> None:
    await mesh.register(cache_ttl_seconds=60)
    for _ in range(2):
        assert not (await mesh.invoke("sums", arguments={"expression": "1/0"})).cached


async def test_only_listed_agents_may_call(mesh: ToolsMesh) -> None:
    await mesh.register(allowed_agents=["Athena"])
    allowed = an_invoke("sums", arguments={"expression": "1"}, context=a_context("a", agent_name="Athena"))
    await mesh.call("InvokeTool", allowed)
    refused = an_invoke("sums", arguments={"expression": "1"}, context=a_context("b", agent_name="Zeus"))
    assert await mesh.refused("InvokeTool", refused) == "denied/TOOL_NOT_ALLOWED"
    assert await mesh.refused("InvokeTool", an_invoke("sums")) == "denied/TOOL_NOT_ALLOWED"


async def test_more_calls_than_the_tool_takes_are_refused_with_a_hint(mesh: ToolsMesh) -> None:
    await mesh.register(rate_limit_per_minute=2)
    for _ in range(2):
        await mesh.invoke("sums", arguments={"expression": "1"})
    with pytest.raises(MeshError) as refusal:
        await mesh.invoke("sums", arguments={"expression": "1"})
    assert refusal.value.reason == "TOOL_RATE_LIMITED"
    assert refusal.value.retry_after is not None
    assert 0 < refusal.value.retry_after.total_seconds() <= 60


async def test_replicas_share_the_rate_of_a_tool(mesh: ToolsMesh) -> None:
    await mesh.register(rate_limit_per_minute=6)
    async with mesh.around.start() as second:
        replicas = (mesh, replace(second, principal=mesh.principal))
        reasons: list[str] = []
        for number in range(14):
            try:
                await replicas[number % 2].invoke("sums", arguments={"expression": "1"})
            except MeshError as error:
                reasons.append(error.reason)
    # One call of each replica may be ahead of its booking.
    assert 6 <= 14 - len(reasons) <= 8
    assert set(reasons) == {"TOOL_RATE_LIMITED"}


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (an_invoke(""), "invalid/INVALID_FIELD/name"),
        (an_invoke("no such tool"), "invalid/INVALID_FIELD/name"),
        (an_invoke("nothing"), "not_found/TOOL_NOT_FOUND"),
        (an_invoke("calculator@9.9.9"), "not_found/TOOL_NOT_FOUND"),
        (an_invoke("calculator"), "invalid/TOOL_ARGUMENTS_WRONG/arguments.expression"),
        (an_invoke("calculator", arguments={"expression": 1}), "invalid/TOOL_ARGUMENTS_WRONG/arguments.expression"),
        (
            an_invoke("calculator", arguments={"expression": "1", "x": 1}),
            "invalid/TOOL_ARGUMENTS_WRONG/arguments.x",
        ),
        (an_invoke("calculator", arguments={"expression": float("inf")}), "invalid/INVALID_FIELD/arguments"),
        (
            an_invoke("calculator", context=a_context(index=-1)),
            "invalid/INVALID_FIELD/context.call_id.call_index",
        ),
        (
            an_invoke("calculator", context=a_context(budget_ids=["budget_x"])),
            "invalid/INVALID_FIELD/context.budget_ids[0]",
        ),
        (
            an_invoke("calculator", context=a_context(budget_ids=["budget_01jd0000000000000000000000"])),
            "invalid/INVALID_FIELD/context.budget_ids",
        ),
        (
            an_invoke("calculator", context=a_context(run_id="run_01jd0000000000000000000000")),
            "invalid/INVALID_FIELD/context.call_id.run_id",
        ),
    ],
)
async def test_wrong_requests_are_refused(mesh: ToolsMesh, request_: pb.InvokeToolRequest, refusal: str) -> None:
    assert await mesh.refused("InvokeTool", request_) == refusal
    assert await mesh.rows() == []


async def test_a_service_must_say_whose_call_it_is(mesh: ToolsMesh) -> None:
    inside = mesh.speaking_as(peer="orchestrator")
    refusal = await inside.refused("InvokeTool", an_invoke("calculator", arguments={"expression": "1"}))
    assert refusal == "invalid/INVALID_FIELD/context.call_id.run_id"


async def test_an_auditor_reads_and_does_not_call(mesh: ToolsMesh) -> None:
    auditor = mesh.speaking_as(Role.AUDITOR)
    assert (await auditor.refused("InvokeTool", an_invoke("calculator"))).startswith("denied/")
    assert (await auditor.refused("RegisterTool", pb.RegisterToolRequest(tool=a_tool()))).startswith("denied/")
    await auditor.call("GetTool", pb.GetToolRequest(name="calculator"))


async def test_another_tenants_tool_is_not_found(mesh: ToolsMesh) -> None:
    await mesh.register()
    other = mesh.speaking_as(tenant=TenantId(uuid4()))
    for method, request in (
        ("InvokeTool", an_invoke("sums", arguments={"expression": "1"})),
        ("GetTool", pb.GetToolRequest(name="sums")),
        ("GetTool", pb.GetToolRequest(name="sums@1.0.0")),
    ):
        assert await other.refused(method, request) == "not_found/TOOL_NOT_FOUND"


async def test_a_result_that_breaks_the_promise_of_its_tool_is_a_failure(mesh: ToolsMesh) -> None:
    await mesh.register(output_schema={"type": "integer", "minimum": 10})
    assert not (await mesh.invoke("sums", arguments={"expression": "10"})).failed
    done = await mesh.invoke("sums", arguments={"expression": "9"})
    assert done.failed
    assert "is not what sums promises" in text_of(done)


async def test_a_slow_tool_fails_after_its_time_and_is_paid(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/hang"), timeout_seconds=1, cost_nano_usd=3))
    done = await mesh.invoke("weather")
    assert done.failed
    assert text_of(done) == "weather did not answer within 1 s"
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (3, 0)


async def test_a_caller_with_little_time_gets_its_deadline_and_no_hold_stays(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/hang"), cost_nano_usd=3))
    refusal = await mesh.refused("InvokeTool", an_invoke("weather", path="late"), timeout=1.0)
    assert refusal.startswith("deadline/")
    await _nothing_is_held(mesh)
    assert [row.state for row in await mesh.rows("state")] == ["dispatched"]


@pytest.mark.parametrize(
    ("point", "spent"),
    [("after_reserve", 0), ("after_begin", 0), ("after_execute", 13), ("before_settle", 13)],
)
async def test_no_failure_on_the_way_leaves_a_hold_open(mesh: ToolsMesh, point: str, spent: int) -> None:
    await mesh.register(cost_nano_usd=13)
    failpoints.arm(f"tools.{point}=error@1")
    asked = an_invoke("sums", arguments={"expression": "6 * 7"}, path=point)
    assert (await mesh.refused("InvokeTool", asked)).startswith("internal/")
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (spent, 0)
    done = (await mesh.call("InvokeTool", asked)).invocation
    assert text_of(done) == "42"
    await mesh.until_settled("settled")
    budget = await mesh.budget()
    again = 0 if point == "before_settle" else 13
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (spent + again, 0)


async def test_the_ledger_knows_that_a_call_leaves_before_its_socket_opens(mesh: ToolsMesh) -> None:
    await mesh.register(**a_template(mesh.site.url("/hang"), cost_nano_usd=3))
    hanging = asyncio.create_task(mesh.invoke("weather", path="leaves"))
    await _someone_came(mesh)
    [row] = await mesh.rows("hold_id")
    assert await mesh.not_released(row.hold_id) == "HOLD_ALREADY_DISPATCHED"
    mesh.site.released.set()
    assert (await hanging).hold_id == row.hold_id


async def test_law_that_cannot_be_asked_stops_everything(mesh: ToolsMesh) -> None:
    await mesh.register(cost_nano_usd=13)
    asked = an_invoke("sums", arguments={"expression": "1"}, path="lawless")
    mesh.law.faults.next(MeshError("the law is away"))
    assert (await mesh.refused("InvokeTool", asked)).startswith("internal/")
    assert (await mesh.budget()).held_nano_usd == 0
    mesh.law.faults.next(MeshError("the law is away"), after=1)
    assert (await mesh.refused("InvokeTool", asked)).startswith("internal/")
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (13, 0)
    assert text_of((await mesh.call("InvokeTool", asked)).invocation) == "1"


async def test_two_replicas_that_make_the_same_call_agree_on_one_result(mesh: ToolsMesh, start: StartTools) -> None:
    async with start() as other:
        await mesh.register(**a_template(mesh.site.url("/hang"), cost_nano_usd=3))
        both = asyncio.gather(*(replica.invoke("weather", path="both") for replica in (mesh, other)))

        async def both_came() -> bool:
            return len(mesh.site.asked) == 2

        await until(both_came)
        mesh.site.released.set()
        one, two = await both
    assert one == two
    assert len(await mesh.rows()) == 1
    budget = await mesh.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (6, 0)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Is set once a replica that has started has looked for what is to be settled."""
    done, look = asyncio.Event(), Sweep.settle_pending

    async def noted(sweep: Sweep, *, leave_alone: timedelta) -> int:
        found = await look(sweep, leave_alone=leave_alone)
        if not leave_alone:
            done.set()
        return found

    monkeypatch.setattr(Sweep, "settle_pending", noted)
    return done


async def test_a_call_that_a_dead_replica_left_runs_again_under_a_new_hold(mesh: ToolsMesh, start: StartTools) -> None:
    await mesh.register(**a_template(mesh.site.url("/{city}"), cost_nano_usd=3))
    failpoints.arm("tools.after_begin=error@1")
    asked = an_invoke("weather", arguments={"city": "Ulm"}, path="left")
    assert (await mesh.refused("InvokeTool", asked)).startswith("internal/")
    [left] = await mesh.rows()
    assert left.state == "dispatched"
    async with start() as other:
        done = (await other.call("InvokeTool", asked)).invocation
        differs = an_invoke("weather", arguments={"city": "Bern"}, path="left")
        assert await other.refused("InvokeTool", differs) == "conflict/CALL_ARGUMENTS_DIFFER"
    [row] = await mesh.rows()
    assert (row.state, row.hold_id) == ("confirmed", done.hold_id)
    assert row.hold_id != left.hold_id


async def test_a_pending_settlement_is_made_at_the_next_start(
    mesh: ToolsMesh, start: StartTools, looked: asyncio.Event
) -> None:
    async with start(sweep_seconds=3600) as stopped:
        await stopped.register(cost_nano_usd=17)
        await looked.wait()
        failpoints.arm("cost.before_settle_commit=error@1")
        await stopped.invoke("sums", arguments={"expression": "1"}, path="swept")
        failpoints.arm("")
        [row] = await stopped.rows()
        assert (row.settle_state, row.token is None) == ("pending", False)
        assert (await stopped.budget()).held_nano_usd == 17
    async with start(sweep_seconds=3600) as started:
        await started.until_settled("settled")
        budget = await started.budget()
        assert (budget.spent_nano_usd, budget.held_nano_usd) == (17, 0)


async def test_a_token_that_cannot_be_opened_holds_up_no_other_settlement(
    start: StartTools, looked: asyncio.Event
) -> None:
    async with start(sweep_seconds=3600) as stopped:
        await stopped.register(cost_nano_usd=17)
        await looked.wait()
        for path in ("broken", "whole"):
            failpoints.arm("cost.before_settle_commit=error@1")
            await stopped.invoke("sums", arguments={"expression": "1"}, path=path)
        failpoints.arm("")
        await stopped.break_token("broken")
    async with start(sweep_seconds=3600) as started:
        await started.until_settled("lapsed", "settled")


async def test_a_repeat_settles_what_was_left_undone(start: StartTools, looked: asyncio.Event) -> None:
    async with start(sweep_seconds=3600) as mesh:
        await mesh.register(cost_nano_usd=17)
        await looked.wait()
        failpoints.arm("cost.before_settle_commit=error@1")
        first = await mesh.invoke("sums", arguments={"expression": "1"}, path="again")
        assert await mesh.invoke("sums", arguments={"expression": "1"}, path="again") == first
        budget = await mesh.budget()
        assert (budget.spent_nano_usd, budget.held_nano_usd) == (17, 0)


async def test_more_calls_at_once_than_the_replica_makes_are_refused(start: StartTools) -> None:
    async with start(max_tool_calls=1) as mesh:
        hanging = asyncio.create_task(mesh.fetch(mesh.site.url("/hang")))
        await _someone_came(mesh)
        assert await mesh.refused("InvokeTool", an_invoke("calculator", arguments={"expression": "1"})) == (
            "exhausted/TOO_MANY_TOOL_CALLS"
        )
        mesh.site.released.set()
        assert text_of(await hanging) == "at last"


async def test_a_server_that_stops_leaves_no_hold_behind(start: StartTools) -> None:
    async with start(drain_seconds=0.1) as mesh:
        await mesh.register(**a_template(mesh.site.url("/hang"), cost_nano_usd=3))
        hanging = asyncio.create_task(mesh.refused("InvokeTool", an_invoke("weather")))
        await _someone_came(mesh)
    await asyncio.gather(hanging, return_exceptions=True)
    async with start() as mesh:
        budget = await mesh.budget()
        assert (budget.spent_nano_usd, budget.held_nano_usd) == (3, 0)


async def _someone_came(mesh: ToolsMesh) -> None:
    async def came() -> bool:
        return bool(mesh.site.asked)

    await until(came)


async def _nothing_is_held(mesh: ToolsMesh) -> None:
    async def free() -> bool:
        return (await mesh.budget()).held_nano_usd == 0

    await until(free)
