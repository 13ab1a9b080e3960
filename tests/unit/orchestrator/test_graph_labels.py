"""INV-10 in workflows: what a step gives is labelled not below anything that it read, or that decided about it."""

import pytest

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2
from comitia.orchestrator.v1 import journal_pb2, workflow_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.content import Confidentiality, Integrity, Label
from services.meshkit.content.proto import label_from_proto, label_to_proto
from services.orchestrator.programs.values import to_value
from tests.support.sessions import a_generation, an_agent
from tests.support.workflows import Entry, Fails, Mesh, a_node, a_run, a_workflow, cel, edge, literal

WEB = Label(integrity=Integrity.UNTRUSTED, confidentiality=Confidentiality.TENANT, sources=frozenset({"tool:web"}))
SECRET = Label(integrity=Integrity.TRUSTED, confidentiality=Confidentiality.RESTRICTED, sources=frozenset({"vault"}))
SEARCH = workflow_pb2.ToolNode(tool="search@1.0.0")


def found(label: Label, text: str = "go") -> tool_service_pb2.Invocation:
    part = content_pb2.Part(text=content_pb2.TextPart(text=text), label=label_to_proto(label))
    return tool_service_pb2.Invocation(parts=[part])


def result(label: Label) -> journal_pb2.StepResult:
    return journal_pb2.StepResult(output=to_value("x"), label=label_to_proto(label))


def choice_of(mesh: Mesh, path: str) -> Label:
    """Gives the label of what led to a tool's call."""
    [request] = [entry.call_intended.request for entry in mesh.made if entry.path == path]
    return label_from_proto(tool_service_pb2.InvokeToolRequest.FromString(request).choice_label)


def output_label(mesh: Mesh) -> Label:
    return label_from_proto(mesh.journal[-1].run_ended.output_label)


def send(after: str, **fields: object) -> workflow_pb2.Node:
    return a_node("send", after, tool=workflow_pb2.ToolNode(tool="send@1.0.0"), **fields)  # type: ignore[arg-type]


def test_a_tool_is_chosen_by_all_that_its_arguments_were_made_from() -> None:
    flow = a_workflow(a_node("web", tool=SEARCH), send("web", input={"text": cel("nodes.web.output")}))
    assert choice_of(Mesh(answers={"nodes/web": [found(WEB)]}).play(a_run(flow)), "nodes/send").covers(WEB)


def test_a_node_that_only_comes_after_another_has_read_nothing_of_it() -> None:
    flow = a_workflow(a_node("web", tool=SEARCH), send("web", input={"text": literal("hello")}))
    mesh = Mesh(answers={"nodes/web": [found(WEB)]}).play(a_run(flow))
    assert choice_of(mesh, "nodes/send").integrity is Integrity.TRUSTED


def test_what_a_condition_read_is_in_the_label_of_all_that_it_decides() -> None:
    flow = a_workflow(
        a_node("web", tool=SEARCH),
        a_node("between", edge("web", 'nodes.web.output == "go"')),
        send("between", input={"text": literal("hello")}),
    )
    mesh = Mesh(answers={"nodes/web": [found(WEB)]}).play(a_run(flow))
    assert choice_of(mesh, "nodes/send").covers(WEB)
    own = a_workflow(a_node("web", tool=SEARCH), send("web", when='nodes.web.output == "go"'))
    assert choice_of(Mesh(answers={"nodes/web": [found(WEB)]}).play(a_run(own)), "nodes/send").covers(WEB)


def test_what_users_gave_is_labelled_as_theirs_and_what_a_parent_gave_as_it_said() -> None:
    flow = a_workflow(a_node("send", tool=SEARCH, input={"text": cel("input.text")}))
    started = a_run(flow, given={"text": "hi"})
    assert choice_of(Mesh().play(started), "nodes/send").integrity is Integrity.USER
    started.input_label.CopyFrom(label_to_proto(WEB))
    assert choice_of(Mesh().play(started), "nodes/send").covers(WEB)


def test_a_worker_can_make_its_label_stricter_and_never_laxer() -> None:
    flow = a_workflow(
        a_node("web", tool=SEARCH),
        a_node("work", "web", input={"page": cel("nodes.web.output")}),
        send("work", input={"text": cel("nodes.work.output")}),
    )
    lax = Label(integrity=Integrity.TRUSTED, confidentiality=Confidentiality.PUBLIC)
    for claimed in (lax, SECRET):
        mesh = Mesh(answers={"nodes/web": [found(WEB)], "nodes/work": [result(claimed)]}).play(a_run(flow))
        chosen = choice_of(mesh, "nodes/send")
        assert chosen.covers(WEB)
        assert chosen.covers(claimed)


