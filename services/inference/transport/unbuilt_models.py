"""The RPCs of ModelService whose contract stands and whose use cases are being built: each says so."""

from typing import Any, NoReturn

import grpc
import grpc.aio

from comitia.inference.v1 import model_service_pb2 as pb
from comitia.inference.v1.model_service_pb2_grpc import ModelServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class UnbuiltModels(ModelServiceServicer):
    """Answers UNIMPLEMENTED; what is built overrides it."""

    async def CreateModelDeployment(
        self, request: pb.CreateModelDeploymentRequest, context: Context
    ) -> pb.CreateModelDeploymentResponse:
        return await _refused(context)

    async def GetModelDeployment(
        self, request: pb.GetModelDeploymentRequest, context: Context
    ) -> pb.GetModelDeploymentResponse:
        return await _refused(context)

    async def AddModelVersion(self, request: pb.AddModelVersionRequest, context: Context) -> pb.AddModelVersionResponse:
        return await _refused(context)

    async def CheckModelVersion(
        self, request: pb.CheckModelVersionRequest, context: Context
    ) -> pb.CheckModelVersionResponse:
        return await _refused(context)

    async def RetireModelDeployment(
        self, request: pb.RetireModelDeploymentRequest, context: Context
    ) -> pb.RetireModelDeploymentResponse:
        return await _refused(context)

    async def ListModelHealth(self, request: pb.ListModelHealthRequest, context: Context) -> pb.ListModelHealthResponse:
        return await _refused(context)

    async def SetModelRoute(self, request: pb.SetModelRouteRequest, context: Context) -> pb.SetModelRouteResponse:
        return await _refused(context)

    async def GetModelRoute(self, request: pb.GetModelRouteRequest, context: Context) -> pb.GetModelRouteResponse:
        return await _refused(context)

    async def ListModelRoutes(self, request: pb.ListModelRoutesRequest, context: Context) -> pb.ListModelRoutesResponse:
        return await _refused(context)

    async def DeleteModelRoute(
        self, request: pb.DeleteModelRouteRequest, context: Context
    ) -> pb.DeleteModelRouteResponse:
        return await _refused(context)

    async def StartModelRollout(
        self, request: pb.StartModelRolloutRequest, context: Context
    ) -> pb.StartModelRolloutResponse:
        return await _refused(context)

    async def GetModelRollout(self, request: pb.GetModelRolloutRequest, context: Context) -> pb.GetModelRolloutResponse:
        return await _refused(context)

    async def ListModelRollouts(
        self, request: pb.ListModelRolloutsRequest, context: Context
    ) -> pb.ListModelRolloutsResponse:
        return await _refused(context)

    async def PromoteModelRollout(
        self, request: pb.PromoteModelRolloutRequest, context: Context
    ) -> pb.PromoteModelRolloutResponse:
        return await _refused(context)

    async def RollBackModelRollout(
        self, request: pb.RollBackModelRolloutRequest, context: Context
    ) -> pb.RollBackModelRolloutResponse:
        return await _refused(context)

    async def ReportModelQuality(
        self, request: pb.ReportModelQualityRequest, context: Context
    ) -> pb.ReportModelQualityResponse:
        return await _refused(context)


async def _refused(context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this RPC is not built yet")
