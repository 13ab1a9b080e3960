"""Runs of workflows from start to end: agents, conditions, lists, waits, timers, sub-runs, and who steers them."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.json_format import MessageToDict

from comitia.orchestrator.v1 import run_pb2
from comitia_sdk import nano_usd
from comitia_sdk.errors import ComitiaError, FailedPrecondition, InvalidRequest, LimitReached, NotFound
from tests.e2e.conftest import Tenant, until

SUCCEEDED, FAILED, CANCELLED = run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED
WAITING, PAUSED, PARKED = run_pb2.RUN_STATE_WAITING, run_pb2.RUN_STATE_PAUSED, run_pb2.RUN_STATE_PARKED
ENDED = (SUCCEEDED, FAILED, CANCELLED)

REVIEW = """
name: review
version: 1.0.0
input_schema: {type: object, properties: {text: {type: string}}, required: [text]}
nodes:
  - {id: read, agent: {agent: Ada, prompt: {cel: '"Read this. " + input.text'}}}
  - id: judge
    agent: {agent: Bob, prompt: {cel: '"Judge this. " + input.text'}}
    input: {reading: {cel: nodes.read.output}}
    depends_on: [{node: read, when: {cel: 'nodes.read.output.contains("fine")'}}]
  - id: reject
    agent: {agent: Bob, prompt: Say no.}
    depends_on: [{node: read, when: {jsonpath: '$.nodes.read[?@ == "bad"]'}}]
output:
  verdict: {cel: nodes.judge.output}
  reading: {jsonpath: $.nodes.read.output}
"""
ASK = """
name: ask
version: 1.0.0
nodes:
  - {id: decided, wait: {signal: person.decided}}
  - {id: sum, tool: calculator, input: {expression: {cel: nodes.decided.output.expression}}, depends_on: [decided]}
"""
DOUBLE = """
name: double
version: 1.0.0
input_schema: {type: object, properties: {number: {type: integer}}, required: [number]}
nodes:
  - {id: work, tool: calculator, input: {expression: {cel: 'string(input.number) + " * 2"'}}}