WORKED = Label(sources=frozenset({"worker:work"}))


def working(reads: workflow_pb2.StepReads.ValueType) -> workflow_pb2.StepNode:
    return workflow_pb2.StepNode(name="work", reads=reads)


@pytest.mark.parametrize("reads", [workflow_pb2.STEP_READS_UNSPECIFIED, workflow_pb2.STEP_READS_ANYTHING])
def test_what_a_worker_gives_is_untrusted_whatever_it_was_given(reads: workflow_pb2.StepReads.ValueType) -> None:
    flow = a_workflow(a_node("work", step=working(reads)), send("work", input={"text": cel("nodes.work.output")}))
    for answer in (journal_pb2.StepResult(output=to_value("x")), result(Label(integrity=Integrity.TRUSTED))):
        mesh = Mesh(answers={"nodes/work": [answer]}).play(a_run(flow))
        assert choice_of(mesh, "nodes/send").covers(WORKED)


def test_what_a_worker_gives_is_labelled_as_its_input_where_the_workflow_says_that_it_reads_nothing_else() -> None:
    work = a_node("work", step=working(workflow_pb2.STEP_READS_INPUT), input={"text": cel("input.text")})
    flow = a_workflow(work, send("work", input={"text": cel("nodes.work.output")}))
    answers = {"nodes/work": [journal_pb2.StepResult(output=to_value("x"))]}
    chosen = choice_of(Mesh(answers=answers).play(a_run(flow, given={"text": "hi"})), "nodes/send")
    assert chosen.integrity is Integrity.USER
    assert "worker:work" not in chosen.sources


CONTINUE = workflow_pb2.NodePolicy(on_failure=workflow_pb2.ON_FAILURE_CONTINUE)
FAILED = 'nodes.first.state == "failed"'


def chosen_by_failure(first: workflow_pb2.Node, answer: object) -> Label:
    """Gives the label of a call that is made because another node has failed."""
    last = a_node("send", edge("first", FAILED), tool=workflow_pb2.ToolNode(tool="send@1.0.0"))
    mesh = Mesh(answers={"nodes/first": [answer]})
    return choice_of(mesh.play(a_run(a_workflow(first, last))), "nodes/send")


def test_that_a_tool_failed_is_the_word_of_whoever_answered_it() -> None:
    refused = found(SECRET)
    refused.failed = True
    chosen = chosen_by_failure(a_node("first", tool=SEARCH, policy=CONTINUE), refused)
    assert chosen.covers(Label(sources=frozenset({"tool:search"})))
    assert chosen.covers(SECRET)
    unanswered = chosen_by_failure(a_node("first", tool=SEARCH, policy=CONTINUE), Fails("TOOL_UNREACHABLE", final=True))
    assert unanswered.covers(Label(sources=frozenset({"tool:search"})))


def test_that_a_worker_or_a_sub_run_failed_is_its_own_word() -> None:
    lost = Fails("WORKER_LOST", final=True)
    work = a_node("first", step=working(workflow_pb2.STEP_READS_ANYTHING), policy=CONTINUE)
    assert chosen_by_failure(work, lost).covers(WORKED)
    vouched = a_node("first", step=working(workflow_pb2.STEP_READS_INPUT), policy=CONTINUE)
    assert chosen_by_failure(vouched, lost).integrity is Integrity.TRUSTED
    sub = a_node("first", run=workflow_pb2.RunNode(workflow="child@1.0.0"), policy=CONTINUE)
    assert chosen_by_failure(sub, lost).covers(Label(sources=frozenset({"run:child"})))


def test_that_an_expression_failed_is_the_word_of_what_it_read() -> None:
    broken = a_node("first", step=working(workflow_pb2.STEP_READS_ANYTHING), policy=CONTINUE)
    broken.input["x"].CopyFrom(cel("input.nothing"))
    last = a_node("send", edge("first", FAILED), tool=workflow_pb2.ToolNode(tool="send@1.0.0"))
    mesh = Mesh().play(a_run(a_workflow(broken, last), given={"text": "hi"}))
    assert choice_of(mesh, "nodes/send").integrity is Integrity.USER


