"""gRPC face of estimates."""

from grpc.aio import ServicerContext

from comitia.orchestrator.v1 import estimate_service_pb2 as pb
from comitia.orchestrator.v1 import estimate_service_pb2_grpc
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.paging import clamp_page_size, decode_page_token, encode_page_token
from services.meshkit.grpc.call import caller_of
from services.orchestrator.domain.agent import check_name
from services.orchestrator.transport.estimate_messages import (
    as_run,
    estimated_to_proto,
    to_session_query,
    to_workflow_query,
)
from services.orchestrator.usecases.estimate_message import estimate_message
from services.orchestrator.usecases.estimate_ports import EstimateStore
from services.orchestrator.usecases.estimate_workflow import EstimateSession, EstimateWorkflow
from services.orchestrator.usecases.run_access import RunAccess


class EstimateServicer(estimate_service_pb2_grpc.EstimateServiceServicer):
    """Converts, calls one use case or the store, converts back."""

    def __init__(
        self,
        *,
        estimate_workflow: EstimateWorkflow,
        estimate_session: EstimateSession,
        estimates: EstimateStore,
        access: RunAccess,
    ) -> None:
        self._estimate_workflow = estimate_workflow
        self._estimate_session = estimate_session
        self._estimates = estimates
        self._access = access

    async def EstimateWorkflow(
        self,
        request: pb.EstimateWorkflowRequest,
        context: ServicerContext[pb.EstimateWorkflowRequest, pb.EstimateWorkflowResponse],
    ) -> pb.EstimateWorkflowResponse:
        """See the contract."""
        query = to_workflow_query(request, caller=caller_of(context))
        assessment, workflow = await self._estimate_workflow(query)
        return pb.EstimateWorkflowResponse(estimate=estimate_message(assessment), workflow=workflow)

    async def EstimateSession(
        self,
        request: pb.EstimateSessionRequest,
        context: ServicerContext[pb.EstimateSessionRequest, pb.EstimateSessionResponse],
    ) -> pb.EstimateSessionResponse:
        """See the contract."""
        query = to_session_query(request, caller=caller_of(context))
        return pb.EstimateSessionResponse(estimate=estimate_message(await self._estimate_session(query)))

    async def ListEstimates(
        self,
        request: pb.ListEstimatesRequest,
        context: ServicerContext[pb.ListEstimatesRequest, pb.ListEstimatesResponse],
    ) -> pb.ListEstimatesResponse:
        """See the contract."""
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, str)
        before = None if place is None else to_uuid(place[0], "run", field="page_token")
        name = f"workflow:{check_name(request.workflow, field='workflow')}" if request.workflow else ""
        run = to_uuid(request.run_id, "run", field="run_id") if request.run_id else None
        caller = caller_of(context)
        tenant = caller.principal.tenant
        page, more = await self._estimates.page(tenant, name=name, before=before, most=size, run=run)
        seen = {run.run_id for run in await self._access.readable(caller, [as_run(run) for run in page])}
        judged, covered = await self._estimates.coverage(tenant, name=name)
        return pb.ListEstimatesResponse(
            estimates=[estimated_to_proto(run) for run in page if run.run_id in seen],
            next_page_token=encode_page_token(page[-1].run_id) if more else "",
            judged_count=judged,
            covered_count=covered,
        )
