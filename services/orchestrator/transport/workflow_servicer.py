"""gRPC face of workflows."""

from collections.abc import Sequence
from typing import Final, Protocol

from grpc.aio import ServicerContext

from comitia.orchestrator.v1 import workflow_service_pb2 as pb
from comitia.orchestrator.v1 import workflow_service_pb2_grpc
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once
from services.orchestrator.domain.agent import check_name, named_version
from services.orchestrator.domain.workflow import Fault, StoredWorkflow, WorkflowSummary
from services.orchestrator.transport import convert
from services.orchestrator.usecases.create_workflow import CreateWorkflow
from services.orchestrator.usecases.review_workflow import Definition, ReviewWorkflow, WrittenText
from services.orchestrator.workflows.definition import Format
from services.orchestrator.workflows.message import document_from

_FORMATS: Final = {
    pb.WORKFLOW_FORMAT_UNSPECIFIED: None,
    pb.WORKFLOW_FORMAT_COMITIA: Format.COMITIA,
    pb.WORKFLOW_FORMAT_AGENTNET: Format.AGENTNET,
    pb.WORKFLOW_FORMAT_AGENTFLOW: Format.AGENTFLOW,
}


class WorkflowReader(Protocol):
    """Reads workflows of a tenant."""

    async def find(self, tenant: TenantId, name: str, version: str) -> StoredWorkflow:
        """Gives a version, the highest when `version` is empty. Raises: WorkflowNotFound."""
        ...

    async def page(
        self, tenant: TenantId, *, name: str, after: tuple[str, str] | None, most: int
    ) -> Sequence[WorkflowSummary]:
        """Gives workflows by name, then version, those after the pair (name, version)."""
        ...


def _created(stored: StoredWorkflow) -> pb.CreateWorkflowResponse:
    return pb.CreateWorkflowResponse(workflow=convert.workflow_to_proto(stored))


class WorkflowServicer(workflow_service_pb2_grpc.WorkflowServiceServicer):
    """Converts, calls one use case or the repository, converts back."""

    def __init__(self, *, create_workflow: CreateWorkflow, review: ReviewWorkflow, workflows: WorkflowReader) -> None:
        self._create_workflow = create_workflow
        self._review = review
        self._workflows = workflows

    async def CreateWorkflow(
        self,
        request: pb.CreateWorkflowRequest,
        context: ServicerContext[pb.CreateWorkflowRequest, pb.CreateWorkflowResponse],
    ) -> pb.CreateWorkflowResponse:
        """See the contract."""
        caller = caller_of(context)

        async def create() -> StoredWorkflow:
            return await self._create_workflow(caller, _definition(request))

        return await once(request, create, _created, answers=pb.CreateWorkflowResponse)

    async def GetWorkflow(
        self, request: pb.GetWorkflowRequest, context: ServicerContext[pb.GetWorkflowRequest, pb.GetWorkflowResponse]
    ) -> pb.GetWorkflowResponse:
        """See the contract."""
        name, version = named_version(request.name, request.version)
        tenant = caller_of(context).principal.tenant
        stored = await self._workflows.find(tenant, name, version)
        return pb.GetWorkflowResponse(workflow=convert.workflow_to_proto(stored))

    async def ListWorkflows(
        self,
        request: pb.ListWorkflowsRequest,
        context: ServicerContext[pb.ListWorkflowsRequest, pb.ListWorkflowsResponse],
    ) -> pb.ListWorkflowsResponse:
        """See the contract."""
        size = clamp_page_size(request.page_size)
        after = decode_page_token(request.page_token, str, str)
        name = check_name(request.name, field="name") if request.name else ""
        tenant = caller_of(context).principal.tenant
        found = await self._workflows.page(tenant, name=name, after=after, most=size + 1)
        page, more = one_page(found, size, lambda one: (one.name, one.version))
        return pb.ListWorkflowsResponse(
            workflows=[convert.workflow_summary_to_proto(one) for one in page], next_page_token=more
        )

    async def ValidateWorkflow(
        self,
        request: pb.ValidateWorkflowRequest,
        context: ServicerContext[pb.ValidateWorkflowRequest, pb.ValidateWorkflowResponse],
    ) -> pb.ValidateWorkflowResponse:
        """See the contract."""
        review = await self._review(caller_of(context).principal.tenant, _definition(request))
        return pb.ValidateWorkflowResponse(
            faults=[_fault(fault) for fault in review.faults],
            more_faults=review.more_faults,
            workflow=None if review.stored is None else convert.workflow_to_proto(review.stored),
        )


def _definition(request: pb.CreateWorkflowRequest | pb.ValidateWorkflowRequest) -> Definition:
    """Reads what a definition came as. Raises: Invalid."""
    match request.WhichOneof("definition"):
        case "workflow":
            return document_from(request.workflow)
        case "source":
            source = request.source
            if source.format not in _FORMATS:
                raise Invalid("source.format", "must be a format that the contract names")
            if not source.text.strip():
                raise Invalid("source.text", "is required")
            return WrittenText(
                text=source.text, written_in=_FORMATS[source.format], name=source.name, version=source.version
            )
        case None:
            raise Invalid("workflow", "is required: send a workflow, or its text as source")


def _fault(fault: Fault) -> pb.WorkflowFault:
    return pb.WorkflowFault(
        line=fault.line, column=fault.column, field=fault.field, reason=fault.reason, message=fault.sentence
    )
