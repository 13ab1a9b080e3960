"""Runs of workflows from start to end: agents, conditions, lists, waits, timers, sub-runs, and who steers them."""

from datetime import timedelta

import pytest

from comitia.orchestrator.v1 import run_pb2, run_service_pb2
from comitia_sdk.errors import ComitiaError, FailedPrecondition, InvalidRequest, NotFound
from tests.e2e.conftest import Tenant, until

SUCCEEDED = run_pb2.RUN_STATE_SUCCEEDED
ENDED = (SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED)

REVIEW = """
name: review
version: 1.0.0
input_schema: {type: object, properties: {text: {type: string}, strict: {type: boolean}}, required: [text]}
nodes:
  - {id: read, agent: {agent: Ada, prompt: {cel: '"Read this. " + input.text'}}}
  - id: judge
    agent: {agent: Bob, prompt: {cel: '"Judge this. " + nodes.read.output'}}
    input: {strict: {cel: has(input.strict) && input.strict}}
    depends_on: [{node: read, when: {cel: 'nodes.read.output.contains("fine")'}}]
  - {id: reject, agent: {agent: Bob, prompt: Say no.}, depends_on: [{node: read, when: {cel: '!nodes.read.output.contains("fine")'}}]}
output:
  verdict: {cel: nodes.judge.output}
  read: {jsonpath: $.nodes.read.output}
"""


async def ended(tenant: Tenant, run_id: str) -> run_pb2.Run:
    """Watches a run until it has ended."""
    async for event in tenant.client.runs.watch(run_id):
        if event.run.state in ENDED:
            return event.run
    raise AssertionError(f"the watch of {run_id} ended before the run did")


async def in_state(tenant: Tenant, run_id: str, state: run_pb2.RunState.ValueType) -> run_pb2.Run:
    """Waits until a run is in a state."""

    async def there() -> run_pb2.Run | None:
        run = await tenant.client.runs.get(run_id)
        assert run.state not in ENDED or run.state == state, f"it ended instead: {run}"
        return run if run.state == state else None

    return await until(there)


async def test_a_graph_takes_the_branch_that_its_condition_names(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    await tenant.client.workflows.create(REVIEW)
    tenant.says("All is fine", match=("Read this",))
    tenant.says("It may go", match=("Judge this",))
    run = await tenant.client.runs.start("review", {"text": f"a draft {tenant.mark}"})
    assert (run.workflow, run.state, run.program) == ("review@1.0.0", run_pb2.RUN_STATE_RUNNING, "graph")
    done = await ended(tenant, run.run_id)
    print(done)
    assert done.state == SUCCEEDED
