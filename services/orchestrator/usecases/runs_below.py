"""Looks up the workflows that a run may start, for its shape to be read."""

from collections.abc import Iterator
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, workflow_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.agent import split_reference
from services.orchestrator.domain.errors import AgentNotFound, WorkflowNotFound
from services.orchestrator.usecases.pin_workflow import WorkflowFacts
from services.orchestrator.usecases.ports import AgentFacts, AgentStore, WorkflowStore

#: Workflows below one run that are looked at; further ones are counted as nothing, which calibration makes up for.
_MOST_WORKFLOWS: Final = 50


class RunsBelow:
    """Gives their first facts as far as their workflows decide them."""

    def __init__(
        self, *, workflows: WorkflowStore, workflow_facts: WorkflowFacts, agents: AgentStore, agent_facts: AgentFacts
    ) -> None:
        self._workflows = workflows
        self._workflow_facts = workflow_facts
        self._agents = agents
        self._agent_facts = agent_facts

    async def of(self, tenant: TenantId, started: journal_pb2.RunStarted) -> dict[str, journal_pb2.RunStarted]:
        """Gives them by `name@version`."""
        found: dict[str, journal_pb2.RunStarted] = {}
        waiting = list(_started_by(started.workflow))
        while waiting and len(found) < _MOST_WORKFLOWS:
            reference = waiting.pop(0)
            if reference in found:
                continue
            try:
                found[reference] = await self.first_fact(tenant, reference)
            except (WorkflowNotFound, AgentNotFound):
                continue  # the run will say so
            waiting += _started_by(found[reference].workflow)
        return found

    async def first_fact(self, tenant: TenantId, reference: str) -> journal_pb2.RunStarted:
        """Gives what a workflow decides of the first fact of its runs.

        Raises: Invalid, WorkflowNotFound, AgentNotFound.
        """
        name, version = split_reference(reference, field="workflow")
        workflow = self._workflow_facts(await self._workflows.find(tenant, name, version))
        spoken = sorted({node.agent.agent for node in _nodes_of(workflow) if node.agent.agent})
        agents = await self._agents.resolve(tenant, [split_reference(one, field="workflow") for one in spoken])
        return journal_pb2.RunStarted(workflow=workflow, agents=map(self._agent_facts, agents))


def _started_by(workflow: workflow_pb2.Workflow) -> Iterator[str]:
    for node in _nodes_of(workflow):
        if node.run.workflow:
            yield node.run.workflow


def _nodes_of(workflow: workflow_pb2.Workflow) -> Iterator[workflow_pb2.Node]:
    for node in workflow.nodes:
        yield node
        if node.WhichOneof("kind") == "map":
            yield node.map.body
