"""Estimates on real Postgres: made before runs, learnt from the journals of those that ended, listed beside them."""

# pyright: reportPrivateUsage=false
# What single statements read is looked at.

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from comitia.orchestrator.v1 import (
    agent_pb2,
    agent_service_pb2,
    estimate_pb2,
    run_pb2,
    run_service_pb2,
    session_pb2,
    session_service_pb2,
)
from comitia.orchestrator.v1 import estimate_service_pb2 as pb
from services.meshkit.core.errors import ErrorKind, MeshError, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.grpc.errors import remote_errors
from services.meshkit.sql.scope import DriverScope, driver_scope
from services.orchestrator.domain.estimator import ANY_NAME, Habits, estimate, learn
from services.orchestrator.domain.preflight import BudgetLevel
from services.orchestrator.domain.run_shape import Amount
from services.orchestrator.storage import estimates
from services.orchestrator.storage.estimates import SqlEstimates
from services.orchestrator.storage.habits_codec import run_from_json, run_to_json, turn_from_json, turn_to_json
from tests.integration.orchestrator.conftest import OTHER_TENANT, House, Replica
from tests.integration.orchestrator.test_following import talk, watch
from tests.integration.orchestrator.test_sessions import start, until
from tests.integration.orchestrator.test_workflows import create
from tests.support.estimated_runs import PRICES, generate

FITS, WARNS = estimate_pb2.ESTIMATE_VERDICT_FITS, estimate_pb2.ESTIMATE_VERDICT_WARNS
EXCEEDS = estimate_pb2.ESTIMATE_VERDICT_EXCEEDS


async def estimated(replica: Replica, workflow: str = "talk", **fields: object) -> pb.EstimateWorkflowResponse:
    request = pb.EstimateWorkflowRequest(workflow=workflow, **fields)  # type: ignore[arg-type]
    with remote_errors():
        return await replica.estimates.EstimateWorkflow(request, metadata=replica.as_tenant())


async def listed(replica: Replica, **fields: object) -> pb.ListEstimatesResponse:
    with remote_errors():
        return await replica.estimates.ListEstimates(
            pb.ListEstimatesRequest(**fields),  # type: ignore[arg-type]
            metadata=replica.as_tenant(),
        )


async def ended(replica: Replica, run_id: str) -> run_pb2.Run:
    return [event async for event in watch(replica, run_id)][-1].run


async def learnt(replica: Replica, runs: int) -> None:
    """Learns until so many runs are listed."""
    async with asyncio.timeout(30):
        while len((await listed(replica, page_size=500)).estimates) < runs:
            await replica.learning.round()


async def test_a_run_is_estimated_before_anything_was_learnt_and_nothing_begins(replica: Replica) -> None:
    await talk(replica)
    runs = len((await replica.runs.ListRuns(run_service_pb2.ListRunsRequest(), metadata=replica.as_tenant())).runs)
    answer = await estimated(replica)
    first = answer.estimate
    assert (answer.workflow, first.calibrated_on, first.judged_count, first.priced) == ("talk@1.0.0", 0, 0, True)
    for amount in (first.input_tokens, first.output_tokens, first.cost_nano_usd, first.work_milliseconds):
        assert 0 < amount.low < amount.median < amount.high
    assert [(one.budget, one.left_nano_usd) for one in first.budgets] == [("run", 10**9)]
    assert first.verdict == FITS
    after = (await replica.runs.ListRuns(run_service_pb2.ListRunsRequest(), metadata=replica.as_tenant())).runs
    assert len(after) == runs


