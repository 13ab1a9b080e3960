"""Prepares a run that a step of another run starts."""

from datetime import UTC, datetime
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.content import MOST_PARENT_STEPS
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, Principal
from services.orchestrator.domain.errors import SubRunsAtLimit
from services.orchestrator.domain.run import RunSpec
from services.orchestrator.programs.values import from_struct, to_struct
from services.orchestrator.usecases.pin_workflow import PinnedWorkflow, PinWorkflow
from services.orchestrator.usecases.ports import Neighbours, RunTrees
from services.orchestrator.usecases.run_input import check_schema, check_size
from services.orchestrator.usecases.run_started import run_started

#: Runs below one that somebody started, however deep they lie. A few more may be on their way when there are so many.
MAX_SUB_RUNS: Final = 10_000


class PrepareSubRun:
    """Pins what the sub-run is made of and takes a grant for it. It spends from the budget of the run that starts it,
    and from those of the step that does and of the steps above, belongs to the same project, and ends no later.
    """

    def __init__(self, *, trees: RunTrees, pin_workflow: PinWorkflow, neighbours: Neighbours, clock: Clock) -> None:
        self._trees = trees
        self._pin_workflow = pin_workflow
        self._neighbours = neighbours
        self._clock = clock

    async def prepare(
        self, principal: Principal, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry
    ) -> journal_pb2.RunStarted:
        """See `SubRunStarts.prepare`.

        Raises: SubRunsAtLimit, RunInputInvalid, WorkflowNotFound, and what tools or the gateway refuse.
        """
        task = journal_pb2.SubRunTask.FromString(intended.call_intended.request)
        if await self._trees.below(principal.tenant, task.run_id, most=MAX_SUB_RUNS) >= MAX_SUB_RUNS:
            raise SubRunsAtLimit(MAX_SUB_RUNS)
        given = from_struct(task.input.struct_value)
        check_size(given)
        caller = Caller(principal=principal)
        pinned = await self._pin_workflow(caller, task.workflow)
        check_schema(pinned.workflow, given)
        asked = run_pb2.Run(
            run_id=task.run_id,
            input=to_struct(given),
            max_cost_nano_usd=started.run.max_cost_nano_usd,
            budget_id=started.run.budget_id,
            metadata=started.run.metadata,
            parent_run_id=started.run.run_id,
            parent_path=intended.path,
        )
        asked.deadline_time.FromDatetime(self._deadline(task, started, pinned))
        grant_id = await self._neighbours.issue_grant(caller, task.run_id)
        first = run_started(asked, pinned, grant_id=grant_id, model=started.model_override)
        first.parent_steps.extend([*started.parent_steps, f"{started.run.run_id}/{intended.path}"][:MOST_PARENT_STEPS])
        if task.HasField("input_label"):
            first.input_label.CopyFrom(task.input_label)
        return first

    def _deadline(
        self, task: journal_pb2.SubRunTask, started: journal_pb2.RunStarted, pinned: PinnedWorkflow
    ) -> datetime:
        own = self._clock.now() + RunSpec(workflow=task.workflow).life(pinned.deadline)
        if not started.run.HasField("deadline_time"):
            return own
        return min(own, started.run.deadline_time.ToDatetime(tzinfo=UTC))
