"""Starts a session of several agents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.orchestrator.domain.agent import Agent, split_reference
from services.orchestrator.domain.preflight import PreflightMode
from services.orchestrator.domain.session import DEFAULT_ROUNDS, SessionSpec, Strategy
from services.orchestrator.domain.terms import DEFAULT_MAX_COST
from services.orchestrator.engine.run import OwnedRun, StartKey, session_of, shard_of
from services.orchestrator.programs import dialogue
from services.orchestrator.usecases.estimate_message import estimate_message
from services.orchestrator.usecases.ports import AgentFacts, AgentStore, Neighbours, Runs
from services.orchestrator.usecases.preflight import Preflight
from services.orchestrator.usecases.run_access import PROJECT, RunAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSessionCommand:
    """Who asks for what."""

    caller: Caller
    spec: SessionSpec
    preflight: PreflightMode = PreflightMode.UNSPECIFIED
    #: None when the caller sent no `request_id`.
    key: StartKey | None = field(default=None, repr=False)


class StartSession:
    """Pins everything the session is made of, opens its budget, takes a grant, and records the run."""

    def __init__(
        self,
        *,
        agents: AgentStore,
        neighbours: Neighbours,
        runs: Runs,
        access: RunAccess,
        prompts: Mapping[str, str],
        agent_facts: AgentFacts,
        preflight: Preflight,
    ) -> None:
        self._agents = agents
        self._neighbours = neighbours
        self._runs = runs
        self._access = access
        self._prompts = prompts
        self._agent_facts = agent_facts
        self._preflight = preflight

    async def __call__(self, command: StartSessionCommand) -> session_pb2.Session:
        """Gives the session as it began, or what an earlier request with this key was answered.

        Raises: Invalid, RelationMissing, AgentNotFound, RunsAtLimit, QuotaExceeded, EstimateExceedsBudget,
            EstimateNotPriced, PreflightUnavailable, RequestIdReused, RequestInProgress, and what cost or the gateway
            refuse.
        """
        spec = command.spec.checked()
        spec = replace(spec, metadata=await self._access.to_start(command.caller, spec.metadata))
        if command.key is not None:
            earlier = await self._runs.started_before(command.key)
            if earlier is not None:
                return session_of(earlier)
        # Counted again, exactly, when the run is recorded: here so that a start beyond the quota leaves nothing behind.
        await self._runs.check_quota(command.caller.principal.tenant)
        with self._runs.place(command.caller.principal.tenant):
            return await self._begin(command, spec)

    async def _begin(self, command: StartSessionCommand, spec: SessionSpec) -> session_pb2.Session:
        tenant = command.caller.principal.tenant
        cast_ = await cast_of(self._agents, tenant, spec)
        run_id = self._runs.new_run_id()
        limit = spec.max_cost or DEFAULT_MAX_COST
        started = first_fact(spec, cast_, self._agent_facts, limit=limit)
        cleared = await self._preflight(
            command.caller, started, mode=command.preflight, max_cost=limit, metadata=spec.metadata
        )
        if cleared.assessment is not None:
            told = estimate_message(cleared.assessment, degraded_to=cleared.degraded_to)
            started.session.estimate.CopyFrom(told)
        # The budget comes last: the tenant sees it. What fails after it, if only by a crash, leaves a budget of which
        # nothing can ever be spent, for no run has its id.
        grant_id = await self._neighbours.issue_grant(command.caller, run_id)
        started.session.budget_id = await self._neighbours.open_budget(
            command.caller, run_id, limit, project=spec.metadata.get(PROJECT, "")
        )
        started.session.session_id, started.grant_id = run_id, grant_id
        started.model_override = cleared.degraded_to or spec.model
        started.prompts.update(self._prompts)
        run = OwnedRun(tenant=tenant, run_id=run_id, grant_id=grant_id, shard=shard_of(run_id))
        return session_of(await self._runs.start(command.key, run, started))


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part in a session."""

    agents: Sequence[Agent]
    #: One at most.
    moderators: Sequence[Agent]


async def cast_of(store: AgentStore, tenant: TenantId, spec: SessionSpec) -> Cast:
    """Looks up who takes part. Raises: AgentNotFound, Invalid."""
    references = [split_reference(reference, field=f"agents[{index}]") for index, reference in enumerate(spec.agents)]
    agents = await store.resolve(tenant, references)
    moderators: list[Agent] = []
    if spec.moderator:
        moderators = [await store.find(tenant, *split_reference(spec.moderator, field="moderator"))]
    _refuse_twice([*agents, *moderators], moderated=bool(moderators))
    return Cast(agents, moderators)


def first_fact(spec: SessionSpec, cast_: Cast, agent_facts: AgentFacts, *, limit: int) -> journal_pb2.RunStarted:
    """Writes the first fact of a session, as far as the request decides it."""
    return journal_pb2.RunStarted(
        program=dialogue.NAME,
        program_version=dialogue.VERSION,
        session=_session_of(spec, agents=cast_.agents, moderators=cast_.moderators, limit=limit),
        agents=[agent_facts(agent) for agent in (*cast_.agents, *cast_.moderators)],
        model_override=spec.model,
    )


def _refuse_twice(agents: Sequence[Agent], *, moderated: bool) -> None:
    """`Athena` and `Athena@1.0.0` may be one and the same, which only shows when versions are known.

    Raises: Invalid.
    """
    seen: set[tuple[str, str]] = set()
    for index, agent in enumerate(agents):
        if (agent.name, agent.version) in seen:
            field_ = "moderator" if moderated and index == len(agents) - 1 else f"agents[{index}]"
            raise Invalid(field_, f"names {agent.name}@{agent.version} a second time")
        seen.add((agent.name, agent.version))


def _session_of(
    spec: SessionSpec,
    *,
    agents: Sequence[Agent],
    moderators: Sequence[Agent],
    limit: int,
) -> session_pb2.Session:
    """Writes the request with its defaults filled in, as the first fact of the run."""
    convergence = session_pb2.ConvergencePolicy(
        enabled=spec.convergence.enabled,
        jaccard_threshold=spec.convergence.jaccard,
        semantic_threshold=spec.convergence.semantic,
        stagnation_threshold=spec.convergence.stagnation,
    )
    return session_pb2.Session(
        topic_start=spec.topic,
        topic_final=spec.topic,
        mode=cast(session_pb2.SessionMode.ValueType, spec.mode),
        strategy=cast(session_pb2.SessionStrategy.ValueType, spec.strategy or int(Strategy.ROUND_ROBIN)),
        agents=[_name_of(agent) for agent in agents],
        max_rounds=DEFAULT_ROUNDS if spec.max_rounds is None else spec.max_rounds,
        convergence=convergence,
        manual_advance=spec.manual_advance,
        metadata=spec.metadata,
        max_cost_nano_usd=limit,
        moderator="".join(_name_of(agent) for agent in moderators),
        strategy_step=None if spec.step is None else session_pb2.StrategyStep(name=spec.step[0], pool=spec.step[1]),
    )


def _name_of(agent: Agent) -> str:
    return f"{agent.name}@{agent.version}"
