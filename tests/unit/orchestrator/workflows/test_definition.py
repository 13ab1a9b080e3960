"""Definitions of workflows: read from text and message, canonical, and all that can be wrong with them at once."""

import json
import random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from comitia.orchestrator.v1 import estimate_pb2, workflow_pb2
from services.orchestrator.domain.workflow import MAX_EDGES, MAX_NODES
from services.orchestrator.workflows.definition import KnownWorkflow, read_document, read_text
from services.orchestrator.workflows.document import document_of, workflow_of
from services.orchestrator.workflows.message import document_from, message_of
from tests.support.definitions import EVERYTHING, faults_of, pin, stored


def graph(**nodes: str) -> str:
    """Writes a workflow of steps, each with the nodes that it depends on."""
    lines = [f"  - {{id: {name}, step: go, depends_on: [{edges}]}}" for name, edges in nodes.items()]
    return "\n".join(["name: graph", "version: 1.0.0", "nodes:", *lines])


def one_node(fields: str, more: str = "") -> str:
    """Writes a workflow of one node on line 4, with further lines."""
    return f"name: one\nversion: 1.0.0\nnodes:\n  - {{id: a, {fields}}}\n{more}"


def test_everything_is_read_pinned_and_counted() -> None:
    made = stored(EVERYTHING)
    document = document_of(made.workflow)
    by_id: dict[str, Any] = {node["id"]: node for node in document["nodes"]}  # type: ignore[union-attr]
    assert (made.depth, made.node_count, made.workflow.name) == (2, 8, "contract-review")
    assert by_id["read"]["agent"]["agent"] == "Reader@1.0.0"
    assert by_id["read"]["policy"]["fallback_agent"] == "Backup@1.0.0"
    assert by_id["read"]["policy"]["retries"] == {
        "max_attempts": 5,
        "first_backoff": "0.25s",
        "factor": 1.5,
        "max_backoff": "90s",
        "jitter": 0.0,
    }
    assert by_id["clauses"]["map"]["body"]["agent"]["agent"] == "Lawyer@2.1.0"
    assert by_id["notify"]["run"] == {"workflow": "notify@1.2.0"}
    assert by_id["sum"]["depends_on"] == [{"node": "clauses"}, {"node": "doubt"}, {"node": "pause"}]
    assert document["deadline"] == "172800s"
    assert document["policy"] == {"preflight": "degrade"}


def test_yaml_json_a_message_and_the_stored_document_are_the_same_definition() -> None:
    made = stored(EVERYTHING)
    as_json = json.dumps(yaml.safe_load(EVERYTHING))
    message = message_of(made.workflow)
    again = pin(read_document(document_from(workflow_pb2.Workflow.FromString(message.SerializeToString()))), workflows={
        ("notify", "1.2.0"): KnownWorkflow(version="1.2.0", depth=1, input_schema=None)
    })  # fmt: skip
    assert again is not None
    assert stored(as_json).digest == made.digest == again.digest
    assert workflow_of(json.loads(json.dumps(document_of(made.workflow)))) == made.workflow
    assert document_from(message) == document_of(made.workflow)


def test_the_digest_is_of_the_meaning_not_of_the_layout() -> None:
    short = one_node("tool: calculator, input: {x: 3}")
    long = one_node('"tool": {"tool": "calculator"}, input: {x: {literal: 3.0}}, depends_on: [], policy: {}')
    assert stored(short).digest == stored(long).digest
    assert stored(short).digest != stored(short.replace("x: 3", "x: 4")).digest
    assert stored(graph(a="", b="a")).digest != stored(graph(b="a", a="")).digest


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (
            "{preflight: rejct}",
            "3:21 policy.preflight UNKNOWN_VALUE must be one of off, warn, reject, degrade, is `rejct`",
        ),
        (
            "{preflight: true}",
            "3:21 policy.preflight UNKNOWN_VALUE must be one of off, warn, reject, degrade, is `True`",
        ),
        (
            "{preflight: {}}",
            "3:21 policy.preflight UNKNOWN_VALUE must be one of off, warn, reject, degrade, is a mapping",
        ),
        (
            "{preflght: warn}",
            "3:10 policy.preflght UNKNOWN_FIELD is no field that is known here; did you mean `preflight`?",
        ),
        ("warn", "3:9 policy WRONG_TYPE must be a mapping of the fields of a policy, is a text"),
    ],
)
def test_a_policy_that_says_something_else_is_told(policy: str, told: str) -> None:
    text = one_node("tool: calculator").replace("version: 1.0.0", f"version: 1.0.0\npolicy: {policy}")
    assert faults_of(text) == [told]


