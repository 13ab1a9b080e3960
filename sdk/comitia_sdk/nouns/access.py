"""Relations: who may view, run, edit or administer which project or workflow."""

from collections.abc import AsyncGenerator, Sequence
from uuid import uuid4

from comitia.gateway.v1 import access_service_pb2 as pb
from comitia.gateway.v1 import access_service_pb2_grpc
from comitia_sdk.connection import Connection


class AsyncAccess:
    """The tenant's authorization model and its relations, such as `user:anna@example.com` `editor` `project:claims`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._access = access_service_pb2_grpc.AccessServiceStub(connection.channel)

    async def model(self) -> pb.GetAuthorizationModelResponse:
        """Gives the tenant's model as OpenFGA's text, and its etag."""
        return await self._connection.call(self._access.GetAuthorizationModel, pb.GetAuthorizationModelRequest())

    async def set_model(self, model: str, *, etag: str = "") -> str:
        """Replaces the model; gives the new etag.

        Args:
            etag: of the model that is replaced; empty for whichever it is.
        Raises: InvalidRequest: with line and column. Conflict: it was changed meanwhile.
        """
        request = pb.WriteAuthorizationModelRequest(model=model, etag=etag, request_id=str(uuid4()))
        return (await self._connection.call(self._access.WriteAuthorizationModel, request)).etag

    async def check(self, user: str, relation: str, object: str) -> pb.CheckRelationResponse:
        """Says whether a user has a relation to an object, and why."""
        request = pb.CheckRelationRequest(user=user, relation=relation, object=object)
        return await self._connection.call(self._access.CheckRelation, request)

    async def grant(self, user: str, relation: str, object: str) -> bool:
        """Writes one relation; False when it was there before. Raises: InvalidRequest, PermissionDenied."""
        one = pb.RelationTuple(user=user, relation=relation, object=object)
        return (await self.write(writes=[one])).written > 0

    async def revoke(self, user: str, relation: str, object: str) -> bool:
        """Removes one relation; False when it was not there. Raises: InvalidRequest, PermissionDenied."""
        one = pb.RelationTuple(user=user, relation=relation, object=object)
        return (await self.write(deletes=[one])).deleted > 0

    async def write(
        self, *, writes: Sequence[pb.RelationTuple] = (), deletes: Sequence[pb.RelationTuple] = ()
    ) -> pb.WriteRelationsResponse:
        """Writes and removes up to 100 relations, all or none. Raises: InvalidRequest, PermissionDenied."""
        request = pb.WriteRelationsRequest(writes=writes, deletes=deletes, request_id=str(uuid4()))
        return await self._connection.call(self._access.WriteRelations, request)

    async def relations(
        self,
        *,
        object: str = "",
        relation: str = "",
        user: str = "",
        page_size: int = 0,
    ) -> AsyncGenerator[pb.RelationTuple]:
        """Gives what was written, by object, relation and user."""
        request = pb.ListRelationsRequest(object=object, relation=relation, user=user, page_size=page_size)
        async for page in self._connection.pages(self._access.ListRelations, request):
            for one in page.relations:
                yield one
