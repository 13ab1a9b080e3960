"""Workflows on real Postgres: versions that never change, references that are pinned, and quotas."""

import asyncio
import json
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc.aio
import pytest

from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2, workflow_pb2
from comitia.orchestrator.v1 import workflow_service_pb2 as pb
from services.meshkit.core.errors import MeshError
from services.meshkit.core.tenant import Quotas
from services.meshkit.grpc.errors import remote_errors
from tests.integration.orchestrator.conftest import OTHER_TENANT, House, Replica
from tests.support.definitions import EVERYTHING

NOTIFY = """
name: notify
version: 1.0.0
input_schema: {type: object, properties: {about: {type: string}, texts: {type: array}}, required: [about]}
nodes:
  - {id: tell, agent: {agent: Ada, prompt: Tell everyone.}, input: {about: {cel: input.about}}}
"""


async def agent(replica: Replica, name: str, version: str = "1.0.0") -> None:
    request = agent_service_pb2.CreateAgentRequest(agent=agent_pb2.Agent(name=name, version=version))
    await replica.agents.CreateAgent(request, metadata=replica.as_tenant())


async def create(replica: Replica, text: str) -> workflow_pb2.Workflow:
    request = pb.CreateWorkflowRequest(source=pb.WorkflowSource(text=text))
    with remote_errors():
        return (await replica.workflows.CreateWorkflow(request, metadata=replica.as_tenant())).workflow


async def refused(replica: Replica, text: str) -> MeshError:
    with pytest.raises(MeshError) as refusal:
        await create(replica, text)
    return refusal.value


async def reader(replica: Replica) -> None:
    for name, version in (("Ada", "1.0.0"), ("Reader", "1.0.0"), ("Backup", "1.0.0"), ("Lawyer", "2.1.0")):
        await agent(replica, name, version)


async def test_a_definition_is_pinned_stored_and_found_as_it_is(replica: Replica) -> None:
    await reader(replica)
    await agent(replica, "Reader", "1.10.0")
    notify = await create(replica, NOTIFY)
    made = await create(replica, EVERYTHING)
    assert (notify.depth, made.depth, made.node_count) == (1, 2, 8)
    assert made.nodes[0].agent.agent == "Reader@1.10.0"
    assert made.nodes[-1].run.workflow == "notify@1.0.0"
    assert made.nodes[0].policy.retries.jitter == 0
    assert made.nodes[0].policy.retries.HasField("jitter")
    request = pb.GetWorkflowRequest(name="contract-review")
    found = (await replica.workflows.GetWorkflow(request, metadata=replica.as_tenant())).workflow
    assert found == made
    # As a message it is the same version.
    again = pb.CreateWorkflowRequest(workflow=found)
    assert (await replica.workflows.CreateWorkflow(again, metadata=replica.as_tenant())).workflow == made


async def test_what_a_workflow_says_of_its_making_is_ignored(replica: Replica) -> None:
    workflow = workflow_pb2.Workflow(name="x", version="1.0.0", digest="00", depth=7, node_count=7)
    workflow.create_time.seconds = 1
    workflow.nodes.add(id="a").step.name = "go"
    request = pb.CreateWorkflowRequest(workflow=workflow)
    made = (await replica.workflows.CreateWorkflow(request, metadata=replica.as_tenant())).workflow
    assert (made.depth, made.node_count, len(made.digest)) == (1, 1, 64)
    assert made.create_time.seconds > 1


async def test_the_same_file_is_the_same_version_whatever_agents_came_since(replica: Replica) -> None:
    await agent(replica, "Ada")
    first = await create(replica, NOTIFY)
    await agent(replica, "Ada", "2.0.0")
    assert await create(replica, NOTIFY) == first
    other = await refused(replica, NOTIFY.replace("Tell everyone", "Tell nobody"))
    assert (other.reason, other.metadata["resource_name"]) == ("WORKFLOW_VERSION_EXISTS", "notify@1.0.0")
    newer = await create(replica, NOTIFY.replace("version: 1.0.0", "version: 1.0.1"))
    assert newer.nodes[0].agent.agent == "Ada@2.0.0"


