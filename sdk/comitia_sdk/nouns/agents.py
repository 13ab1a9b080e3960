"""Agents: immutable versions of a persona, its model and its limits."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from comitia_sdk.connection import Connection

#: Longest wait for a turn, seconds.
ASK_TIMEOUT: Final = 600.0


class AsyncAgents:
    """Immutable versions of agents."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = agent_service_pb2_grpc.AgentServiceStub(connection.channel)

    async def create(
        self,
        name: str,
        version: str = "1.0.0",
        *,
        instructions: str = "",
        description: str = "",
        model: str = "",
        max_output_tokens: int = 0,
        temperature: float | None = None,
        tools: Sequence[str] = (),
        max_tool_calls: int = 0,
        plans: bool = False,
        recent_turns: int = 0,
        semantic_matches: int = 0,
        memory_required: bool = False,
        style: Mapping[str, float] | None = None,
    ) -> agent_pb2.Agent:
        """Makes a version of an agent; the same definition again changes nothing.

        Args:
            plans: has the model write a plan first; what tools answer is filled in outside of it, by reference.
        Raises: AlreadyExists.
        """
        agent = agent_pb2.Agent(
            name=name,
            version=version,
            instructions=instructions,
            description=description,
            model=model,
            max_output_tokens=max_output_tokens,
            temperature=temperature,
            tools=tools,
            max_tool_calls=max_tool_calls,
            planning=agent_pb2.AGENT_PLANNING_PLANNED if plans else agent_pb2.AGENT_PLANNING_UNSPECIFIED,
            memory=agent_pb2.MemoryPolicy(
                recent_turns=recent_turns, semantic_matches=semantic_matches, required=memory_required
            ),
            style=style or {},
        )
        return await self.apply(agent)

    async def apply(self, agent: agent_pb2.Agent) -> agent_pb2.Agent:
        """Makes a version from a whole definition. Raises: AlreadyExists."""
        request = agent_service_pb2.CreateAgentRequest(agent=agent)
        return (await self._connection.call(self._stub.CreateAgent, request)).agent

    async def get(self, name: str, version: str = "") -> agent_pb2.Agent:
        """Fetches a version, the highest when none is named. Raises: NotFound."""
        request = agent_service_pb2.GetAgentRequest(name=name, version=version)
        return (await self._connection.call(self._stub.GetAgent, request)).agent

    async def ask(
        self,
        name: str,
        prompt: str,
        *,
        max_cost_nano_usd: int = 0,
        metadata: Mapping[str, str] | None = None,
        model: str = "",
        request_id: str = "",
        timeout: float = ASK_TIMEOUT,
    ) -> agent_service_pb2.InferAgentResponse:
        """Asks one agent and waits for its turn; without `turn`, `session.state_reason` says what went wrong.

        Args:
            name: `name` (its highest version) or `name@version`.
            max_cost_nano_usd: hard limit; 0 means 1 USD.
            model: asked in place of the agent's own.
            request_id: UUID under which the same question gets the same answer; a new one when empty.
            timeout: seconds to wait. The turn is made all the same: ask again with the same `request_id`.
        Raises: InvalidRequest, NotFound, LimitReached.
        """
        request = agent_service_pb2.InferAgentRequest(
            name=name,
            prompt=prompt,
            max_cost_nano_usd=max_cost_nano_usd,
            metadata=metadata or {},
            model=model,
            request_id=request_id,
        )
        return await self._connection.call(self._stub.InferAgent, request, timeout=timeout)

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[agent_pb2.Agent]:
        """Gives all versions, by name, then version."""
        request = agent_service_pb2.ListAgentsRequest(page_size=page_size)
        async for page in self._connection.pages(self._stub.ListAgents, request):
            for agent in page.agents:
                yield agent
