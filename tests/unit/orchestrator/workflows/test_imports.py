"""Task graphs and flows of other systems become our workflows under the rules of docs/workflows.md."""

import json
from typing import Any

import pytest

from services.orchestrator.workflows.agentflow import ASKED
from services.orchestrator.workflows.definition import Format, read_text
from services.orchestrator.workflows.document import document_of
from tests.support.definitions import faults_of, pin

GRAPH = json.dumps(
    {
        "nodes": [
            {"id": "outline", "prompt": "Outline a move to new offices", "agent": "Planner", "deps": []},
            {
                "task_id": "cost-est",
                "prompt": "Estimate {{it}}",
                "assigned_agent": "Clerk@2.0.0",
                "dependencies": ["outline"],
            },
            {
                "id": "join",
                "prompt": "Join",
                "agent": "Writer",
                "deps": ["outline", "cost-est"],
                "retries": 2,
                "fallback_agent": "Clerk",
            },
        ]
    },
    indent=1,
)

FLOW = """
name: invoices
version: 4
description: Reads invoices.
nodes:
  - id: fetch-it
    type: tool
    config:
      tool_name: store.get
      tool_args: {bucket: in, key: "{{file}}", path: 'a/{{file}}/{{batch.day}}"', plain: {deep: [1]}}
  - id: sum
    type: llm
    config:
      prompt_ref: invoice_summary@3
      inputs: {content: fetch-it.output, total: fetch-it.output.total, language: en}
    policy: {quality: Gold, sla_ms: 30000}
  - id: say
    type: llm
    config: {agent: Writer, prompt: "{{sum.output}}"}
edges:
  - {from: fetch-it, to: sum}
  - {from: sum, to: say}
"""


def document(text: str, written_in: Format | None = None, **request: str) -> dict[str, Any]:
    draft = read_text(text, written_in, **request)
    made = pin(draft)
    assert made is not None, draft.faults.found
    return document_of(made.workflow)


def test_a_task_graph_becomes_agents_that_are_given_what_they_depend_on() -> None:
    made = document(GRAPH, name="move")
    outline, cost, join = made["nodes"]
    assert (made["name"], made["version"]) == ("move", "1.0.0")
    assert outline == {
        "id": "outline",
        "agent": {"agent": "Planner@1.0.0", "prompt": {"literal": "Outline a move to new offices"}},
    }
    assert cost["id"] == "cost_est"
    assert cost["agent"] == {"agent": "Clerk@2.0.0", "prompt": {"literal": "Estimate {{it}}"}}
    assert cost["input"] == {"outline": {"cel": "nodes.outline.output"}}
    assert join["depends_on"] == [{"node": "outline"}, {"node": "cost_est"}]
    assert join["policy"] == {"retries": {"max_attempts": 3}, "fallback_agent": "Clerk@1.0.0"}
    assert document(GRAPH, Format.AGENTNET, name="move") == made


def test_a_flow_becomes_tools_and_agents_with_expressions_for_its_placeholders() -> None:
    made = document(FLOW)
    fetch, total, say = made["nodes"]
    # Its output is asked for a field, so it is read as JSON.
    assert fetch["policy"] == {"output_schema": {}}
    assert (made["version"], made["input_schema"]["required"]) == ("4.0.0", ["file", "batch"])
    assert (fetch["id"], fetch["tool"]) == ("fetch_it", {"tool": "store_get"})
    assert fetch["input"] == {
        "bucket": {"literal": "in"},
        "key": {"cel": "input.file"},
        "path": {"cel": '"a/" + string(input.file) + "/" + string(input.batch.day) + "\\""'},
        "plain": {"literal": {"deep": [1]}},
    }
    assert total["agent"] == {"agent": "invoice_summary@3.0.0", "prompt": {"literal": ASKED}}
    assert total["input"] == {
        "content": {"cel": "nodes.fetch_it.output"},
        "total": {"cel": "nodes.fetch_it.output.total"},
        "language": {"literal": "en"},
    }
    assert total["policy"] == {"tier": "gold", "sla_ms": 30000}
    assert total["depends_on"] == [{"node": "fetch_it"}]
    assert say["agent"] == {"agent": "Writer@1.0.0", "prompt": {"cel": "nodes.sum.output"}}
    assert document(FLOW, Format.AGENTFLOW) == made