@pytest.mark.parametrize("word", ["off", "warn", "reject", "degrade"])
def test_a_policy_says_what_is_done_with_runs_that_may_not_fit(word: str) -> None:
    said = stored(one_node("tool: calculator", f"policy: {{preflight: {word}}}\n"))
    message = message_of(said.workflow)
    assert message.policy.preflight == estimate_pb2.PreflightMode.Value(f"PREFLIGHT_MODE_{word.upper()}")
    assert document_from(message) == document_of(said.workflow)
    # What says nothing is the definition that it was.
    silent = stored(one_node("tool: calculator"))
    assert silent.digest == stored(one_node("tool: calculator", "policy: {}\n")).digest != said.digest
    assert not message_of(silent.workflow).HasField("policy")


def test_a_policy_of_a_message_that_is_none_of_ours_is_told() -> None:
    message = message_of(stored(one_node("tool: calculator")).workflow)
    message.policy.preflight = 9  # type: ignore[assignment]
    told = [str(fault) for fault in read_document(document_from(message)).faults.found]
    assert len(told) == 1
    assert "must be one of off, warn, reject, degrade, is `9`" in told[0]


def test_the_fields_that_only_we_write_are_ignored() -> None:
    made = stored(EVERYTHING)
    message = message_of(made.workflow)
    message.digest, message.depth, message.node_count = "00", 7, 7
    message.create_time.GetCurrentTime()
    assert document_from(message) == document_of(made.workflow)


