"""Workflows as callers make them: versions, imports, and one clear error for each thing that can be wrong."""

import json
from typing import Any

import pytest

from comitia_sdk.errors import AlreadyExists, InvalidRequest, NotFound
from tests.e2e.conftest import Tenant

HEAD = "name: broken\nversion: 1.0.0\nnodes:\n"
#: A text, and where which fault of it is found.
BROKEN = {
    "a cycle": (
        "  - {id: a, wait: {signal: go}, depends_on: [b]}\n  - {id: b, wait: {signal: go}, depends_on: [a]}\n",
        [("nodes[0].depends_on", "CYCLE")],
    ),
    "an edge from a node that is not there": (
        "  - {id: a, wait: {signal: go}, depends_on: [b]}\n",
        [("nodes[0].depends_on[0]", "UNKNOWN_NODE")],
    ),
    "two nodes of one id": (
        "  - {id: a, wait: {signal: go}}\n  - {id: a, wait: {signal: go}}\n",
        [("nodes[1].id", "DUPLICATE_ID")],
    ),
    "an expression that does not compile": (
        "  - {id: a, wait: {signal: go}, when: {cel: 'input.x >'}}\n",
        [("nodes[0].when.cel", "EXPRESSION_INVALID")],
    ),
    "an expression of the wrong type": (
        "  - {id: a, wait: {signal: go}, when: {cel: '1 + 1'}}\n",
        [("nodes[0].when.cel", "EXPRESSION_TYPE")],
    ),
    "a path that does not compile": (
        "  - {id: a, wait: {signal: go}, when: {jsonpath: '$..['}}\n",
        [("nodes[0].when.jsonpath", "EXPRESSION_INVALID")],
    ),
    "an expression that names a later node": (
        "  - {id: a, wait: {signal: go}, when: {cel: nodes.b.output}}\n  - {id: b, wait: {signal: go}}\n",
        [("nodes[0].when.cel", "NOT_BEFORE")],
    ),
    "an agent that is not there": (
        "  - {id: a, agent: {agent: Nobody, prompt: Hello.}}\n",
        [("nodes[0].agent.agent", "AGENT_NOT_FOUND")],
    ),
    "a workflow that runs itself": (
        "  - {id: a, run: broken}\n",
        [("nodes[0].run.workflow", "WORKFLOW_NOT_FOUND")],
    ),
    "a map over more items than any may have": (
        "  - {id: a, map: {items: {cel: input.items}, body: {step: work}, max_items: 1000000}}\n",
        [("nodes[0].map.max_items", "OUT_OF_RANGE")],
    ),
    "10,000 nodes": (
        "".join(f"  - {{id: n{number}, wait: {{signal: go}}}}\n" for number in range(10_000)),
        [("nodes", "TOO_MANY_NODES")],
    ),
    "a field that nobody knows": (
        "  - {id: a, wait: {signal: go}, colour: red}\n",
        [("nodes[0].colour", "UNKNOWN_FIELD")],
    ),
    "no YAML": ("  - {id: a\n", [("", "UNREADABLE")]),
}


@pytest.mark.parametrize("what", list(BROKEN))
async def test_each_thing_that_can_be_wrong_is_one_clear_fault(tenant: Tenant, what: str) -> None:
    nodes, expected = BROKEN[what]
    answer = await tenant.client.workflows.validate(HEAD + nodes)
    assert [(fault.field, fault.reason) for fault in answer.faults] == expected
    assert all(fault.message and fault.line for fault in answer.faults)
    assert (answer.more_faults, answer.HasField("workflow")) == (False, False)
    with pytest.raises(InvalidRequest) as refusal:
        await tenant.client.workflows.create(HEAD + nodes)
    assert refusal.value.reason == "WORKFLOW_INVALID"
    assert expected[0][1] in str(refusal.value)
    assert [one async for one in tenant.client.workflows.list()] == []


async def test_a_version_is_made_once_found_and_listed(tenant: Tenant) -> None:
    text = HEAD.replace("broken", "waits") + "  - {id: a, wait: {signal: go}}\n"
    made = await tenant.client.workflows.create(text)
    assert await tenant.client.workflows.create(text) == made
    assert await tenant.client.workflows.get("waits") == made
    assert (await tenant.client.workflows.validate(text)).workflow.digest == made.digest
    with pytest.raises(AlreadyExists) as refusal:
        await tenant.client.workflows.create(text.replace("signal: go", "signal: stop"))
    assert refusal.value.reason == "WORKFLOW_VERSION_EXISTS"
    await tenant.client.workflows.create(text.replace("1.0.0", "1.1.0"))
    assert (await tenant.client.workflows.get("waits")).version == "1.1.0"
    assert (await tenant.client.workflows.get("waits", "1.0.0")) == made
    assert [one.version async for one in tenant.client.workflows.list("waits", page_size=1)] == ["1.0.0", "1.1.0"]
    with pytest.raises(NotFound) as missing:
        await tenant.client.workflows.get("nothing")
    assert missing.value.reason == "WORKFLOW_NOT_FOUND"


async def test_an_agentnet_graph_is_imported_and_runs(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    graph: dict[str, Any] = {
        "name": "net",
        "nodes": [
            {"id": "first", "agent": "Ada", "prompt": f"Begin. {tenant.mark}"},
            {"id": "second", "agent": "Ada", "prompt": f"Go on. {tenant.mark}", "deps": ["first"]},
        ],
    }
    made = await tenant.client.workflows.create(json.dumps(graph), format="agentnet")
    assert (made.name, made.version, made.node_count) == ("net", "1.0.0", 2)
    tenant.says("Begun", match=("Begin.",))
    tenant.says("Gone on", match=("Go on.", "Begun"))
    run = await tenant.client.runs.start("net")
    async for event in tenant.client.runs.watch(run.run_id):
        run = event.run if event.HasField("run") else run
    assert (run.state_reason, run.output.struct_value["second"]) == ("", "Gone on")
