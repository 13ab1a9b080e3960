"""The RPCs of ModelService whose contract stands and whose use cases are being built: each says so."""

from typing import Any, NoReturn

import grpc
import grpc.aio

from comitia.inference.v1 import model_service_pb2 as pb
from comitia.inference.v1.model_service_pb2_grpc import ModelServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class UnbuiltModels(ModelServiceServicer):
    """Answers UNIMPLEMENTED; what is built overrides it."""

    async def ReportModelQuality(
        self, request: pb.ReportModelQualityRequest, context: Context
    ) -> pb.ReportModelQualityResponse:
        return await _refused(context)


async def _refused(context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this RPC is not built yet")