def test_the_name_and_version_may_come_with_the_request_but_not_twice() -> None:
    assert document(GRAPH, name="move", version="2.0.0")["version"] == "2.0.0"
    assert [fault.reason for fault in read_text(FLOW, None, name="other").faults.found] == ["NOT_ALLOWED_HERE"]
    assert document(FLOW, name="invoices", version="4.0.0")["name"] == "invoices"
    assert [fault.field for fault in read_text(GRAPH, None).faults.found] == ["name"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"deps": []', '"deps": ["nope"]', "UNKNOWN_NODE names `nope`, which is no node"),
        ('"deps": []', '"deps": "join"', "WRONG_TYPE must be a list, is a text"),
        ('"deps": []', '"deps": ["join"]', "CYCLE makes a cycle: outline → join → outline"),
        ('"retries": 2', '"retries": 99', "OUT_OF_RANGE must be 0 to 19 retries, is `99`"),
        ('"agent": "Planner"', '"agent": 3', "agent WRONG_TYPE must be a text, is a number"),
        ('"prompt": "Join"', '"prompt": ""', "prompt REQUIRED is empty"),
        ('"prompt": "Join"', '"prompt": "Join", "mood": "good"', "mood NOT_IMPORTED has no meaning in a task graph"),
        ('"id": "join"', '"id": "cost.est"', "DUPLICATE_ID"),
    ],
)
def test_a_task_graph_is_told_its_faults_in_its_own_words(old: str, new: str, told: str) -> None:
    assert old in GRAPH
    (found, *_) = faults_of(GRAPH.replace(old, new, 1).replace('{\n "nodes"', '{"name": "move",\n "nodes"'))
    assert told in found
    assert not found.startswith("0:")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("type: tool", "type: switch", "nodes[0].type NOT_IMPORTED is `switch`; `tool` and `llm` are taken over"),
        ("{from: sum, to: say}", "{from: sum, to: nope}", "edges[1].to UNKNOWN_NODE names `nope`, which is no node"),
        ("{from: sum, to: say}", "{from: nope, to: say}", "edges[1].from UNKNOWN_NODE names `nope`"),
        ("{from: sum, to: say}", "{to: say}", "edges[1].from REQUIRED"),
        ("to: say}", "to: say, condition: x > 1}", "edges[1].condition NOT_IMPORTED conditions have no fixed meaning"),
        ("quality: Gold", "quality: Diamond", "policy.quality UNKNOWN_VALUE must be Gold, Silver or Bronze"),
        ("sla_ms: 30000", "sla_ms: fast", "policy.sla_ms WRONG_TYPE must be a whole number"),
        ("sla_ms: 30000", "retries: 3", "policy.retries NOT_IMPORTED"),
        ("invoice_summary@3", "invoice summary", "prompt_ref MALFORMED must be a prompt such as summary@3"),
        ('key: "{{file}}"', 'key: "{{file | upper}}"', "tool_args.key NOT_IMPORTED has the placeholder `file | upper`"),
        ("deep: [1]", "deep: ['{{file}}']", "tool_args.plain NOT_IMPORTED has placeholders inside"),
        ("  - {from: fetch-it, to: sum}\n", "", "inputs.content NOT_BEFORE names `fetch_it`"),
        ("version: 4", "version: [4]", "version WRONG_TYPE"),
        ("tool_name: store.get", "tool: store", "tool_name REQUIRED is required"),
        ("config: {agent: Writer", "config: {model: big, agent: Writer", "config.model NOT_IMPORTED"),
    ],
)
def test_a_flow_is_told_its_faults_in_its_own_words(old: str, new: str, told: str) -> None:
    assert old in FLOW
    found = faults_of(FLOW.replace(old, new, 1))
    assert any(told in fault for fault in found), found