async def test_estimates_learn_from_runs_that_ended_and_stand_beside_them(replica: Replica) -> None:
    run_id = await talk(replica)
    runs = [await ended(replica, run_id)]
    for _ in range(5):
        request = run_service_pb2.StartRunRequest(workflow="talk")
        begun = (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run
        runs.append(await ended(replica, begun.run_id))
    session = await start(replica)
    await until(replica, session.session_id, session_pb2.SESSION_STATE_SUCCEEDED)
    await learnt(replica, 7)
    answer = await listed(replica, workflow="talk")
    assert [one.run_id for one in answer.estimates] == [run.run_id for run in reversed(runs)]
    latest, first = answer.estimates[0], answer.estimates[-1]
    assert (first.estimate.calibrated_on, latest.estimate.calibrated_on) == (0, 5)
    assert (latest.reference, latest.cost_nano_usd) == ("talk@1.0.0", runs[-1].cost_nano_usd)
    assert latest.output_tokens == runs[-1].usage.output_tokens
    # Every answer is the same here: the median is soon there.
    assert latest.estimate.cost_nano_usd.median == pytest.approx(runs[-1].cost_nano_usd, rel=0.35)
    assert (answer.judged_count, answer.covered_count) == (5, 5)
    after = (await estimated(replica)).estimate
    assert (after.calibrated_on, after.judged_count) == (6, 6)
    assert (await listed(replica)).estimates[0].reference == "debate"
    # Nothing is learnt twice.
    await replica.learning.round()
    assert len((await listed(replica)).estimates) == 7


async def test_two_replicas_learn_from_each_run_once(house: House) -> None:
    async with AsyncExitStack() as stack:
        one = await house.replica(stack, name="one")
        two = await house.replica(stack, name="two")
        await ended(one, await talk(one))
        for _ in range(3):
            request = run_service_pb2.StartRunRequest(workflow="talk")
            await ended(one, (await one.runs.StartRun(request, metadata=one.as_tenant())).run.run_id)
        for _ in range(3):
            await asyncio.gather(one.learning.round(), two.learning.round())
        found = await listed(one)
        assert sorted(run.estimate.calibrated_on for run in found.estimates) == [0, 1, 2, 3]


async def test_what_was_learnt_of_a_tenant_is_nobody_elses(replica: Replica) -> None:
    await ended(replica, await talk(replica))
    await learnt(replica, 1)
    other = replica.as_tenant(OTHER_TENANT)
    assert not (await replica.estimates.ListEstimates(pb.ListEstimatesRequest(), metadata=other)).estimates
    with remote_errors(), pytest.raises(MeshError) as refusal, remote_errors():
        await replica.estimates.EstimateWorkflow(pb.EstimateWorkflowRequest(workflow="talk"), metadata=other)
    assert refusal.value.reason == "WORKFLOW_NOT_FOUND"


async def test_pages_go_back_to_the_first_run(replica: Replica) -> None:
    await ended(replica, await talk(replica))
    for _ in range(2):
        request = run_service_pb2.StartRunRequest(workflow="talk")
        await ended(replica, (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run.run_id)
    await learnt(replica, 3)
    token, found = "", list[str]()
    while True:
        page = await listed(replica, page_size=2, page_token=token)
        found += [one.run_id for one in page.estimates]
        token = page.next_page_token
        if not token:
            break
    assert len(found) == len(set(found)) == 3


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"workflow": ""}, "workflow", "INVALID_FIELD"),
        ({"workflow": "nobody-made-it"}, None, "WORKFLOW_NOT_FOUND"),
        ({"workflow": "talk@9.9.9"}, None, "WORKFLOW_NOT_FOUND"),
        ({"workflow": "talk", "max_cost_nano_usd": -1}, "max_cost_nano_usd", "INVALID_FIELD"),
        ({"workflow": "talk", "model": "x" * 201}, "model", "INVALID_FIELD"),
        ({"workflow": "talk", "project": "x" * 129}, "metadata['project']", "INVALID_FIELD"),
    ],
)
async def test_what_cannot_be_estimated_is_refused(
    replica: Replica, fields: dict[str, object], field: str | None, reason: str
) -> None:
    await talk(replica)
    with pytest.raises(MeshError) as refusal:
        await estimated(replica, **fields)  # type: ignore[arg-type]
    assert refusal.value.reason == reason
    assert field is None or refusal.value.field == field


async def test_an_input_that_no_run_takes_is_not_estimated(replica: Replica) -> None:
    await talk(replica)
    schema = "input_schema: {type: object, required: [pages], properties: {pages: {type: array}}}"
    node = "nodes: [{id: a, agent: {agent: Ada, prompt: Go.}}]"
    await create(replica, f"{{name: paged, version: 1.0.0, {schema}, {node}}}")
    for given, field, words in (
        ({}, "input.pages", "required"),
        ({"pages": "one"}, "input.pages", "array"),
        ({"pages": ["x" * 300_000]}, "input", "must have at most 262144 bytes as JSON, has 300"),
        ({"pages": [float("nan")]}, "input", "not finite"),
        ({"pages": [float("inf")]}, "input", "not finite"),
    ):
        with pytest.raises(MeshError) as refusal:
            await estimated(replica, "paged", input=given)
        assert refusal.value.field == field, given
        assert words in refusal.value.message
        assert refusal.value.kind is ErrorKind.INVALID
    most = await estimated(replica, "paged", input={"pages": []}, max_cost_nano_usd=2**63 - 1)
    assert most.estimate.verdict == FITS
    assert most.estimate.budgets[0].left_nano_usd == 2**63 - 1


