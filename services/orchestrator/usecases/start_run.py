"""Starts a run of a workflow."""

from dataclasses import dataclass, field, replace

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.preflight import PreflightMode
from services.orchestrator.domain.run import RunSpec
from services.orchestrator.domain.terms import DEFAULT_MAX_COST
from services.orchestrator.engine.run import OwnedRun, StartKey, shard_of
from services.orchestrator.engine.session_as_run import as_run
from services.orchestrator.programs.values import to_struct
from services.orchestrator.usecases.estimate_message import estimate_message
from services.orchestrator.usecases.pin_workflow import PinnedWorkflow, PinWorkflow
from services.orchestrator.usecases.ports import Neighbours, Runs
from services.orchestrator.usecases.preflight import Cleared, Preflight
from services.orchestrator.usecases.run_access import PROJECT, RunAccess
from services.orchestrator.usecases.run_input import check_schema, check_size
from services.orchestrator.usecases.run_started import run_started


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRunCommand:
    """Who asks for what."""

    caller: Caller
    spec: RunSpec
    preflight: PreflightMode = PreflightMode.UNSPECIFIED
    #: None when the caller sent no `request_id`.
    key: StartKey | None = field(default=None, repr=False)


class StartRun:
    """Pins everything the run is made of, opens its budget, takes a grant, and records the run."""

    def __init__(
        self,
        *,
        pin_workflow: PinWorkflow,
        preflight: Preflight,
        neighbours: Neighbours,
        runs: Runs,
        access: RunAccess,
        clock: Clock,
    ) -> None:
        self._pin_workflow = pin_workflow
        self._preflight = preflight
        self._neighbours = neighbours
        self._runs = runs
        self._access = access
        self._clock = clock

    async def __call__(self, command: StartRunCommand) -> run_pb2.Run:
        """Gives the run as it began, or what an earlier request with this key was answered.

        Raises: Invalid, RunInputInvalid, RelationMissing, WorkflowNotFound, RunsAtLimit, QuotaExceeded,
            EstimateExceedsBudget, EstimateNotPriced, PreflightUnavailable, RequestIdReused, RequestInProgress, and what
            tools, cost or the gateway refuse.
        """
        spec = command.spec.checked()
        check_size(spec.input)
        spec = replace(spec, metadata=await self._access.to_start(command.caller, spec.metadata))
        if command.key is not None:
            earlier = await self._runs.started_before(command.key)
            if earlier is not None:
                return as_run(earlier)
        # Counted again, exactly, when the run is recorded: here so that a start beyond the quota leaves nothing behind.
        await self._runs.check_quota(command.caller.principal.tenant)
        with self._runs.place(command.caller.principal.tenant):
            return await self._begin(command, spec)

    async def _begin(self, command: StartRunCommand, spec: RunSpec) -> run_pb2.Run:
        pinned = await self._pin_workflow(command.caller, spec.workflow)
        check_schema(pinned.workflow, spec.input)
        cleared = await self._cleared(command, spec, pinned)
        run_id = self._runs.new_run_id()
        asked = self._run_of(spec, pinned, run_id=run_id)
        if cleared.assessment is not None:
            asked.estimate.CopyFrom(estimate_message(cleared.assessment, degraded_to=cleared.degraded_to))
        # The budget comes last: the tenant sees it. What fails after it, if only by a crash, leaves a budget of which
        # nothing can ever be spent, for no run has its id.
        grant_id = await self._neighbours.issue_grant(command.caller, run_id)
        asked.budget_id = await self._neighbours.open_budget(
            command.caller, run_id, spec.max_cost or DEFAULT_MAX_COST, project=spec.metadata.get(PROJECT, "")
        )
        started = run_started(asked, pinned, grant_id=grant_id, model=cleared.degraded_to or spec.model)
        run = OwnedRun(tenant=command.caller.principal.tenant, run_id=run_id, grant_id=grant_id, shard=shard_of(run_id))
        return as_run(await self._runs.start(command.key, run, started))

    async def _cleared(self, command: StartRunCommand, spec: RunSpec, pinned: PinnedWorkflow) -> Cleared:
        # What the caller says, then what the workflow says, then what the operator has set.
        mode = command.preflight or PreflightMode(pinned.workflow.policy.preflight)
        if not self._preflight.wanted(command.caller, mode):
            return Cleared()
        first = journal_pb2.RunStarted(
            workflow=pinned.workflow,
            agents=pinned.agents,
            run=run_pb2.Run(input=to_struct(spec.input)),
            model_override=spec.model,
        )
        return await self._preflight(
            command.caller,
            first,
            mode=mode,
            max_cost=spec.max_cost or DEFAULT_MAX_COST,
            metadata=spec.metadata,
        )

    def _run_of(self, spec: RunSpec, pinned: PinnedWorkflow, *, run_id: str) -> run_pb2.Run:
        """Writes the request with its defaults filled in. Raises: Invalid."""
        run = run_pb2.Run(
            run_id=run_id,
            input=to_struct(spec.input),
            max_cost_nano_usd=spec.max_cost or DEFAULT_MAX_COST,
            metadata=spec.metadata,
        )
        run.deadline_time.FromDatetime(self._clock.now() + spec.life(pinned.deadline))
        return run