def test_every_fault_is_told_at_once_with_its_place() -> None:
    text = """name: bad name
version: 1
colour: blue
input_schema: {type: object, properties: {count: {type: integer}}}
nodes:
  - id: a
    depends_on: [c]
    agent: {agent: Reader, promt: x}
  - id: b
    depends_on: [a, a, zz, b]
    tool: calculator
    run: other
    when: nodes.d.state == 'failed'
  - id: c
    depends_on: [b]
    step: go
    policy: {tier: platinum, sla_ms: -5, timeout: 5, heartbeat: 3x, retries: {factor: 50}, fallback_agent: Zed}
  - id: a
    wait: {}
  - id: d
    depends_on: [c]
    aggregate: sum
    input: {x: 1}
    when: 1 > 2
  - id: e
    policy: {output_schema: {type: nonsense}}
  - just text
  - id: f
    run: nowhere@1.0.0
    input: {x: {cel: input.cuont}, y: {cel: "input.count + 'a'"}, z: {cel: "1 +"}, w: {jsonpath: "$.input["}}
output: {x: {cel: nodes.q.output}}
"""
    told = faults_of(text)
    assert [fault.split(" ")[:3] for fault in told] == [
        ["1:7", "name", "MALFORMED"],
        ["2:10", "version", "WRONG_TYPE"],
        ["3:1", "colour", "UNKNOWN_FIELD"],
        ["7:17", "nodes[0].depends_on", "CYCLE"],
        ["8:12", "nodes[0].agent.prompt", "REQUIRED"],
        ["8:28", "nodes[0].agent.promt", "UNKNOWN_FIELD"],
        ["10:21", "nodes[1].depends_on[1]", "DUPLICATE_EDGE"],
        ["10:24", "nodes[1].depends_on[2]", "UNKNOWN_NODE"],
        ["10:28", "nodes[1].depends_on[3]", "CYCLE"],
        ["12:10", "nodes[1].run", "NOT_ALLOWED_HERE"],
        ["17:20", "nodes[2].policy.tier", "UNKNOWN_VALUE"],
        ["17:38", "nodes[2].policy.sla_ms", "OUT_OF_RANGE"],
        ["17:51", "nodes[2].policy.timeout", "WRONG_TYPE"],
        ["17:65", "nodes[2].policy.heartbeat", "MALFORMED"],
        ["17:87", "nodes[2].policy.retries.factor", "OUT_OF_RANGE"],
        ["17:108", "nodes[2].policy.fallback_agent", "NOT_ALLOWED_HERE"],
        ["18:9", "nodes[3].id", "DUPLICATE_ID"],
        ["19:11", "nodes[3].wait", "REQUIRED"],
        ["20:5", "nodes[4]", "UNREACHABLE"],
        ["23:12", "nodes[4].input", "NOT_ALLOWED_HERE"],
        ["24:11", "nodes[4].when.cel", "UNREACHABLE"],
        ["25:5", "nodes[5]", "REQUIRED"],
        ["26:29", "nodes[5].policy.output_schema", "SCHEMA_INVALID"],
        ["27:5", "nodes[6]", "WRONG_TYPE"],
        ["29:10", "nodes[7].run.workflow", "WORKFLOW_NOT_FOUND"],
        ["30:22", "nodes[7].input.x.cel", "EXPRESSION_TYPE"],
        ["30:45", "nodes[7].input.y.cel", "EXPRESSION_TYPE"],
        ["30:76", "nodes[7].input.z.cel", "EXPRESSION_INVALID"],
        ["30:98", "nodes[7].input.w.jsonpath", "EXPRESSION_INVALID"],
        ["31:19", "output.x.cel", "UNKNOWN_NODE"],
    ]
    assert "a → b → c → a" in told[3]
    assert "did you mean `prompt`?" in told[5]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1  WRONG_TYPE must be a mapping of the fields of a workflow, is nothing"),
        ("- 1", "1:1  WRONG_TYPE must be a mapping of the fields of a workflow, is a list"),
        ("a: [1", "UNREADABLE is neither YAML nor JSON"),
        ("a: 1\n---\nb: 1", "3:1  UNREADABLE holds several documents|2:1  UNREADABLE holds several documents"),
        ("a: &x [1]\nb: *x", "1:4  UNREADABLE anchors"),
        ("a: !!python/object:os.system {}", "1:4 a UNREADABLE has the tag"),
        ("? [1]\n: 2", "1:3  UNREADABLE has a key that is no text"),
        ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("a: [" + "1," * 100_000 + "]", "more than 100000 values"),
        ("a: '" + "x" * 1_050_000 + "'", "at most 1048576 are taken"),
        ("name: x\nname: y", "2:1 name DUPLICATE_KEY comes twice"),
        ("name: x\nversion: 1.0.0\nnodes: 3", "3:8 nodes WRONG_TYPE must be a list of nodes, is a number"),
        ("name: x\nversion: 1.0.0\nnodes: []", "nodes REQUIRED is required"),
        ("version: 1.0.0\nnodes: [{id: a, step: go}]", "name REQUIRED is required"),
    ],
)
def test_what_is_no_workflow_at_all_is_told_so(text: str, told: str) -> None:
    first = faults_of(text)[0]
    assert any(one in first for one in told.split("|")), first


