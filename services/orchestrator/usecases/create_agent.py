"""Makes a version of an agent."""

from services.meshkit.core.audit import note
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.agent import Agent
from services.orchestrator.usecases.ports import AgentStore


class CreateAgent:
    """Stores one immutable version; the same definition again changes nothing."""

    def __init__(self, *, agents: AgentStore) -> None:
        self._agents = agents

    async def __call__(self, caller: Caller, agent: Agent) -> Agent:
        """Raises: Invalid, AgentVersionExists, QuotaExceeded."""
        checked = agent.checked()
        note(target=f"{checked.name}@{checked.version}", details={"tools": len(checked.tools)})
        return await self._agents.add(caller.principal.tenant, checked)
