"""Workflows: immutable versions of what runs do."""

from collections.abc import AsyncGenerator
from typing import cast
from uuid import uuid4

from comitia.orchestrator.v1 import workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of


class AsyncWorkflows:
    """Immutable versions of workflows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = workflow_service_pb2_grpc.WorkflowServiceStub(connection.channel)

    async def create(
        self,
        definition: workflow_pb2.Workflow | str,
        *,
        format: str = "",  # as the contract calls it
        name: str = "",
        version: str = "",
        request_id: str = "",
    ) -> workflow_pb2.Workflow:
        """Makes a version of a workflow; the same definition again changes nothing.

        Args:
            definition: a message, or a text as people write it.
            format: of a text: comitia, agentnet or agentflow; empty: told by its fields.
            name: of a text that has none.
            version: of a text that has none.
            request_id: UUID that makes a repeat harmless; a new one when empty.
        Returns: the version as stored, every reference pinned.
        Raises: InvalidRequest: what is wrong with it; ask `validate` for all of it. AlreadyExists, LimitReached.
        """
        request = workflow_service_pb2.CreateWorkflowRequest(request_id=request_id or str(uuid4()))
        if isinstance(definition, str):
            request.source.CopyFrom(_source(definition, format=format, name=name, version=version))
        else:
            request.workflow.CopyFrom(definition)
        return (await self._connection.call(self._stub.CreateWorkflow, request)).workflow

    async def validate(
        self,
        definition: workflow_pb2.Workflow | str,
        *,
        format: str = "",  # as the contract calls it
        name: str = "",
        version: str = "",
    ) -> workflow_service_pb2.ValidateWorkflowResponse:
        """Says everything that is wrong with a definition, and makes nothing; arguments as of `create`."""
        request = workflow_service_pb2.ValidateWorkflowRequest()
        if isinstance(definition, str):
            request.source.CopyFrom(_source(definition, format=format, name=name, version=version))
        else:
            request.workflow.CopyFrom(definition)
        return await self._connection.call(self._stub.ValidateWorkflow, request)

    async def get(self, name: str, version: str = "") -> workflow_pb2.Workflow:
        """Fetches a version, the highest when none is named. Raises: NotFound."""
        request = workflow_service_pb2.GetWorkflowRequest(name=name, version=version)
        return (await self._connection.call(self._stub.GetWorkflow, request)).workflow

    async def list(self, name: str = "", *, page_size: int = 0) -> AsyncGenerator[workflow_pb2.Workflow]:
        """Gives versions by name, then version, without their nodes; of one workflow, or of all."""
        request = workflow_service_pb2.ListWorkflowsRequest(name=name, page_size=page_size)
        async for page in self._connection.pages(self._stub.ListWorkflows, request):
            for workflow in page.workflows:
                yield workflow


def _source(text: str, *, format: str, name: str, version: str) -> workflow_service_pb2.WorkflowSource:
    known = workflow_service_pb2.WorkflowFormat
    number = number_of(known, format, field="format") if format else 0
    return workflow_service_pb2.WorkflowSource(
        text=text, format=cast(workflow_service_pb2.WorkflowFormat.ValueType, number), name=name, version=version
    )
