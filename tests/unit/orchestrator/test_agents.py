"""Agents: what a definition may hold, and what its digest is made of."""

import hashlib

import pytest

from comitia.orchestrator.v1 import agent_pb2
from services.meshkit.core.errors import Invalid
from services.orchestrator.domain.agent import Agent
from services.orchestrator.storage.agent_repository import definition_of
from services.orchestrator.transport.convert import agent_from_proto, agent_to_proto

#: Of an agent that was made before any could plan.
_DIGEST = "78e2b91d958ee5b25b65166b833ec4f1a2ec33e835577d7d1046e52a4b1eb528"


def test_an_agent_that_plans_comes_back_as_one() -> None:
    message = agent_pb2.Agent(name="Clerk", version="1.0.0", planning=agent_pb2.AGENT_PLANNING_PLANNED)
    agent = agent_from_proto(message).checked()
    assert agent.plans
    assert agent_to_proto(agent).planning == agent_pb2.AGENT_PLANNING_PLANNED


def test_an_agent_reacts_unless_it_says_otherwise() -> None:
    agent = agent_from_proto(agent_pb2.Agent(name="Clerk", version="1.0.0"))
    assert not agent.plans
    assert agent_to_proto(agent).planning == agent_pb2.AGENT_PLANNING_REACTIVE


def test_a_way_of_planning_that_no_release_has_is_refused() -> None:
    message = agent_pb2.Agent(name="Clerk", version="1.0.0")
    message.planning = 9  # type: ignore[assignment]
    with pytest.raises(Invalid, match="AGENT_PLANNING_PLANNED"):
        agent_from_proto(message)


@pytest.mark.parametrize(("plans", "most"), [(False, 16), (True, 1_000)])
def test_an_agent_that_plans_may_call_more_tools_in_one_turn(plans: bool, most: int) -> None:
    assert Agent(name="Clerk", version="1.0.0", plans=plans, max_tool_calls=most).checked()
    with pytest.raises(Invalid, match=f"0 to {most}"):
        Agent(name="Clerk", version="1.0.0", plans=plans, max_tool_calls=most + 1).checked()


def test_agents_from_before_any_could_plan_keep_their_digests() -> None:
    agent = Agent(name="Clerk", version="1.0.0", instructions="File it.", tools=("calculator",))
    assert hashlib.sha256(definition_of(agent)).hexdigest() == _DIGEST