def test_laughs_are_few() -> None:
    laughs = "a: &a [x, x, x]\n" + "".join(
        f"{n}: &{n} [*{m}, *{m}, *{m}]\n" for m, n in zip("abcdef", "bcdefg", strict=True)
    )
    assert faults_of(laughs) == ["1:4  UNREADABLE anchors (`&name`) are not taken; remove it"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("step: go, id: b", "DUPLICATE_KEY"),
        ("agent: {agent: Reader, prompt: ''}", "prompt REQUIRED is empty"),
        ("agent: {agent: Reader, prompt: 3}", "prompt WRONG_TYPE must be a text or an expression, is a number"),
        ("agent: {agent: Reader, prompt: {cel: '1 + 2'}}", "EXPRESSION_TYPE must be a text, is of type integer"),
        ("agent: {agent: 'Reader@1', prompt: x}", "agent MALFORMED must be a name such as Athena"),
        ("agent: {agent: Reader, prompt: {cel: a, jsonpath: b}}", "must have exactly one of literal, cel or jsonpath"),
        ("step: go, input: {x: {a: 1}}", "put an object under literal"),
        ("step: go, input: {x: {cel: 3}}", "must be an expression as a text, is a number"),
        ("step: go, input: {x: 9007199254740993}", "more than 53 bits"),
        (f"step: go, input: {{x: '{'y' * 66_000}'}}", "TOO_LARGE has 66002 bytes as JSON; at most 65536"),
        ("step: go, when: true", "is always true"),
        ("step: go, when: 'false'", "is never true, so the node never starts"),
        ("step: go, when: '1 / 0 == 1'", "always fails: divides by zero"),
        ("step: go, when: '1 + 1'", "must be true or false, is of type integer"),
        ("step: go, when: {cel: 'true', jsonpath: $.input}", "must have exactly one of cel or jsonpath"),
        ("step: go, when: 'input.x.matches(input.y)'", "no literal"),
        ("step: go, when: nodes.a.state == 'failed'", "NOT_BEFORE names `a`, which does not come before it"),
        ("step: go, fan_in: any", "waits for any of no edges"),
        ("step: go, fan_in: some", "must be one of all, any, quorum, is `some`"),
        ("step: go, fan_in: {mode: quorum, quorum: 2}", "must be 1 to the number of edges, 0, is 2"),
        ("step: go, fan_in: {mode: all, quorum: 2}", "is for the mode quorum"),
        ("step: go, policy: {timeout: 25h}", "must be 100ms to 1d, is 25h"),
        ("step: go, policy: {timeout: 1.5.2s}", "must be a duration such as"),
        ("step: go, policy: {tier: gold}", "is for agents, and maps of them"),
        ("step: go, policy: {retries: {max_attempts: 21}}", "must be 1 to 20, is 21"),
        ("step: go, policy: {retries: {max_attempts: 1.5}}", "must be a whole number"),
        ("step: go, policy: {retries: {jitter: 1.5}}", "must be 0 to 1, is 1.5"),
        ("step: go, policy: {retries: {first_backoff: 5s, max_backoff: 1s}}", "must be at least first_backoff"),
        ("step: go, policy: {on_failure: fallback}", "needs a `fallback_agent`"),
        ("step: go, policy: {output_schema: {$ref: 'http://x/y'}}", "a reference must stay inside the schema"),
        ("step: go, policy: {output_schema: {$ref: '#'}}", "must not refer to itself"),
        ("wait: {timer: 1s, timeout: 1s}", "is for signals; a timer ends by itself"),
        ("wait: {timer: 0s}", "must be 1ms to 366d, is 0s"),
        ("wait: {signal: x}, policy: {retries: {}}", "retries NOT_ALLOWED_HERE is for work"),
        ("aggregate: sum", "reduces nothing"),
        ("aggregate: {items: {cel: '1'}, reducer: sum}", "must be a list, is of type integer"),
        ("aggregate: {items: 3, reducer: sum}", "must be a list or an expression, is a number"),
        ("aggregate: {items: [1], reducer: sum, cel: items}", "reduces either by a `reducer` or by `cel`"),
        ("map: {items: [1]}", "body REQUIRED is required"),
        ("map: {items: 3, body: {step: go}}", "must be a list or an expression, is a number"),
        ("map: {items: [1], body: {step: go}, max_items: 1000000}", "must be 1 to 10000, is 1000000"),
        ("map: {items: [1], body: {wait: {timer: 1s}}}", "is no body of a map; put it in a workflow of its own"),
        ("map: {items: [1], body: {map: {items: [1], body: {step: go}}}}", "is no body of a map"),
        ("map: {items: [1], body: {step: go, depends_on: [a]}}", "stands on the map, not on its body"),
        ("map: {items: {cel: input}, body: {step: go}}", "must be a list, is an object"),
        ("step: go, input: {x: {cel: item}}", "names `item`, which is neither a variable nor a function here"),
        ("id: in, step: go".replace("id: in, ", ""), ""),
    ],
)
def test_a_fault_of_a_node_is_told_in_a_sentence(fields: str, told: str) -> None:
    found = faults_of(one_node(fields))
    assert (not told and not found) or any(told in fault for fault in found), found


