"""gRPC face of agents."""

from collections.abc import Sequence
from typing import Protocol

from grpc.aio import ServicerContext

from comitia.orchestrator.v1 import agent_service_pb2 as pb
from comitia.orchestrator.v1 import agent_service_pb2_grpc
from services.meshkit.core.identity import TenantId
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of, current_call
from services.meshkit.grpc.once import once
from services.orchestrator.domain.agent import Agent, named_version
from services.orchestrator.transport import convert
from services.orchestrator.usecases.ask_agent import AskAgent
from services.orchestrator.usecases.create_agent import CreateAgent


class AgentReader(Protocol):
    """Reads agents of a tenant."""

    async def find(self, tenant: TenantId, name: str, version: str) -> Agent:
        """Gives a version, the highest when `version` is empty. Raises: AgentNotFound."""
        ...

    async def page(self, tenant: TenantId, *, after: tuple[str, str] | None, most: int) -> Sequence[Agent]:
        """Gives agents by name, then version, those after the pair (name, version)."""
        ...


def _created(agent: Agent) -> pb.CreateAgentResponse:
    return pb.CreateAgentResponse(agent=convert.agent_to_proto(agent))


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """Converts, calls one use case or the repository, converts back."""

    def __init__(self, *, create_agent: CreateAgent, ask_agent: AskAgent, agents: AgentReader) -> None:
        self._create_agent = create_agent
        self._ask_agent = ask_agent
        self._agents = agents

    async def CreateAgent(
        self, request: pb.CreateAgentRequest, context: ServicerContext[pb.CreateAgentRequest, pb.CreateAgentResponse]
    ) -> pb.CreateAgentResponse:
        """See the contract."""
        caller = caller_of(context)

        async def create() -> Agent:
            return await self._create_agent(caller, convert.agent_from_proto(request.agent))

        return await once(request, create, _created, answers=pb.CreateAgentResponse)

    async def GetAgent(
        self, request: pb.GetAgentRequest, context: ServicerContext[pb.GetAgentRequest, pb.GetAgentResponse]
    ) -> pb.GetAgentResponse:
        """See the contract."""
        name, version = named_version(request.name, request.version)
        tenant = caller_of(context).principal.tenant
        agent = await self._agents.find(tenant, name, version)
        return pb.GetAgentResponse(agent=convert.agent_to_proto(agent))

    async def ListAgents(
        self, request: pb.ListAgentsRequest, context: ServicerContext[pb.ListAgentsRequest, pb.ListAgentsResponse]
    ) -> pb.ListAgentsResponse:
        """See the contract."""
        size = clamp_page_size(request.page_size)
        after = decode_page_token(request.page_token, str, str)
        found = await self._agents.page(caller_of(context).principal.tenant, after=after, most=size + 1)
        page, more = one_page(found, size, lambda agent: (agent.name, agent.version))
        return pb.ListAgentsResponse(agents=[convert.agent_to_proto(agent) for agent in page], next_page_token=more)

    async def InferAgent(
        self, request: pb.InferAgentRequest, context: ServicerContext[pb.InferAgentRequest, pb.InferAgentResponse]
    ) -> pb.InferAgentResponse:
        """See the contract."""
        question, call = convert.to_question(request, caller=caller_of(context)), current_call()
        answer = await self._ask_agent(question, stopped=lambda: call is not None and call.drain.begun)
        return pb.InferAgentResponse(session=answer.session, turn=answer.turn)
