"""Proto to domain and back; pure."""

from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2, session_service_pb2, workflow_pb2
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.once import request_uuid
from services.meshkit.grpc.once import HasRequestId, body_of
from services.orchestrator.domain.agent import Agent, MemoryPolicy, split_reference
from services.orchestrator.domain.preflight import PreflightMode
from services.orchestrator.domain.session import MAX_TOPIC, Convergence, Mode, SessionSpec, Strategy
from services.orchestrator.domain.workflow import StoredWorkflow, WorkflowSummary
from services.orchestrator.engine.run import RunKind, StartKey
from services.orchestrator.usecases.start_session import StartSessionCommand
from services.orchestrator.workflows.message import message_of


def agent_from_proto(message: agent_pb2.Agent) -> Agent:
    """Reads a definition; what is output only is ignored.

    Raises: Invalid: kind or planning is none that this release has.
    """
    if message.kind not in (agent_pb2.AGENT_KIND_UNSPECIFIED, agent_pb2.AGENT_KIND_LLM):
        raise Invalid("agent.kind", "must be AGENT_KIND_LLM")
    if message.planning not in agent_pb2.AgentPlanning.values():
        raise Invalid("agent.planning", "must be AGENT_PLANNING_REACTIVE or AGENT_PLANNING_PLANNED")
    return Agent(
        name=message.name,
        version=message.version,
        instructions=message.instructions,
        description=message.description,
        model=message.model,
        max_output_tokens=message.max_output_tokens,
        temperature=message.temperature if message.HasField("temperature") else None,
        tools=tuple(message.tools),
        max_tool_calls=message.max_tool_calls,
        plans=message.planning == agent_pb2.AGENT_PLANNING_PLANNED,
        memory=MemoryPolicy(
            recent_turns=message.memory.recent_turns,
            semantic_matches=message.memory.semantic_matches,
            required=message.memory.required,
        ),
        style=dict(message.style),
    )


def agent_to_proto(agent: Agent) -> agent_pb2.Agent:
    """Writes a version."""
    message = agent_pb2.Agent(
        name=agent.name,
        version=agent.version,
        kind=agent_pb2.AGENT_KIND_LLM,
        instructions=agent.instructions,
        description=agent.description,
        model=agent.model,
        max_output_tokens=agent.max_output_tokens,
        temperature=agent.temperature,
        tools=agent.tools,
        max_tool_calls=agent.max_tool_calls,
        planning=agent_pb2.AGENT_PLANNING_PLANNED if agent.plans else agent_pb2.AGENT_PLANNING_REACTIVE,
        memory=agent_pb2.MemoryPolicy(
            recent_turns=agent.memory.recent_turns,
            semantic_matches=agent.memory.semantic_matches,
            required=agent.memory.required,
        ),
        style=agent.style,
        digest=agent.digest,
    )
    if agent.create_time is not None:
        message.create_time.FromDatetime(agent.create_time)
    return message


def workflow_to_proto(stored: StoredWorkflow) -> workflow_pb2.Workflow:
    """Writes a version."""
    message = message_of(stored.workflow)
    message.digest = stored.digest
    message.node_count = stored.node_count
    message.depth = stored.depth
    if stored.create_time is not None:
        message.create_time.FromDatetime(stored.create_time)
    return message


def workflow_summary_to_proto(summary: WorkflowSummary) -> workflow_pb2.Workflow:
    """Writes a version as lists show it."""
    message = workflow_pb2.Workflow(
        name=summary.name,
        version=summary.version,
        description=summary.description,
        digest=summary.digest,
        node_count=summary.node_count,
        depth=summary.depth,
    )
    message.create_time.FromDatetime(summary.create_time)
    if summary.deadline is not None:
        message.deadline.FromTimedelta(summary.deadline)
    return message


def to_start_command(request: session_service_pb2.StartSessionRequest, *, caller: Caller) -> StartSessionCommand:
    """Reads what a session is asked for.

    Raises: Invalid: `request_id` is no UUID, or `preflight` is none.
    """
    return StartSessionCommand(
        caller=caller,
        spec=session_spec(request),
        preflight=preflight_of(request.preflight),
        key=key_of(request, caller, RunKind.SESSION),
    )


def session_spec(request: session_service_pb2.StartSessionRequest) -> SessionSpec:
    """Reads what a session is to be."""
    policy, step = request.convergence, request.strategy_step
    return SessionSpec(
        topic=request.topic,
        mode=request.mode,
        strategy=request.strategy,
        agents=tuple(request.agents),
        max_rounds=request.max_rounds if request.HasField("max_rounds") else None,
        convergence=Convergence(
            enabled=policy.enabled,
            jaccard=policy.jaccard_threshold,
            semantic=policy.semantic_threshold,
            stagnation=policy.stagnation_threshold,
        ),
        manual_advance=request.manual_advance,
        max_cost=NanoUsd(request.max_cost_nano_usd),
        metadata=dict(request.metadata),
        model=request.model,
        moderator=request.moderator,
        step=(step.name, step.pool) if request.HasField("strategy_step") else None,
    )


def preflight_of(mode: int) -> PreflightMode:
    """Reads what is done with a run that may not fit its budgets. Raises: Invalid."""
    try:
        return PreflightMode(mode)
    except ValueError:
        names = ", ".join(f"PREFLIGHT_MODE_{one.name}" for one in PreflightMode)
        raise Invalid("preflight", f"must be one of {names}") from None


def to_question(request: agent_service_pb2.InferAgentRequest, *, caller: Caller) -> StartSessionCommand:
    """Reads a question as the session of one agent and one round that answers it.

    Raises: Invalid: `request_id` is no UUID, or `name` none of an agent.
    """
    split_reference(request.name, field="name")
    if not request.prompt.strip() or len(request.prompt) > MAX_TOPIC:
        raise Invalid("prompt", f"must be 1 to {MAX_TOPIC} characters, has {len(request.prompt)}")
    spec = SessionSpec(
        topic=request.prompt,
        mode=Mode.ANSWER,
        strategy=Strategy.ROUND_ROBIN,
        agents=(request.name,),
        max_rounds=1,
        max_cost=NanoUsd(request.max_cost_nano_usd),
        metadata=dict(request.metadata),
        model=request.model,
    )
    return StartSessionCommand(caller=caller, spec=spec, key=key_of(request, caller, RunKind.SESSION))


def key_of(request: HasRequestId, caller: Caller, kind: RunKind) -> StartKey | None:
    """Gives what makes a start request the same request; None without an id. Raises: Invalid: it is no UUID."""
    request_id = request_uuid(request.request_id)
    if request_id is None:
        return None
    principal = caller.principal
    body = body_of(request, principal.project)
    return StartKey(tenant=principal.tenant, kind=kind, request_id=request_id, body=body)