def test_the_items_that_a_list_does_without_are_in_its_label() -> None:
    body = workflow_pb2.Node(tool=SEARCH)
    mapped = workflow_pb2.MapNode(items=literal(["a", "b"]), body=body, on_item_failure=workflow_pb2.ITEM_FAILURE_OMIT)
    flow = a_workflow(a_node("m", map=mapped), send("m", input={"text": cel("nodes.m.output")}))
    answers = {
        "nodes/m/0": [Fails("TOOL_UNREACHABLE", final=True)],
        "nodes/m/1": [found(Label(integrity=Integrity.USER))],
    }
    chosen = choice_of(Mesh(answers=answers).play(a_run(flow)), "nodes/send")
    assert chosen.covers(Label(sources=frozenset({"tool:search"})))


def test_an_agent_is_shown_its_data_under_the_label_of_all_that_it_holds() -> None:
    agent = workflow_pb2.AgentNode(agent="Athena@1.0.0", prompt=literal("Sum this up."))
    flow = a_workflow(
        a_node("web", tool=SEARCH),
        a_node("say", "web", agent=agent, input={"page": cel("nodes.web.output")}),
        send("say", input={"text": cel("nodes.say.output")}),
    )
    mesh = Mesh(answers={"nodes/web": [found(WEB)]})
    mesh.turns.generations["nodes/say"] = [a_generation("a sum")]
    mesh.play(a_run(flow, agents=[an_agent("Athena")]))
    [asked] = [
        inference_service_pb2.StreamGenerateRequest.FromString(entry.call_intended.request)
        for entry in mesh.made
        if entry.call_intended.kind == journal_pb2.CALL_KIND_GENERATE
    ]
    assert label_from_proto(asked.messages[-1].parts[0].label).covers(WEB)
    assert choice_of(mesh, "nodes/send").covers(WEB), "whatever label the model's answer came with"


def test_one_item_taints_the_list_that_a_map_gives_and_every_item_has_read_the_list() -> None:
    body = workflow_pb2.Node(tool=SEARCH, input={"q": cel("item")})
    flow = a_workflow(
        a_node("list"),
        a_node("m", "list", map=workflow_pb2.MapNode(items=cel("nodes.list.output"), body=body)),
        send("m", input={"text": cel("nodes.m.output")}),
    )
    listed = journal_pb2.StepResult(output=to_value(["a", "b"]), label=label_to_proto(SECRET))
    plain = Label(integrity=Integrity.USER)
    answers = {"nodes/list": [listed], "nodes/m/0": [found(plain)], "nodes/m/1": [found(WEB)]}
    mesh = Mesh(answers=answers).play(a_run(flow))
    assert choice_of(mesh, "nodes/m/0").covers(SECRET)
    assert choice_of(mesh, "nodes/send").covers(WEB)


def test_a_sub_run_is_told_the_label_of_its_input_and_the_run_the_label_of_its_output() -> None:
    sub = a_node(
        "sub", "web", run=workflow_pb2.RunNode(workflow="child@1.0.0"), input={"page": cel("nodes.web.output")}
    )
    answers = {"nodes/web": [found(WEB)], "nodes/sub": [result(SECRET)]}
    mesh = Mesh(answers=answers).play(a_run(a_workflow(a_node("web", tool=SEARCH), sub)))
    [task] = [entry.call_intended.request for entry in mesh.made if entry.path == "nodes/sub"]
    assert label_from_proto(journal_pb2.SubRunTask.FromString(task).input_label).covers(WEB)
    assert output_label(mesh).covers(WEB)
    assert output_label(mesh).covers(SECRET)


def test_an_aggregate_carries_the_labels_of_all_that_it_reduces() -> None:
    reduce = workflow_pb2.AggregateNode(reducer=workflow_pb2.REDUCER_COUNT)
    flow = a_workflow(a_node("a", tool=SEARCH), a_node("b", tool=SEARCH), a_node("r", "a", "b", aggregate=reduce))
    mesh = Mesh(answers={"nodes/a": [found(WEB)], "nodes/b": [found(SECRET)]}).play(a_run(flow))
    assert output_label(mesh).covers(WEB)
    assert output_label(mesh).covers(SECRET)


def test_a_signal_is_labelled_as_its_senders() -> None:
    wait = workflow_pb2.WaitNode(signal="go")
    mesh = Mesh().play(a_run(a_workflow(a_node("w", wait=wait), send("w", input={"text": cel("nodes.w.output")}))))
    mesh.record(Entry(signal_received=journal_pb2.SignalReceived(name="go", payload=to_value("hi"))))
    assert choice_of(mesh, "nodes/send").integrity is Integrity.USER