async def test_a_model_without_a_price_is_named_and_not_guessed(replica: Replica) -> None:
    await talk(replica)
    odd = (await estimated(replica, model="odd")).estimate
    assert (odd.priced, list(odd.unpriced_models)) == (False, ["odd"])
    assert (odd.cost_nano_usd.high, odd.verdict) == (0, estimate_pb2.ESTIMATE_VERDICT_UNKNOWN)
    assert odd.output_tokens.median > 0
    request = run_service_pb2.StartRunRequest(
        workflow="talk", model="odd", preflight=estimate_pb2.PREFLIGHT_MODE_REJECT
    )
    with pytest.raises(MeshError) as refusal, remote_errors():
        await replica.runs.StartRun(request, metadata=replica.as_tenant())
    assert (refusal.value.reason, refusal.value.metadata["models"]) == ("ESTIMATE_NOT_PRICED", "odd")


async def test_a_list_is_asked_for_as_lists_are(replica: Replica) -> None:
    for fields, field in (
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"workflow": "a b"}, "workflow"),
        ({"run_id": "session_1"}, "run_id"),
    ):
        with pytest.raises(MeshError) as refusal:
            await listed(replica, **fields)
        assert (refusal.value.reason, refusal.value.field) == ("INVALID_FIELD", field)


async def test_a_session_is_estimated_as_it_would_be_started(replica: Replica) -> None:
    await start(replica)
    request = pb.EstimateSessionRequest(
        topic="One database each?", mode=session_pb2.SESSION_MODE_DEBATE, agents=["Athena", "Apollo"], max_rounds=2
    )
    two = (await replica.estimates.EstimateSession(request, metadata=replica.as_tenant())).estimate
    request.max_rounds = 6
    six = (await replica.estimates.EstimateSession(request, metadata=replica.as_tenant())).estimate
    assert six.output_tokens.median > 2.5 * two.output_tokens.median
    request.mode = session_pb2.SESSION_MODE_UNSPECIFIED
    with pytest.raises(MeshError) as refusal, remote_errors():
        await replica.estimates.EstimateSession(request, metadata=replica.as_tenant())
    assert refusal.value.field == "mode"