def test_a_word_of_cel_is_no_id() -> None:
    assert faults_of(graph(**{"in": ""})) == ["4:10 nodes[0].id MALFORMED `in` is a word of CEL; choose another id"]


def test_an_edge_sees_only_what_its_first_node_could_see() -> None:
    text = graph(a="", b="", c="a, {node: b, when: nodes.a.state == 'failed'}")
    assert "nodes[2].depends_on[1].when.cel NOT_BEFORE names `a`" in faults_of(text)[0]
    assert faults_of(graph(a="", b="a", c="{node: b, when: nodes.a.state == 'failed'}")) == []


def test_every_knot_is_told_with_its_cycle_and_what_waits_for_it() -> None:
    told = faults_of(graph(a="b", b="a", c="a, d", d="e", e="d", f="c"))
    assert [fault.partition(" ")[2] for fault in told] == [
        "nodes[0].depends_on CYCLE makes a cycle: a → b → a; take one of these edges away",
        "nodes[2] UNREACHABLE `c` can never start: it comes after the cycle a → b → a",
        "nodes[3].depends_on CYCLE makes a cycle: d → e → d; take one of these edges away",
        "nodes[5] UNREACHABLE `f` can never start: it comes after the cycle a → b → a",
    ]


def test_the_items_of_a_map_are_known_to_its_body() -> None:
    text = EVERYTHING.replace("item.text", "item.txt")
    assert "names `txt`, which its schema does not have" in faults_of(text)[0]


def test_the_output_of_a_node_is_known_to_those_after_it() -> None:
    assert "names `scroe`" in faults_of(EVERYTHING.replace("output.score", "output.scroe"))[0]
    assert "no matching overload" in faults_of(EVERYTHING.replace("output.score >= 0.5", "output.kind >= 0.5"))[0]


def test_a_sub_run_must_exist_fit_its_input_and_not_go_too_deep() -> None:
    draft = read_text(EVERYTHING, None)
    deep = KnownWorkflow(
        version="1.0.0",
        depth=8,
        input_schema={"type": "object", "required": ["who"], "properties": {}, "additionalProperties": False},
    )
    assert pin(draft, workflows={("notify", ""): deep}) is None
    assert [fault.reason for fault in draft.faults.found] == ["TOO_DEEP", *["INPUT_MISMATCH"] * 3]
    missing = read_text(EVERYTHING, None)
    assert pin(missing, workflows={}) is None
    assert [fault.reason for fault in missing.faults.found] == ["WORKFLOW_NOT_FOUND"]


def test_a_workflow_cannot_run_itself() -> None:
    for reference in ("one", "one@1.0.0"):
        draft = read_text(one_node(f"run: {reference}"), None)
        assert pin(draft, workflows={}) is None
        assert "a workflow cannot run itself" in draft.faults.found[0].sentence


def test_an_agent_that_does_not_exist_is_told_at_each_place() -> None:
    draft = read_text(EVERYTHING, None)
    assert draft.pinned({}, {}) is None
    told = [(fault.field, fault.reason) for fault in draft.faults.found]
    assert ("nodes[0].agent.agent", "AGENT_NOT_FOUND") in told
    assert ("nodes[0].policy.fallback_agent", "AGENT_NOT_FOUND") in told
    assert ("nodes[1].map.body.agent.agent", "AGENT_NOT_FOUND") in told


def _large(count: int, edges: int) -> str:
    return json.dumps(
        {
            "name": "large",
            "version": "1.0.0",
            "nodes": [
                {
                    "id": f"n{index}",
                    "step": "go",
                    "depends_on": [f"n{one}" for one in range(max(0, index - edges), index)],
                }
                for index in range(count)
            ],
        }
    )


def test_ten_thousand_nodes_are_refused_with_one_fault_and_the_most_allowed_are_taken() -> None:
    assert [fault.split(" ")[2] for fault in faults_of(_large(10_000, 1))] == ["TOO_MANY_NODES"]
    assert [fault.split(" ")[2] for fault in faults_of(_large(MAX_NODES, 6))] == ["TOO_MANY_EDGES"]
    assert MAX_EDGES == 10_000
    assert stored(_large(MAX_NODES, 5)).node_count == MAX_NODES