output: {doubled: {cel: nodes.work.output}}
"""


async def ended(tenant: Tenant, run_id: str) -> run_pb2.Run:
    """Watches a run until it has ended; gives it as it is answered then."""
    async for event in tenant.client.runs.watch(run_id):
        if event.run.state in ENDED:
            assert await tenant.client.runs.get(run_id) == event.run
            return event.run
    raise AssertionError(f"the watch of {run_id} ended before the run did")


async def in_state(tenant: Tenant, run_id: str, state: run_pb2.RunState.ValueType) -> run_pb2.Run:
    """Waits until a run is in a state."""

    async def there() -> run_pb2.Run | None:
        run = await tenant.client.runs.get(run_id)
        assert run.state not in ENDED or run.state == state, f"it ended instead: {run}"
        return run if run.state == state else None

    return await until(there)


async def steps(tenant: Tenant, run_id: str) -> dict[str, run_pb2.RunStep]:
    """Gives the steps by their places."""
    return {step.path: step async for step in tenant.client.runs.steps(run_id)}


def output(run: run_pb2.Run) -> Any:
    return MessageToDict(run.output)


async def test_a_graph_takes_the_branch_whose_condition_holds(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    await tenant.client.workflows.create(REVIEW)
    tenant.says("All is fine", match=("Read this",))
    tenant.says("It may go", match=("Judge this", "All is fine"))
    run = await tenant.client.runs.start("review", {"text": f"A draft {tenant.mark}"}, metadata={"for": "a test"})
    assert (run.workflow, run.program, dict(run.metadata)) == ("review@1.0.0", "graph", {"for": "a test"})
    done = await ended(tenant, run.run_id)
    assert (done.state, output(done)) == (SUCCEEDED, {"verdict": "It may go", "reading": "All is fine"})
    assert (done.steps.succeeded, done.steps.skipped, done.steps.running) == (2, 1, 0)
    seen = await steps(tenant, run.run_id)
    assert seen.keys() == {"nodes/read", "nodes/judge", "nodes/reject"}
    assert (seen["nodes/judge"].agent, seen["nodes/reject"].state_reason) == ("Bob@1.0.0", "CONDITION_FALSE")
    assert done.cost_nano_usd == sum(step.cost_nano_usd for step in seen.values()) > 0
    summary = await tenant.client.costs.summary(by="run")
    # What memory embeds later is charged to the run as well, and is no step of it.
    assert {row.key: row.cost_nano_usd for row in summary.lines}[run.run_id] >= done.cost_nano_usd


async def test_a_watcher_sees_each_change_once_and_text_if_it_asks(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    await tenant.client.workflows.create(REVIEW)
    run = await tenant.client.runs.start("review", {"text": "A draft"}, model="stub")
    whole = [event async for event in tenant.client.runs.watch(run.run_id, include_deltas=True)]
    recorded = [event for event in whole if not event.HasField("text_delta")]
    assert [event async for event in tenant.client.runs.watch(run.run_id)] == recorded
    half = recorded[len(recorded) // 2].sequence
    later = [event async for event in tenant.client.runs.watch(run.run_id, after_sequence=half)]
    assert later == [event for event in recorded if event.sequence > half]
    assert recorded[0].run.state == run_pb2.RUN_STATE_RUNNING
    assert recorded[-1].run.state == SUCCEEDED
    assert next(event.turn.agent_name for event in recorded if event.HasField("turn")) == "Ada"
    ends = {event.step.path: event.step for event in recorded if event.HasField("step")}
    assert ends == await steps(tenant, run.run_id)


async def test_a_run_is_shown_as_it_stood_after_any_fact(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    await tenant.client.workflows.create(REVIEW)
    run = await tenant.client.runs.start("review", {"text": "A draft"}, model="stub")
    done = await ended(tenant, run.run_id)
    states = [
        (await tenant.client.runs.get(run.run_id, at_sequence=at)).steps.succeeded for at in range(1, done.sequence + 1)
    ]
    assert states == sorted(states)
    assert (states[0], states[-1]) == (0, done.steps.succeeded)
    assert await tenant.client.runs.get(run.run_id, at_sequence=done.sequence) == done
    with pytest.raises(InvalidRequest) as refusal:
        await tenant.client.runs.get(run.run_id, at_sequence=done.sequence + 1)
    assert (refusal.value.field, str(done.sequence) in str(refusal.value)) == ("at_sequence", True)


async def test_a_list_is_worked_on_item_by_item_and_reduced(tenant: Tenant) -> None:
    await tenant.client.workflows.create(DOUBLE)
    await tenant.client.workflows.create(
        """
        name: all
        version: 1.0.0
        input_schema: {type: object, properties: {numbers: {type: array, items: {type: integer}}}, required: [numbers]}
        nodes:
          - id: squares
            map:
              items: {cel: input.numbers}
              body: {tool: calculator, input: {expression: {cel: 'string(item) + " * " + string(item)'}}}
              max_parallel: 3
          - id: doubles
            map:
              items: {cel: input.numbers}
              body: {run: double, input: {number: {cel: item}}}
          - {id: count, aggregate: {items: {cel: nodes.squares.output}, reducer: count}, depends_on: [squares]}
        output:
          squares: {cel: nodes.squares.output}
          doubles: {cel: 'nodes.doubles.output.map(one, one.doubled)'}
          count: {cel: nodes.count.output}
        """
    )
    run = await tenant.client.runs.start("all", {"numbers": [1, 2, 3, 4, 5, 6, 7]})
    done = await ended(tenant, run.run_id)
    assert (done.state, done.state_message) == (SUCCEEDED, "")
    assert output(done) == {
        "squares": ["1", "4", "9", "16", "25", "36", "49"],
        "doubles": ["2", "4", "6", "8", "10", "12", "14"],
        "count": 7,
    }
    seen = await steps(tenant, run.run_id)
    assert seen["nodes/squares"].item_count == 7
    sub_runs = [seen[f"nodes/doubles/{index}"].started_run_id for index in range(7)]
    first = await tenant.client.runs.get(sub_runs[0])
    assert (first.parent_run_id, first.parent_path, first.workflow) == (run.run_id, "nodes/doubles/0", "double@1.0.0")
    assert (first.budget_id, first.deadline_time) == (done.budget_id, done.deadline_time)
    assert len(set(sub_runs)) == 7


async def test_a_list_that_is_too_long_fails_before_any_item_begins(tenant: Tenant) -> None:
    await tenant.client.workflows.create(
        """
        name: long
        version: 1.0.0
        nodes:
          - id: each
            map: {items: {cel: input.items}, body: {tool: calculator, input: {expression: "1"}}, max_items: 10}
        """
    )
    run = await tenant.client.runs.start("long", {"items": list(range(11))})
    done = await ended(tenant, run.run_id)
    assert (done.state, done.state_reason, done.steps.succeeded) == (FAILED, "MAP_TOO_LONG", 0)
    with pytest.raises(InvalidRequest) as refusal:
        await tenant.client.runs.start("long", {"items": [1] * 1_000_000})
    assert refusal.value.reason in ("RUN_INPUT_INVALID", "REQUEST_TOO_LARGE"), refusal.value


async def test_a_signal_wakes_the_step_that_waits_for_it_and_one_that_comes_early_is_kept(tenant: Tenant) -> None:
    await tenant.client.workflows.create(ASK)
    late = await tenant.client.runs.start("ask")
    waiting = await in_state(tenant, late.run_id, WAITING)
    assert (await steps(tenant, late.run_id))["nodes/decided"].state == run_pb2.STEP_STATE_WAITING
    taken = await tenant.client.runs.signal(late.run_id, "person.decided", {"expression": "6 * 7"})
    assert taken.sequence > waiting.sequence
    assert output(await ended(tenant, late.run_id)) == {"sum": "42"}
    await tenant.client.workflows.create(
        ASK.replace("name: ask", "name: later").replace(
            "- {id: decided, wait: {signal: person.decided}}",
            "- {id: nap, wait: {timer: 1s}}\n  - {id: decided, wait: {signal: person.decided}, depends_on: [nap]}",
        )
    )
    early = await tenant.client.runs.start("later")
    await tenant.client.runs.signal(early.run_id, "person.decided", {"expression": "1 + 1"})
    assert output(await ended(tenant, early.run_id)) == {"sum": "2"}


async def test_a_wait_ends_with_its_timer_and_one_for_a_signal_in_its_time(tenant: Tenant) -> None:
    await tenant.client.workflows.create(
        """
        name: naps
        version: 1.0.0
        nodes:
          - {id: nap, wait: {timer: 300ms}}
          - {id: never, wait: {signal: never, timeout: 200ms}, policy: {on_failure: continue}}
        output: {reason: {cel: nodes.never.reason}, nap: {cel: nodes.nap.state}}
        """
    )
    run = await tenant.client.runs.start("naps")
    done = await ended(tenant, run.run_id)
    assert (done.state, output(done)) == (SUCCEEDED, {"reason": "WAIT_TIMED_OUT", "nap": "succeeded"})
    lasted = done.end_time.ToDatetime() - done.start_time.ToDatetime()
    assert lasted >= timedelta(milliseconds=300)


async def test_a_paused_run_makes_no_call_until_it_is_resumed(tenant: Tenant) -> None:
    await tenant.client.workflows.create(ASK)
    run = await tenant.client.runs.start("ask")
    await in_state(tenant, run.run_id, WAITING)
    assert (await tenant.client.runs.pause(run.run_id)).state == PAUSED
    assert (await tenant.client.runs.pause(run.run_id)).state == PAUSED
    await tenant.client.runs.signal(run.run_id, "person.decided", {"expression": "2 + 3"})
    held = await tenant.client.runs.get(run.run_id)
    assert held.state == PAUSED
    assert (await tenant.client.runs.resume(run.run_id)).state != PAUSED
    assert output(await ended(tenant, run.run_id)) == {"sum": "5"}


async def test_a_step_that_always_fails_is_parked_and_goes_on_when_it_is_resumed(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    await tenant.client.workflows.create(
        """
        name: parks
        version: 1.0.0
        nodes:
          - id: number
            agent: {agent: Ada, prompt: {cel: '"A number please. " + input.about'}}
            policy:
              retries: {max_attempts: 2, first_backoff: 100ms}
              output_schema: {type: object, properties: {number: {type: integer}}, required: [number]}
          - {id: other, wait: {timer: 100ms}}
        output: {number: {cel: nodes.number.output.number}}
        """
    )
    tenant.says("I know none", "Truly none")
    run = await tenant.client.runs.start("parks", {"about": tenant.mark})
    parked = await in_state(tenant, run.run_id, PARKED)
    assert (parked.state_reason, "ResumeRun" in parked.state_message) == ("STEP_PARKED", True)
    step = (await steps(tenant, run.run_id))["nodes/number"]
    assert (step.state, step.state_reason, step.attempts) == (
        run_pb2.STEP_STATE_PARKED,
        "OUTPUT_BREAKS_SCHEMA",
        2,
    )
    tenant.says('{"number": 7}')
    await tenant.client.runs.resume(run.run_id)
    done = await ended(tenant, run.run_id)
    assert (done.state, output(done)) == (SUCCEEDED, {"number": 7})
    assert (await steps(tenant, run.run_id))["nodes/number"].attempt_group == 1


async def test_a_cancel_reaches_the_call_in_progress_and_the_sub_run(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    await tenant.client.workflows.create(
        """
        name: slow
        version: 1.0.0
        nodes: [{id: think, agent: {agent: Ada, prompt: {cel: input.about}}}]
        """
    )
    await tenant.client.workflows.create(
        """
        name: outer
        version: 1.0.0
        nodes: [{id: inner, run: slow, input: {about: {cel: input.about}}}]
        """
    )
    tenant.provider.behave(text="Never said", match=[tenant.mark], wait=30)
    run = await tenant.client.runs.start("outer", {"about": tenant.mark})

    async def speaking() -> str:
        inner = (await steps(tenant, run.run_id)).get("nodes/inner")
        if inner is None or not inner.started_run_id:
            return ""
        try:
            seen = await tenant.client.runs.get(inner.started_run_id)
        except NotFound:
            return ""
        return seen.run_id if seen.steps.running else ""

    inner = await until(speaking)
    await tenant.client.runs.cancel(run.run_id)
    done = await in_state(tenant, run.run_id, CANCELLED)
    assert done.state_reason == "CANCELLED"
    stopped = await in_state(tenant, inner, CANCELLED)
    assert run.run_id in stopped.state_message
    assert [step.state for step in (await steps(tenant, inner)).values()] == [run_pb2.STEP_STATE_CANCELLED]


async def test_what_an_ended_run_is_asked_is_refused_by_name(tenant: Tenant) -> None:
    await tenant.client.workflows.create(DOUBLE)
    run = await tenant.client.runs.start("double", {"number": 4})
    await ended(tenant, run.run_id)
    runs = tenant.client.runs
    for ask in (
        runs.pause(run.run_id),
        runs.resume(run.run_id),
        runs.cancel(run.run_id),
        runs.signal(run.run_id, "go"),
    ):
        with pytest.raises(FailedPrecondition) as refusal:
            await ask
        assert refusal.value.reason == "RUN_ALREADY_TERMINAL"


async def test_only_a_run_that_stands_still_can_be_resumed(tenant: Tenant) -> None:
    await tenant.client.workflows.create(ASK)
    run = await tenant.client.runs.start("ask")
    await in_state(tenant, run.run_id, WAITING)
    with pytest.raises(FailedPrecondition) as refusal:
        await tenant.client.runs.resume(run.run_id)
    assert refusal.value.reason == "RUN_NOT_PAUSED"


async def test_a_failed_sub_run_fails_its_step_by_its_own_reason(tenant: Tenant) -> None:
    await tenant.client.workflows.create(
        """
        name: breaks
        version: 1.0.0
        nodes: [{id: sum, tool: calculator, input: {expression: {cel: input.nothing}}, policy: {on_failure: fail_run}}]
        """
    )
    await tenant.client.workflows.create(
        """
        name: outer
        version: 1.0.0
        nodes: [{id: inner, run: breaks, policy: {on_failure: fail_run, retries: {max_attempts: 1}}}]
        """
    )
    run = await tenant.client.runs.start("outer")
    done = await ended(tenant, run.run_id)
    assert (done.state, done.state_reason) == (FAILED, "EXPRESSION_FAILED")


async def test_a_deadline_ends_a_run_that_waits(tenant: Tenant) -> None:
    await tenant.client.workflows.create(ASK)
    run = await tenant.client.runs.start("ask", deadline=timedelta(seconds=1))
    done = await ended(tenant, run.run_id)
    assert (done.state, done.state_reason) == (FAILED, "RUN_DEADLINE_EXCEEDED")


async def test_a_limit_of_money_holds_for_a_run_and_all_it_starts(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    await tenant.client.workflows.create(
        """
        name: inner
        version: 1.0.0
        nodes: [{id: think, agent: {agent: Ada, prompt: Think.}}]
        """
    )
    await tenant.client.workflows.create(
        """
        name: outer
        version: 1.0.0
        nodes: [{id: inner, run: inner}]
        """
    )
    run = await tenant.client.runs.start("outer", max_cost_nano_usd=1)
    done = await ended(tenant, run.run_id)
    assert (done.state, done.state_reason, done.cost_nano_usd) == (FAILED, "BUDGET_EXHAUSTED", 0)


async def test_what_runs_spend_that_a_step_starts_is_spent_from_the_budget_of_that_step(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    inner = """
        name: inner
        version: 1.0.0
        nodes: [{id: think, agent: {agent: Ada, prompt: Think.}}]
        """
    middle = """
        name: middle
        version: 1.0.0
        nodes: [{id: deeper, run: inner, policy: {on_failure: fail_run}}]
        """
    outer = """
        name: outer
        version: 1.0.0
        nodes:
          - {id: begin, wait: {signal: begin}}
          - {id: first, run: middle, depends_on: [begin]}
          - {id: again, wait: {signal: again}, depends_on: [first]}
          - {id: second, run: middle, depends_on: [again], policy: {on_failure: fail_run}}
        """
    for workflow in (inner, middle, outer):
        await tenant.client.workflows.create(workflow)
    run = await tenant.client.runs.start("outer")
    costs, nodes = tenant.client.costs, f"{run.run_id}/nodes"
    for name in (nodes, f"{nodes}/first", f"{nodes}/second"):
        await costs.set_budget(nano_usd("5"), step=name)
    await tenant.client.runs.signal(run.run_id, "begin")

    async def first_is_done() -> bool:
        return (await tenant.client.runs.get(run.run_id)).steps.succeeded == 2

    async def spent(name: str) -> int:
        return (await costs.budget_status(name)).budget.spent_nano_usd

    async def all_agree() -> bool:
        # What is remembered is embedded, and paid for, a little later.
        seen = {await spent(name) for name in (f"run:{run.run_id}", f"step:{nodes}", f"step:{nodes}/first")}
        return len(seen) == 1 and seen != {0}

    await until(first_is_done)
    await until(all_agree)
    await costs.set_budget(await spent(f"step:{nodes}"), step=nodes)
    await tenant.client.runs.signal(run.run_id, "again")
    done = await ended(tenant, run.run_id)
    assert (done.state, done.state_reason) == (FAILED, "BUDGET_EXHAUSTED")
    assert f"step:{nodes}" in done.state_message
    await until(all_agree)
    assert await spent(f"step:{nodes}/second") == 0


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"workflow": ""}, "workflow", "INVALID_FIELD"),
        ({"workflow": "no such"}, "workflow", "INVALID_FIELD"),
        ({"input": {}}, "input.number", "RUN_INPUT_INVALID"),
        ({"input": {"number": "four"}}, "input.number", "RUN_INPUT_INVALID"),
        ({"input": {"number": 1, "more": "x" * 300_000}}, "input", "RUN_INPUT_INVALID"),
        ({"max_cost_nano_usd": -1}, "max_cost_nano_usd", "INVALID_FIELD"),
        ({"deadline": timedelta(0)}, "deadline", "INVALID_FIELD"),
        ({"deadline": timedelta(days=31)}, "deadline", "INVALID_FIELD"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "INVALID_FIELD"),
        ({"model": "m" * 300}, "model", "INVALID_FIELD"),
    ],
)
async def test_a_start_that_cannot_be_carried_out_names_the_field(
    tenant: Tenant, fields: dict[str, Any], field: str, reason: str
) -> None:
    await tenant.client.workflows.create(DOUBLE)
    asked: dict[str, Any] = {"workflow": "double", "input": {"number": 4}, **fields}
    with pytest.raises(InvalidRequest) as refusal:
        await tenant.client.runs.start(**asked)
    assert (refusal.value.field.split("[")[0], refusal.value.reason) == (field, reason)
    assert [run async for run in tenant.client.runs.list()] == []


async def test_unknown_workflows_and_runs_are_not_found(tenant: Tenant) -> None:
    for ask, reason in (
        (tenant.client.runs.start("nothing"), "WORKFLOW_NOT_FOUND"),
        (tenant.client.runs.get("run_01jd0000000000000000000000"), "RUN_NOT_FOUND"),
        (tenant.client.runs.cancel("run_01jd0000000000000000000000"), "RUN_NOT_FOUND"),
    ):
        with pytest.raises(NotFound) as refusal:
            await ask
        assert refusal.value.reason == reason


@pytest.mark.parametrize("name", ["", "9", "a b", "x" * 64])
async def test_a_signal_needs_a_name(tenant: Tenant, name: str) -> None:
    await tenant.client.workflows.create(ASK)
    run = await tenant.client.runs.start("ask")
    with pytest.raises(InvalidRequest) as refusal:
        await tenant.client.runs.signal(run.run_id, name)
    assert refusal.value.field == "name"
    with pytest.raises(InvalidRequest) as refusal:
        await tenant.client.runs.signal(run.run_id, "go", "x" * 70_000)
    assert refusal.value.field == "payload"


async def test_a_repeated_start_gives_the_first_run(tenant: Tenant) -> None:
    await tenant.client.workflows.create(DOUBLE)
    request_id = str(uuid4())
    first = await tenant.client.runs.start("double", {"number": 4}, request_id=request_id)
    await ended(tenant, first.run_id)
    again = await tenant.client.runs.start("double", {"number": 4}, request_id=request_id)
    assert again == first
    with pytest.raises(ComitiaError) as refusal:
        await tenant.client.runs.start("double", {"number": 5}, request_id=request_id)
    assert refusal.value.reason == "REQUEST_ID_REUSED"
    assert len([run async for run in tenant.client.runs.list()]) == 1


async def test_a_session_is_a_run_too(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    session = await tenant.start("Ada", "Bob", max_rounds=1)
    done = await tenant.ended(session.session_id)
    run = await tenant.client.runs.get(session.session_id)
    assert (run.program, run.state, run.sequence, run.steps.succeeded) == ("dialogue", SUCCEEDED, done.sequence, 2)
    assert [step.agent async for step in tenant.client.runs.steps(run.run_id)] == ["Ada@1.0.0", "Bob@1.0.0"]
    last = [event async for event in tenant.client.runs.watch(run.run_id)][-1]
    assert (last.sequence, last.run) == (run.sequence, run)
    [listed] = [one async for one in tenant.client.runs.list()]
    assert (listed.run_id, listed.HasField("input"), listed.HasField("output")) == (run.run_id, False, False)


async def test_lists_are_newest_first_and_can_leave_out_what_has_ended(tenant: Tenant) -> None:
    await tenant.client.workflows.create(DOUBLE)
    await tenant.client.workflows.create(ASK)
    over = await tenant.client.runs.start("double", {"number": 1})
    await ended(tenant, over.run_id)
    opened = [(await tenant.client.runs.start("ask")).run_id for _ in range(3)]
    listed = [run.run_id async for run in tenant.client.runs.list(page_size=2)]
    assert listed == [*reversed(opened), over.run_id]
    assert [run.run_id async for run in tenant.client.runs.list(open_only=True, page_size=2)] == listed[:3]
    paged = [step.path async for step in tenant.client.runs.steps(over.run_id, page_size=1)]
    assert paged == ["nodes/work"]


async def test_a_tenant_starts_no_more_runs_at_once_than_it_may(tenant: Tenant, client: Any) -> None:
    await tenant.client.workflows.create(ASK)
    own = await tenant.client.tenants.own()
    await client.tenants.set_quotas(own.tenant_id, {"max_concurrent_runs": 1})

    async def limited() -> bool:
        try:
            run = await tenant.client.runs.start("ask")
        except LimitReached as refusal:
            return refusal.reason == "QUOTA_EXCEEDED"
        await tenant.client.runs.cancel(run.run_id)
        return False

    await tenant.client.runs.start("ask")
    await until(limited)
