"""gRPC face of relations."""

from functools import partial
from typing import Any

from comitia.gateway.v1 import access_service_pb2 as pb
from comitia.gateway.v1.access_service_pb2_grpc import AccessServiceServicer, add_AccessServiceServicer_to_server
from services.gateway.transport import access_convert
from services.gateway.usecases.access_ports import ModelReader, RelationStore
from services.gateway.usecases.check_relation import AuthorizeCaller, CheckRelation
from services.gateway.usecases.write_access_model import WriteAccessModel
from services.gateway.usecases.write_relations import WriteRelations
from services.meshkit.core.paging import clamp_page_size
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once
from services.meshkit.grpc.server import Registration


class AccessServicer(AccessServiceServicer):
    """Converts, calls one use case or the store, converts back. No decisions here."""

    def __init__(
        self,
        *,
        write_model: WriteAccessModel,
        write_relations: WriteRelations,
        check_relation: CheckRelation,
        authorize_caller: AuthorizeCaller,
        models: ModelReader,
        store: RelationStore,
    ) -> None:
        self._write_model = write_model
        self._write_relations = write_relations
        self._check_relation = check_relation
        self._authorize_caller = authorize_caller
        self._models = models
        self._store = store

    async def WriteAuthorizationModel(
        self, request: pb.WriteAuthorizationModelRequest, context: Any
    ) -> pb.WriteAuthorizationModelResponse:
        """See `access_service.proto`, as the other methods."""
        caller = caller_of(context)
        return await once(
            request,
            lambda: self._write_model(caller, request.model, etag=request.etag),
            lambda etag: pb.WriteAuthorizationModelResponse(etag=etag),
            answers=pb.WriteAuthorizationModelResponse,
        )

    async def GetAuthorizationModel(
        self, request: pb.GetAuthorizationModelRequest, context: Any
    ) -> pb.GetAuthorizationModelResponse:
        found = await self._models.get(caller_of(context).principal.tenant)
        return pb.GetAuthorizationModelResponse(model=found.text, etag=found.etag)

    async def WriteRelations(self, request: pb.WriteRelationsRequest, context: Any) -> pb.WriteRelationsResponse:
        caller, change = caller_of(context), access_convert.to_change(request)
        return await once(
            request,
            lambda: self._write_relations(caller, change),
            lambda changed: pb.WriteRelationsResponse(written=changed.written, deleted=changed.deleted),
            answers=pb.WriteRelationsResponse,
        )

    async def ListRelations(self, request: pb.ListRelationsRequest, context: Any) -> pb.ListRelationsResponse:
        page = await self._store.page(
            caller_of(context).principal.tenant,
            access_convert.to_filter(request),
            after=request.page_token or None,
            most=clamp_page_size(request.page_size),
        )
        return pb.ListRelationsResponse(
            relations=[access_convert.tuple_to_proto(one) for one in page.tuples], next_page_token=page.next or ""
        )

    async def CheckRelation(self, request: pb.CheckRelationRequest, context: Any) -> pb.CheckRelationResponse:
        question = access_convert.to_question(request)
        found = await self._check_relation(caller_of(context).principal.tenant, question)
        return pb.CheckRelationResponse(allowed=found.allowed, explanation=found.explanation)

    async def AuthorizeCaller(self, request: pb.AuthorizeCallerRequest, context: Any) -> pb.AuthorizeCallerResponse:
        found = await self._authorize_caller(caller_of(context), request.relation, request.object)
        return pb.AuthorizeCallerResponse(allowed=found.allowed, missing=found.missing)


def registration(servicer: AccessServicer) -> Registration:
    """Gives what adds the servicer to a server."""
    return partial(add_AccessServiceServicer_to_server, servicer)