async def test_the_highest_version_is_found_and_lists_are_in_order(replica: Replica) -> None:
    await agent(replica, "Ada")
    versions = ["1.9.0", "1.10.0", "1.2.0"]
    for version in versions:
        await create(replica, NOTIFY.replace("version: 1.0.0", f"version: {version}"))
    await create(
        replica, NOTIFY.replace("notify", "another").replace("nodes:", "description: Another.\ndeadline: 1h\nnodes:")
    )
    found = await replica.workflows.GetWorkflow(pb.GetWorkflowRequest(name="notify"), metadata=replica.as_tenant())
    assert found.workflow.version == "1.10.0"
    listed: list[str] = []
    request = pb.ListWorkflowsRequest(page_size=3)
    while True:
        page = await replica.workflows.ListWorkflows(request, metadata=replica.as_tenant())
        listed += [f"{one.name}@{one.version}" for one in page.workflows]
        assert not any(one.nodes or one.HasField("input_schema") or one.output for one in page.workflows)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == ["another@1.0.0", "notify@1.2.0", "notify@1.9.0", "notify@1.10.0"]
    named = pb.ListWorkflowsRequest(name="another")
    (another,) = (await replica.workflows.ListWorkflows(named, metadata=replica.as_tenant())).workflows
    assert (another.description, another.deadline.seconds, another.node_count, another.depth) == (
        "Another.",
        3600,
        1,
        1,
    )


async def test_a_definition_with_faults_names_them_and_validation_all_of_them(replica: Replica) -> None:
    text = (
        NOTIFY.replace("input.about", "input.abuot")
        .replace("agent: Ada", "agent: Bob")
        .replace("nodes:", "color: 1\nnodes:")
    )
    refusal = await refused(replica, text)
    assert (refusal.reason, refusal.field, refusal.metadata["faults"]) == ("WORKFLOW_INVALID", "source", "3")
    assert refusal.metadata["fault_1"].startswith("5:1 color UNKNOWN_FIELD")
    request = pb.ValidateWorkflowRequest(source=pb.WorkflowSource(text=text))
    answer = await replica.workflows.ValidateWorkflow(request, metadata=replica.as_tenant())
    assert [(one.line, one.column, one.field, one.reason) for one in answer.faults] == [
        (5, 1, "color", "UNKNOWN_FIELD"),
        (7, 31, "nodes[0].agent.agent", "AGENT_NOT_FOUND"),
        (7, 82, "nodes[0].input.about.cel", "EXPRESSION_TYPE"),
    ]
    assert not answer.HasField("workflow")


async def test_validation_shows_what_would_be_stored_and_stores_nothing(replica: Replica) -> None:
    await agent(replica, "Ada")
    request = pb.ValidateWorkflowRequest(source=pb.WorkflowSource(text=NOTIFY))
    answer = await replica.workflows.ValidateWorkflow(request, metadata=replica.as_tenant())
    assert (list(answer.faults), answer.workflow.nodes[0].agent.agent) == ([], "Ada@1.0.0")
    listed = await replica.workflows.ListWorkflows(pb.ListWorkflowsRequest(), metadata=replica.as_tenant())
    assert list(listed.workflows) == []
    assert answer.workflow.digest == (await create(replica, NOTIFY)).digest


async def test_a_message_without_a_definition_is_refused(replica: Replica) -> None:
    for request in (pb.CreateWorkflowRequest(), pb.CreateWorkflowRequest(source=pb.WorkflowSource(text=" "))):
        with pytest.raises(MeshError, match="is required"), remote_errors():
            await replica.workflows.CreateWorkflow(request, metadata=replica.as_tenant())
    message = pb.CreateWorkflowRequest(workflow=workflow_pb2.Workflow(name="x", version="1.0.0"))
    with pytest.raises(MeshError, match="nodes REQUIRED") as refusal, remote_errors():
        await replica.workflows.CreateWorkflow(message, metadata=replica.as_tenant())
    assert refusal.value.field == "workflow.nodes"


