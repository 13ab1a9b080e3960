"""What a project's runs remember is found by runs of that project, and by people who have a relation to it."""

from collections.abc import AsyncIterator

import pytest

from comitia.memory.v1 import memory_service_pb2 as pb
from services.meshkit.core.identity import Role
from services.meshkit.guard import access_gate
from tests.integration.memory.conftest import MemoryMesh, StartMemory, a_context, a_session
from tests.support.memory_access_gate import MemoryAccessGate

PROJECTS = ("claims", "payroll", "")
REFUSED = "denied/RELATION_MISSING"


class Gate(MemoryAccessGate):
    """Stands in for the one that asks the gateway."""

    def show(self, service: str) -> None:
        """See `GatewayAccessGate.show`."""


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(access_gate, "GatewayAccessGate", lambda *_, **__: made)
    return made


@pytest.fixture
async def mesh(gate: Gate, start_memory: StartMemory) -> AsyncIterator[MemoryMesh]:
    async with start_memory() as running:
        yield running


async def remembered(mesh: MemoryMesh, session: str = "") -> dict[str, pb.Memory]:
    """Has a run of each project, and one of none, remember the same of one agent."""
    runs = mesh.speaking_as(peer="orchestrator")
    return {
        project: await runs.remember("Cars are banned.", session_id=session, context=a_context(project=project))
        for project in PROJECTS
    }


async def test_runs_find_by_similarity_what_runs_of_their_project_said(mesh: MemoryMesh) -> None:
    made = await remembered(mesh)
    await mesh.embedded(*made.values())
    runs = mesh.speaking_as(peer="orchestrator")
    for project, memory in made.items():
        answer = await runs.recall("Cars are banned.", semantic_matches=1, context=a_context(project=project))
        assert [match.memory.memory_id for match in answer.semantic] == [memory.memory_id]
        assert answer.semantic[0].memory.project == project


async def test_nobody_slips_turns_into_the_session_of_another_projects_run(mesh: MemoryMesh) -> None:
    session = a_session()
    made = await remembered(mesh, session)
    for project, memory in made.items():
        answer = await mesh.recall(session_id=session, recent_turns=9, context=a_context(project=project))
        assert [turn.memory_id for turn in answer.recent] == [memory.memory_id]


async def test_people_need_a_relation_to_the_project_whose_memories_they_ask_for(mesh: MemoryMesh, gate: Gate) -> None:
    made = await remembered(mesh)
    gate.grant("key_test", "viewer", "project:claims")
    user = mesh.speaking_as(Role.TENANT_USER)
    for project, memory in made.items():
        expected = project == "payroll"
        recall = pb.RecallRequest(context=a_context(project=project))
        asked = [("Recall", recall), ("GetMemory", pb.GetMemoryRequest(memory_id=memory.memory_id))]
        for method, request in asked:
            if expected:
                assert await user.refused(method, request) == REFUSED
            else:
                await user.call(method, request)
    assert {memory.project for memory in (await user.page()).memories} == {"claims", ""}
    assert {memory.project for memory in (await mesh.page()).memories} == set(PROJECTS)


async def test_people_change_the_memories_of_a_project_as_its_editors_alone(mesh: MemoryMesh, gate: Gate) -> None:
    made = await remembered(mesh)
    gate.grant("key_test", "viewer", "project:payroll")
    gate.grant("key_test", "editor", "project:claims")
    user = mesh.speaking_as(Role.TENANT_USER)
    remember = pb.RememberRequest(
        context=a_context(project="payroll"), parts=made["payroll"].parts, agent_name="Athena"
    )
    assert await user.refused("Remember", remember) == REFUSED
    for _ in range(2):
        forget = pb.ForgetMemoryRequest(memory_id=made["payroll"].memory_id)
        assert await user.refused("ForgetMemory", forget) == REFUSED
        await user.forget(made["claims"].memory_id)
    assert (await user.remember("Claims.", context=a_context(project="claims"))).project == "claims"


async def test_the_same_call_for_another_project_is_another_call(mesh: MemoryMesh) -> None:
    context = a_context(project="claims")
    await mesh.remember("Claims.", context=context)
    context.project = "payroll"
    request = pb.RememberRequest(context=context, parts=(await mesh.page()).memories[0].parts, agent_name="Athena")
    assert await mesh.refused("Remember", request) == "conflict/CALL_ARGUMENTS_DIFFER"
