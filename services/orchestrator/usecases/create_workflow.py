"""Makes a version of a workflow."""

from services.meshkit.core.audit import note
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.errors import WorkflowInvalid
from services.orchestrator.domain.workflow import StoredWorkflow
from services.orchestrator.usecases.ports import WorkflowStore
from services.orchestrator.usecases.review_workflow import Definition, ReviewWorkflow, WrittenText


class CreateWorkflow:
    """Stores one immutable version; the same definition again changes nothing."""

    def __init__(self, *, review: ReviewWorkflow, workflows: WorkflowStore) -> None:
        self._review = review
        self._workflows = workflows

    async def __call__(self, caller: Caller, definition: Definition) -> StoredWorkflow:
        """Raises: WorkflowInvalid, WorkflowVersionExists, QuotaExceeded, QueueFull."""
        tenant = caller.principal.tenant
        review = await self._review(tenant, definition)
        if review.stored is None:
            raise WorkflowInvalid(review.faults, root="source" if isinstance(definition, WrittenText) else "workflow")
        made = review.stored
        target = f"{made.workflow.name}@{made.workflow.version}"
        note(target=target, details={"digest": made.digest, "nodes": made.node_count})
        return await self._workflows.add(tenant, made, written_digest=review.written_digest)