async def test_a_workflow_of_another_tenant_does_not_exist(replica: Replica) -> None:
    await agent(replica, "Ada")
    await create(replica, NOTIFY)
    theirs = replica.as_tenant(OTHER_TENANT)
    with pytest.raises(MeshError) as refusal, remote_errors():
        await replica.workflows.GetWorkflow(pb.GetWorkflowRequest(name="notify@1.0.0"), metadata=theirs)
    assert refusal.value.reason == "WORKFLOW_NOT_FOUND"
    runs_it = pb.ValidateWorkflowRequest(
        source=pb.WorkflowSource(text="name: x\nversion: 1.0.0\nnodes: [{id: a, run: notify, input: {about: x}}]")
    )
    answer = await replica.workflows.ValidateWorkflow(runs_it, metadata=theirs)
    assert [one.reason for one in answer.faults] == ["WORKFLOW_NOT_FOUND"]


async def test_runs_of_runs_are_bounded_in_depth(replica: Replica) -> None:
    await agent(replica, "Ada")
    await create(replica, NOTIFY.replace("notify", "level1"))
    for level in range(2, 9):
        text = f"name: level{level}\nversion: 1.0.0\nnodes: [{{id: a, run: level{level - 1}, input: {{about: x}}}}]"
        assert (await create(replica, text)).depth == level
    refusal = await refused(replica, "name: level9\nversion: 1.0.0\nnodes: [{id: a, run: level8, input: {about: x}}]")
    assert "TOO_DEEP" in refusal.message


async def test_a_repeat_gets_the_first_answer(replica: Replica) -> None:
    await agent(replica, "Ada")
    request = pb.CreateWorkflowRequest(source=pb.WorkflowSource(text=NOTIFY), request_id=str(uuid4()))
    first = await replica.workflows.CreateWorkflow(request, metadata=replica.as_tenant())
    assert await replica.workflows.CreateWorkflow(request, metadata=replica.as_tenant()) == first
    request.source.text += "\n# another"
    with pytest.raises(MeshError) as refusal, remote_errors():
        await replica.workflows.CreateWorkflow(request, metadata=replica.as_tenant())
    assert refusal.value.reason == "REQUEST_ID_REUSED"


async def test_two_replicas_make_no_more_workflows_than_the_tenant_may_have(house: House) -> None:
    house.tenants.set(OTHER_TENANT, quotas=Quotas(max_workflows=3))

    async def outcome(replica: Replica, number: int) -> str:
        text = f"name: w{number}\nversion: 1.0.0\nnodes: [{{id: a, step: go}}]"
        request = pb.CreateWorkflowRequest(source=pb.WorkflowSource(text=text))
        try:
            with remote_errors():
                await replica.workflows.CreateWorkflow(request, metadata=replica.as_tenant(OTHER_TENANT))
        except MeshError as refusal:
            return f"{refusal.reason} {refusal.metadata.get('quota')}"
        return "done"

    async with AsyncExitStack() as stack:
        one, two = await house.replica(stack, name="one"), await house.replica(stack, name="two")
        calls = (outcome(replica, number) for number, replica in enumerate((one, two) * 6))
        assert sorted(await asyncio.gather(*calls)) == sorted(["done"] * 3 + ["QUOTA_EXCEEDED max_workflows"] * 9)
        listed = await two.workflows.ListWorkflows(pb.ListWorkflowsRequest(), metadata=two.as_tenant(OTHER_TENANT))
        assert len(listed.workflows) == 3


async def test_the_largest_workflow_is_stored_and_read_back(replica: Replica) -> None:
    nodes = [
        {"id": f"n{index}", "step": "go", "depends_on": [f"n{one}" for one in range(max(0, index - 5), index)]}
        for index in range(2_000)
    ]
    made = await create(replica, json.dumps({"name": "large", "version": "1.0.0", "nodes": nodes}))
    request = pb.GetWorkflowRequest(name="large")
    found = await replica.workflows.GetWorkflow(request, metadata=replica.as_tenant())
    assert (found.workflow == made, len(found.workflow.nodes)) == (True, 2_000)


async def test_a_long_text_is_refused_before_it_is_read(replica: Replica) -> None:
    with pytest.raises((MeshError, grpc.aio.AioRpcError), match=r"at most 1048576 are taken"):
        await create(replica, "a: " + "x" * 1_100_000)
