"""The gRPC face of batches."""

from typing import Any

from grpc.aio import ServicerContext

from comitia.inference.v1 import model_batch_service_pb2 as pb
from comitia.inference.v1.model_batch_service_pb2_grpc import ModelBatchServiceServicer
from services.inference.domain.batch_job import BATCH_PREFIX
from services.inference.transport import batch_convert as convert
from services.inference.transport.convert import model_of
from services.inference.usecases.batch_ports import BatchStore, BatchView
from services.inference.usecases.batches import CreateBatch
from services.meshkit.core.paging import (
    clamp_page_size,
    decode_id_place,
    decode_page_token,
    encode_page_token,
    one_page,
)
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class ModelBatchServicer(ModelBatchServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(self, *, create: CreateBatch, store: BatchStore) -> None:
        self._create = create
        self._store = store

    async def CreateModelBatch(
        self, request: pb.CreateModelBatchRequest, context: Context
    ) -> pb.CreateModelBatchResponse:
        caller, items = caller_of(context), convert.items_of(request)
        model = model_of(request.model)
        return await once(
            request, lambda: self._create(caller, model, items), _created, answers=pb.CreateModelBatchResponse
        )

    async def GetModelBatch(self, request: pb.GetModelBatchRequest, context: Context) -> pb.GetModelBatchResponse:
        caller = caller_of(context)
        view = await self._store.view(caller.principal.tenant, request.batch_id, bound_to=caller.bound_to)
        return pb.GetModelBatchResponse(batch=convert.batch_to_proto(view))

    async def ListModelBatches(
        self, request: pb.ListModelBatchesRequest, context: Context
    ) -> pb.ListModelBatchesResponse:
        caller, size = caller_of(context), clamp_page_size(request.page_size)
        before = decode_id_place(request.page_token, BATCH_PREFIX)
        found = await self._store.views(caller.principal.tenant, bound_to=caller.bound_to, before=before, most=size + 1)
        page, more = one_page(found, size, lambda view: (view.job.name,))
        return pb.ListModelBatchesResponse(batches=[convert.batch_to_proto(one) for one in page], next_page_token=more)

    async def CancelModelBatch(
        self, request: pb.CancelModelBatchRequest, context: Context
    ) -> pb.CancelModelBatchResponse:
        caller = caller_of(context)
        return await once(
            request,
            lambda: self._store.request_cancel(caller.principal.tenant, request.batch_id, bound_to=caller.bound_to),
            _cancelled,
            answers=pb.CancelModelBatchResponse,
        )

    async def ListModelBatchResults(
        self, request: pb.ListModelBatchResultsRequest, context: Context
    ) -> pb.ListModelBatchResultsResponse:
        caller, size = caller_of(context), clamp_page_size(request.page_size)
        after = decode_page_token(request.page_token, int)
        items, more = await self._store.results(
            caller.principal.tenant,
            request.batch_id,
            bound_to=caller.bound_to,
            after=after[0] if after else -1,
            most=size,
        )
        token = encode_page_token(items[-1].index) if more else ""
        return pb.ListModelBatchResultsResponse(
            results=[convert.result_to_proto(item) for item in items], next_page_token=token
        )


def _created(view: BatchView) -> pb.CreateModelBatchResponse:
    return pb.CreateModelBatchResponse(batch=convert.batch_to_proto(view))


def _cancelled(view: BatchView) -> pb.CancelModelBatchResponse:
    return pb.CancelModelBatchResponse(batch=convert.batch_to_proto(view))
