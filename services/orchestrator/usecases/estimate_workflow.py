"""Estimates what nobody has started yet: a run of a workflow, or a session."""

from dataclasses import dataclass

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.preflight import Assessment
from services.orchestrator.domain.run import RunSpec
from services.orchestrator.domain.session import SessionSpec
from services.orchestrator.domain.terms import DEFAULT_MAX_COST
from services.orchestrator.programs.values import to_struct
from services.orchestrator.usecases.estimate_run import EstimateRun
from services.orchestrator.usecases.ports import AgentFacts, AgentStore
from services.orchestrator.usecases.run_access import PROJECT, RunAccess
from services.orchestrator.usecases.run_input import check_schema, check_size
from services.orchestrator.usecases.runs_below import RunsBelow
from services.orchestrator.usecases.start_session import cast_of, first_fact


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateWorkflowQuery:
    """Who asks for what; the project is among the metadata."""

    caller: Caller
    spec: RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateSessionQuery:
    """Who asks for what; the project is among the metadata."""

    caller: Caller
    spec: SessionSpec


class EstimateWorkflow:
    """Estimates a run that is asked for as it would be started."""

    def __init__(self, *, estimate_run: EstimateRun, below: RunsBelow, access: RunAccess) -> None:
        self._estimate_run = estimate_run
        self._below = below
        self._access = access

    async def __call__(self, query: EstimateWorkflowQuery) -> tuple[Assessment, str]:
        """Gives the estimate, and the version that it is of.

        Raises: Invalid, RunInputInvalid, RelationMissing, WorkflowNotFound, AgentNotFound.
        """
        spec = query.spec.checked()
        check_size(spec.input)
        metadata = await self._access.to_estimate(query.caller, spec.metadata.get(PROJECT, ""))
        started = await self._below.first_fact(query.caller.principal.tenant, spec.workflow)
        check_schema(started.workflow, spec.input)
        started.run.CopyFrom(run_pb2.Run(input=to_struct(spec.input)))
        started.model_override = spec.model
        limit = spec.max_cost or DEFAULT_MAX_COST
        assessment = await self._estimate_run(query.caller, started, max_cost=limit, metadata=metadata)
        return assessment, f"{started.workflow.name}@{started.workflow.version}"


class EstimateSession:
    """Estimates a session that is asked for as it would be started."""

    def __init__(
        self, *, estimate_run: EstimateRun, agents: AgentStore, agent_facts: AgentFacts, access: RunAccess
    ) -> None:
        self._estimate_run = estimate_run
        self._agents = agents
        self._agent_facts = agent_facts
        self._access = access

    async def __call__(self, query: EstimateSessionQuery) -> Assessment:
        """Gives the estimate. Raises: Invalid, RelationMissing, AgentNotFound."""
        spec, caller = query.spec.checked(), query.caller
        metadata = await self._access.to_estimate(caller, spec.metadata.get(PROJECT, ""))
        limit = spec.max_cost or DEFAULT_MAX_COST
        taking_part = await cast_of(self._agents, caller.principal.tenant, spec)
        started: journal_pb2.RunStarted = first_fact(spec, taking_part, self._agent_facts, limit=limit)
        return await self._estimate_run(caller, started, max_cost=limit, metadata=metadata)
