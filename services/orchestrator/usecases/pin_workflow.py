"""Pins what a run of a workflow is made of: the version, its agents and tools, and the prompt files."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from comitia.orchestrator.v1 import agent_pb2, workflow_pb2
from services.meshkit.core.identity import Caller, TenantId
from services.orchestrator.domain.agent import split_reference
from services.orchestrator.domain.workflow import StoredWorkflow
from services.orchestrator.usecases.ports import AgentFacts, AgentStore, ToolVersions, WorkflowStore


class WorkflowFacts(Protocol):
    """Writes workflows as the facts that a run pins."""

    def __call__(self, stored: StoredWorkflow) -> workflow_pb2.Workflow:
        """Converts one version."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedWorkflow:
    """A workflow with everything that its runs need and that may have later versions."""

    #: Every reference with its version.
    workflow: workflow_pb2.Workflow
    #: The agents of its nodes, by name and version.
    agents: tuple[agent_pb2.Agent, ...]
    #: The prompt files' text by file name.
    prompts: Mapping[str, str]

    @property
    def deadline(self) -> timedelta | None:
        """Longest life of its runs; None for the default."""
        return self.workflow.deadline.ToTimedelta() if self.workflow.HasField("deadline") else None


class PinWorkflow:
    """Looks everything up that a run pins."""

    def __init__(
        self,
        *,
        workflows: WorkflowStore,
        workflow_facts: WorkflowFacts,
        agents: AgentStore,
        agent_facts: AgentFacts,
        tools: ToolVersions,
        prompts: Mapping[str, str],
    ) -> None:
        self._workflows = workflows
        self._workflow_facts = workflow_facts
        self._agents = agents
        self._agent_facts = agent_facts
        self._tools = tools
        self._prompts = prompts

    async def __call__(self, caller: Caller, reference: str) -> PinnedWorkflow:
        """Pins a workflow.

        Args:
            reference: `name`, its highest version, or `name@version`.
        Raises: Invalid, WorkflowNotFound, and what tools refuses: a tool of a `tool` node that is not there any more.
        """
        name, version = split_reference(reference, field="workflow")
        tenant = caller.principal.tenant
        workflow = self._workflow_facts(await self._workflows.find(tenant, name, version))
        await self._pin_tools(caller, workflow)
        return PinnedWorkflow(workflow=workflow, agents=await self._agents_of(tenant, workflow), prompts=self._prompts)

    async def _agents_of(self, tenant: TenantId, workflow: workflow_pb2.Workflow) -> tuple[agent_pb2.Agent, ...]:
        references = sorted({name for node in _nodes_of(workflow) for name in _agents_of_node(node)})
        found = await self._agents.resolve(
            tenant, [split_reference(reference, field="workflow") for reference in references]
        )
        return tuple(map(self._agent_facts, found))

    async def _pin_tools(self, caller: Caller, workflow: workflow_pb2.Workflow) -> None:
        """Names the version of tools that the workflow names without one."""
        floating = [node for node in _nodes_of(workflow) if node.tool.tool and "@" not in node.tool.tool]
        if not floating:
            return
        names = sorted({node.tool.tool for node in floating})
        versions = {name: await self._tools.latest(caller, name) for name in names}
        for node in floating:
            node.tool.tool = versions[node.tool.tool]
        # The digest names a definition with its references: programs keep what they compiled by it.
        pins = "".join(f"\0{pinned}" for pinned in versions.values())
        workflow.digest = hashlib.sha256(f"{workflow.digest}{pins}".encode()).hexdigest()


def _nodes_of(workflow: workflow_pb2.Workflow) -> Iterator[workflow_pb2.Node]:
    """Gives all nodes, with the bodies of maps."""
    for node in workflow.nodes:
        yield node
        if node.WhichOneof("kind") == "map":
            yield node.map.body


def _agents_of_node(node: workflow_pb2.Node) -> Iterator[str]:
    if node.WhichOneof("kind") == "agent":
        yield node.agent.agent
    if node.policy.fallback_agent:
        yield node.policy.fallback_agent