def test_a_great_circle_is_told_with_a_few_of_its_names() -> None:
    nodes = [
        {"id": f"n{index}", "step": "go", "depends_on": [f"n{(index + 1) % MAX_NODES}"]} for index in range(MAX_NODES)
    ]
    (told,) = faults_of(json.dumps({"name": "x", "version": "1.0.0", "nodes": nodes}))
    assert "CYCLE" in told
    assert len(told) < 300


def test_faults_are_counted_up_to_a_thousand() -> None:
    nodes = [{"id": f"n{index}", "step": "go", "wrong": index, "more": 1} for index in range(MAX_NODES)]
    draft = read_text(json.dumps({"name": "x", "version": "1.0.0", "nodes": nodes}), None)
    assert (len(draft.faults.found), draft.faults.more) == (1_000, True)


NAMES = st.sampled_from(
    "id name agent prompt step tool map items body run wait signal timer aggregate reducer cel jsonpath literal input "
    "depends_on node when fan_in mode quorum policy retries output_schema type nodes version output".split()
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "1s", "gold"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            NAMES | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(nodes=st.lists(JUNK, max_size=4), rest=JUNK)
def test_whatever_comes_is_told_what_is_wrong_and_never_breaks(nodes: list[object], rest: object) -> None:
    for document in (rest, {"name": "x", "version": "1.0.0", "nodes": nodes, "output": rest}):
        draft = read_document(document)  # type: ignore[arg-type]
        pinned = pin(draft)
        assert (pinned is None) == bool(draft.faults)


@given(junk=st.binary(max_size=300))
def test_whatever_message_comes_is_told_what_is_wrong(junk: bytes) -> None:
    message = workflow_pb2.Workflow()
    try:
        message.ParseFromString(junk)
    except Exception:  # noqa: BLE001 - no message at all
        return
    draft = read_document(document_from(message))
    assert (pin(draft) is None) == bool(draft.faults)


def test_numbers_that_json_lacks_are_told_in_a_message() -> None:
    message = workflow_pb2.Workflow(name="x", version="1.0.0")
    node = message.nodes.add(id="a")
    node.step.name = "go"
    node.input["x"].literal.number_value = float("nan")
    node.policy.timeout.nanos = 1
    node.policy.tier = 9  # type: ignore[assignment]
    told = [(fault.line, fault.field, fault.reason) for fault in read_document(document_from(message)).faults.found]
    assert sorted(told) == [
        (0, "nodes[0].input.x.literal", "OUT_OF_RANGE"),
        (0, "nodes[0].policy.tier", "UNKNOWN_VALUE"),
        (0, "nodes[0].policy.timeout", "MALFORMED"),
    ]


def test_a_random_graph_is_sound_exactly_when_it_has_an_order() -> None:
    dice = random.Random(7)
    for _ in range(60):
        count = dice.randint(2, 9)
        edges = {
            f"n{one}": {f"n{dice.randrange(count)}" for _ in range(dice.randint(0, 2))} - {f"n{one}"}
            for one in range(count)
        }
        left = dict(edges)
        while ready := [name for name, firsts in left.items() if not firsts & left.keys()]:
            for name in ready:
                del left[name]
        found = faults_of(graph(**{name: ", ".join(sorted(firsts)) for name, firsts in edges.items()}))
        told = {fault.split(" ")[2] for fault in found}
        assert told == ({"CYCLE"} if left else set()) or told == {"CYCLE", "UNREACHABLE"}
        assert bool(left) == bool(found)


def test_as_many_nodes_with_expressions_as_are_allowed_are_read() -> None:
    nodes = [
        {
            "id": f"n{index}",
            "step": "go",
            "depends_on": [f"n{index - 1}"],
            "input": {"x": {"cel": f"nodes.n{index - 1}.output.x"}},
        }
        if index
        else {"id": "n0", "step": "go"}
        for index in range(MAX_NODES)
    ]
    assert stored(json.dumps({"name": "x", "version": "1.0.0", "nodes": nodes})).node_count == MAX_NODES
