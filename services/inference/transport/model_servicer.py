"""The gRPC face of the models."""

from comitia.inference.v1 import model_service_pb2 as pb
from services.inference.transport import model_convert
from services.inference.transport.unbuilt_models import UnbuiltModels
from services.inference.usecases.list_models import ListModels
from services.meshkit.grpc.call import caller_of


class ModelServicer(UnbuiltModels):
    """Says which models the mesh can ask."""

    def __init__(self, *, list_models: ListModels) -> None:
        self._list_models = list_models

    async def ListModels(self, request: pb.ListModelsRequest, context: object) -> pb.ListModelsResponse:
        listed = await self._list_models(caller_of(context).principal)
        return pb.ListModelsResponse(models=model_convert.deployments_to_proto(listed))