async def test_a_run_that_does_not_fit_is_warned_about_refused_or_made_cheaper(house: House, replica: Replica) -> None:
    made = agent_service_pb2.CreateAgentRequest(agent=agent_pb2.Agent(name="Ada", version="1.0.0", model="large"))
    await replica.agents.CreateAgent(made, metadata=replica.as_tenant())
    await create(replica, "{name: one, version: 1.0.0, nodes: [{id: a, agent: {agent: Ada, prompt: Go.}}]}")

    async def begun(mode: estimate_pb2.PreflightMode.ValueType, left: int, **fields: object) -> run_pb2.Run:
        house.budgets.levels = [BudgetLevel(name="tenant", left=left)]
        request = run_service_pb2.StartRunRequest(workflow="one", preflight=mode, **fields)  # type: ignore[arg-type]
        with remote_errors():
            return (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run

    unasked = await begun(estimate_pb2.PREFLIGHT_MODE_UNSPECIFIED, 1, metadata={"project": "atlas"})
    assert not unasked.HasField("estimate")
    assert replica.preparation.projects[unasked.run_id] == "atlas"
    warned = await begun(estimate_pb2.PREFLIGHT_MODE_WARN, 1)
    assert warned.estimate.verdict == EXCEEDS
    assert [one.budget for one in warned.estimate.budgets] == ["run", "tenant"]
    # It is of the record: whoever looks later sees it too.
    assert (await ended(replica, warned.run_id)).estimate == warned.estimate
    budgets = replica.preparation.budgets
    with pytest.raises(MeshError) as refusal:
        await begun(estimate_pb2.PREFLIGHT_MODE_REJECT, 1)
    assert (refusal.value.reason, refusal.value.metadata["budget"]) == ("ESTIMATE_EXCEEDS_BUDGET", "tenant")
    assert replica.preparation.budgets == budgets
    dear = warned.estimate.cost_nano_usd.median
    degraded = await begun(estimate_pb2.PREFLIGHT_MODE_DEGRADE, dear // 2)
    assert (degraded.estimate.degraded_to, degraded.estimate.verdict) == ("middle", WARNS)
    # A repeat gets the first answer, whatever has happened to the budget since.
    request_id = str(uuid4())
    first = await begun(estimate_pb2.PREFLIGHT_MODE_REJECT, 10**12, request_id=request_id)
    assert first.estimate.verdict == FITS
    assert (await begun(estimate_pb2.PREFLIGHT_MODE_REJECT, 1, request_id=request_id)).run_id == first.run_id
    with pytest.raises(MeshError) as refusal:
        await begun(77, 1)  # type: ignore[arg-type]
    assert refusal.value.field == "preflight"
    house.budgets.levels = []


async def test_the_caller_says_what_is_done_before_the_workflow_and_the_workflow_before_the_operator(
    house: House, replica: Replica
) -> None:
    made = agent_service_pb2.CreateAgentRequest(agent=agent_pb2.Agent(name="Ada", version="1.0.0", model="large"))
    await replica.agents.CreateAgent(made, metadata=replica.as_tenant())
    node = "nodes: [{id: a, agent: {agent: Ada, prompt: Go.}}]"
    await create(replica, f"{{name: strict, version: 1.0.0, policy: {{preflight: reject}}, {node}}}")
    await create(replica, f"{{name: thrifty, version: 1.0.0, policy: {{preflight: degrade}}, {node}}}")

    async def begun(workflow: str, **fields: object) -> run_pb2.Run:
        request = run_service_pb2.StartRunRequest(workflow=workflow, **fields)  # type: ignore[arg-type]
        with remote_errors():
            return (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run

    expected = (await estimated(replica, "strict")).estimate.cost_nano_usd.median
    house.budgets.levels = [BudgetLevel(name="tenant", left=expected // 2)]
    budgets = replica.preparation.budgets
    with pytest.raises(MeshError) as refusal:
        await begun("strict")
    assert refusal.value.reason == "ESTIMATE_EXCEEDS_BUDGET"
    assert replica.preparation.budgets == budgets
    assert not (await begun("strict", preflight=estimate_pb2.PREFLIGHT_MODE_OFF)).HasField("estimate")
    assert (await begun("strict", preflight=estimate_pb2.PREFLIGHT_MODE_WARN)).estimate.verdict == EXCEEDS
    assert (await begun("thrifty")).estimate.degraded_to == "middle"
    house.budgets.levels = []


async def test_while_cost_is_down_a_warning_goes_on_and_nothing_else_begins(house: House, replica: Replica) -> None:
    await talk(replica)
    house.budgets.refusal = Unavailable("cost")
    try:
        shown = (await estimated(replica)).estimate
        assert (shown.verdict, shown.budgets_unknown) == (estimate_pb2.ESTIMATE_VERDICT_UNKNOWN, True)
        budgets = replica.preparation.budgets
        request = run_service_pb2.StartRunRequest(workflow="talk")
        for mode in (estimate_pb2.PREFLIGHT_MODE_REJECT, estimate_pb2.PREFLIGHT_MODE_DEGRADE):
            request.preflight = mode
            with pytest.raises(MeshError) as refusal, remote_errors():
                await replica.runs.StartRun(request, metadata=replica.as_tenant())
            assert (refusal.value.kind, refusal.value.reason) == (ErrorKind.UNAVAILABLE, "PREFLIGHT_UNAVAILABLE")
        assert replica.preparation.budgets == budgets
        request.preflight = estimate_pb2.PREFLIGHT_MODE_WARN
        warned = (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run
        assert warned.estimate.budgets_unknown
        assert (await ended(replica, warned.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    finally:
        house.budgets.refusal = None


async def test_a_session_that_does_not_fit_does_not_start(house: House, replica: Replica) -> None:
    await start(replica)
    house.budgets.levels = [BudgetLevel(name="tenant", left=1)]
    request = session_service_pb2.StartSessionRequest(
        topic="Again?",
        mode=session_pb2.SESSION_MODE_DEBATE,
        agents=["Athena", "Apollo"],
        preflight=estimate_pb2.PREFLIGHT_MODE_REJECT,
    )
    with pytest.raises(MeshError) as refusal, remote_errors():
        await replica.sessions.StartSession(request, metadata=replica.as_tenant())
    assert refusal.value.reason == "ESTIMATE_EXCEEDS_BUDGET"
    request.preflight = estimate_pb2.PREFLIGHT_MODE_WARN
    session = (await replica.sessions.StartSession(request, metadata=replica.as_tenant())).session
    assert session.estimate.verdict == EXCEEDS
    shown = await until(replica, session.session_id, session_pb2.SESSION_STATE_SUCCEEDED)
    assert shown.estimate == session.estimate
    as_run = run_service_pb2.GetRunRequest(run_id=session.session_id)
    assert (await replica.runs.GetRun(as_run, metadata=replica.as_tenant())).run.estimate == session.estimate
    await learnt(replica, 2)
    [one] = (await listed(replica, run_id=session.session_id)).estimates
    assert (one.run_id, one.cost_nano_usd) == (session.session_id, shown.cost_nano_usd)
    assert not (await listed(replica, run_id=session.session_id, workflow="talk")).estimates


async def test_what_is_beyond_what_is_kept_is_forgotten(
    house: House, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ended(replica, await talk(replica))
    for _ in range(2):
        request = run_service_pb2.StartRunRequest(workflow="talk")
        await ended(replica, (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run.run_id)
    await learnt(replica, 3)
    monkeypatch.setattr("services.orchestrator.storage.estimates.MOST_ESTIMATES", 1)
    assert await replica.learnt.forget_old() == (2, False)
    [left] = (await listed(replica)).estimates
    assert left.estimate.calibrated_on == 2


def rows_read(plan: dict[str, Any]) -> int:
    """Adds up the rows that the scans of a plan have touched, those that a filter left out among them."""
    below = sum(rows_read(one) for one in plan.get("Plans", ()))
    if "Scan" not in plan["Node Type"] or plan["Node Type"] in ("CTE Scan", "Subquery Scan", "WorkTable Scan"):
        return below
    left_out = sum(count for name, count in plan.items() if name.startswith("Rows Removed"))
    return int(below + (plan["Actual Rows"] + left_out) * plan["Actual Loops"])


async def planned(scope: DriverScope, statement: str, *values: object) -> int:
    found = await scope.driver.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *values)
    return rows_read(found[0]["Plan"])


async def test_a_hundred_thousand_runs_that_ended_are_not_read_for_one_answer(house: House, replica: Replica) -> None:
    tenant, store = TenantId(SystemIds().uuid()), replica.learnt
    connection = await asyncpg.connect(house.urls.migrator)
    try:
        # None of the latest had an interval, and those of `rare` are the oldest.
        await connection.execute(
            """INSERT INTO run_estimate
                   (tenant_id, run_id, name, reference, project, estimated, actual, calibrated_on, end_time)
               SELECT $1, lpad(to_hex(place), 32, '0')::uuid,
                   CASE WHEN place <= 20 THEN 'workflow:rare' ELSE 'workflow:often' END, 'often@1.0.0', '',
                   array_fill(place, ARRAY[12]), array_fill(place, ARRAY[4]),
                   CASE WHEN place <= 50000 THEN 9 ELSE 0 END, now()
               FROM generate_series(1::bigint, 100000) AS place""",
            tenant,
        )
        await connection.execute(
            """INSERT INTO run_habits (tenant_id, kind, name, habits, update_time)
               SELECT $1, 'turn', 'agent' || place, '{"fit": [], "points": []}', now() - place * interval '1 minute'
               FROM generate_series(1, 6000) AS place""",
            tenant,
        )
        await connection.execute("ANALYZE run_estimate, run_habits")
    finally:
        await connection.close()
    async with driver_scope(store._app, tenant, read_only=True) as scope:
        for name in ("", "workflow:often", "workflow:rare", "workflow:none"):
            assert await planned(scope, estimates._COVERAGE, tenant, name, 1_000) <= 1_000
            for before in (None, UUID(int=60_000)):
                assert await planned(scope, estimates._PAGE, tenant, name, before, None, 51) <= 51
        one = UUID(int=5)
        assert await planned(scope, estimates._PAGE, tenant, "", None, one, 51) == 1
        keys = [f"agent{place}" for place in range(50)]
        assert await planned(scope, estimates._FITS, tenant, ["turn"] * 50, keys) <= 100
    assert await store.coverage(tenant, name="") == (0, 0)
    assert await store.coverage(tenant, name="workflow:rare") == (20, 20)
    page, more = await store.page(tenant, name="workflow:often", before=UUID(int=60_000), most=50)
    assert (page[0].actual[0], len(page), more) == (59_999, 50, True)

    gone, rounds = 0, 0
    while True:
        some, more = await store.forget_old()
        assert some <= 20_000
        gone, rounds = gone + some, rounds + 1
        if not more:
            break
    # 90,000 runs and 1,000 habits, so many at once.
    assert (gone, rounds) == (91_000, 10)
    assert [one.actual[0] for one in (await store.page(tenant, name="", before=None, most=1))[0]] == [100_000]
    left, _ = await store.page(tenant, name="", before=None, most=20_000)
    assert (len(left), left[-1].actual[0]) == (10_000, 90_001)
    shape = generate(3, 1)[0].shape
    assert (await store.habits(tenant, shape))[0] == Habits()


async def test_a_run_that_is_gone_is_waited_for_by_nobody(house: House, replica: Replica) -> None:
    run_id = await talk(replica)
    await ended(replica, run_id)
    connection = await asyncpg.connect(house.urls.migrator)
    try:
        # A noted run that is not there any more is taken out.
        await connection.execute(
            "INSERT INTO estimate_pending SELECT tenant_id, $1 FROM run LIMIT 1", SystemIds().uuid()
        )
    finally:
        await connection.close()
    await learnt(replica, 1)
    assert await replica.learning.round() == 0
    async with driver_scope(replica.learnt._maintenance, None, read_only=True) as scope:
        assert await scope.driver.fetchval("SELECT count(*) FROM estimate_pending") == 0
        assert await scope.driver.fetchval(
            "SELECT count(*) FROM estimate_place WHERE run_id = $1", to_uuid(run_id, "run")
        )


async def test_every_tenant_has_its_turn(house: House, replica: Replica) -> None:
    tenants = sorted((TenantId(SystemIds().uuid()), TenantId(SystemIds().uuid())), key=lambda one: one.int)
    connection = await asyncpg.connect(house.urls.migrator)
    try:
        for tenant, runs in zip(tenants, (5, 1), strict=True):
            for _ in range(runs):
                await connection.execute("INSERT INTO estimate_pending VALUES ($1, $2)", tenant, SystemIds().uuid())
    finally:
        await connection.close()
    due = await replica.learnt.due(most=3, but=())
    assert [tenant for tenant, _ in due] == [tenants[0], tenants[0], tenants[1]]
    left_out = await replica.learnt.due(most=10, but=[due[0][1]])
    assert len(left_out) == 5


async def test_what_is_learnt_is_kept_as_it_is(house: House, replica: Replica) -> None:
    habits = Habits()
    for run in generate(3, 60):
        learn(run.shape, run.seen, habits, PRICES)
    for one in habits.runs.values():
        kept = run_from_json(run_to_json(one))
        for window, again in zip(one.windows, kept.windows, strict=True):
            assert again.interval(0.1).high == pytest.approx(window.interval(0.1).high, abs=1e-3)
            assert (again.judged, again.covered) == (window.judged, window.covered)
        assert kept.parts.keys() == one.parts.keys()
    for turns in habits.turns.values():
        assert turn_from_json(turn_to_json(turns)).points[-1].input == pytest.approx(turns.points[-1].input, abs=1e-3)
    assert ANY_NAME in habits.runs
    tenant, store = TenantId(SystemIds().uuid()), replica.learnt
    shape = generate(3, 1)[0].shape
    async with store.lesson(tenant) as lesson:
        await lesson.keep(habits, PRICES, [])
    read, prices = await store.habits(tenant, shape)
    assert set(prices) <= set(PRICES)
    # As it was before it was kept, though the turns themselves are not read.
    before, after = estimate(shape, habits, PRICES), estimate(shape, read, PRICES)
    assert not any(turns.points for turns in read.turns.values())
    for amount in Amount:
        assert after.of(amount).median == pytest.approx(before.of(amount).median, rel=1e-2)
    assert shape.name in read.runs
    assert isinstance(store, SqlEstimates)
