"""Relations in the fake mesh."""

from dataclasses import dataclass, field
from typing import Any

from comitia.gateway.v1 import access_service_pb2 as pb
from services.meshkit.core.errors import ErrorKind
from tests.support.fake_mesh_rooms import Refused, one_page


@dataclass(slots=True)
class Access:
    """An authorization model and relations; only what was written itself is granted."""

    model: str = "model\n  schema 1.1\ntype user\n"
    written: list[pb.RelationTuple] = field(default_factory=list[pb.RelationTuple])

    def GetAuthorizationModel(self, _request: Any, _context: Any) -> pb.GetAuthorizationModelResponse:
        return pb.GetAuthorizationModelResponse(model=self.model, etag=f"{len(self.model)}")

    def WriteAuthorizationModel(
        self, request: pb.WriteAuthorizationModelRequest, _context: Any
    ) -> pb.WriteAuthorizationModelResponse:
        if request.etag not in ("", f"{len(self.model)}"):
            raise Refused(ErrorKind.CONFLICT, "ETAG_STALE", "the authorization model was changed meanwhile")
        self.model = request.model
        return pb.WriteAuthorizationModelResponse(etag=f"{len(self.model)}")

    def WriteRelations(self, request: pb.WriteRelationsRequest, _context: Any) -> pb.WriteRelationsResponse:
        fresh = [one for one in request.writes if one not in self.written]
        gone = [one for one in request.deletes if one in self.written]
        self.written = [one for one in (*self.written, *fresh) if one not in gone]
        return pb.WriteRelationsResponse(written=len(fresh), deleted=len(gone))

    def ListRelations(self, request: pb.ListRelationsRequest, _context: Any) -> pb.ListRelationsResponse:
        found = [
            one
            for one in self.written
            if request.object in ("", one.object)
            and request.relation in ("", one.relation)
            and request.user in ("", one.user)
        ]
        page, more = one_page(found, request)
        return pb.ListRelationsResponse(relations=page, next_page_token=more)

    def CheckRelation(self, request: pb.CheckRelationRequest, _context: Any) -> pb.CheckRelationResponse:
        asked = pb.RelationTuple(user=request.user, relation=request.relation, object=request.object)
        allowed = asked in self.written
        said = "the tuple is written" if allowed else f"no tuple names {request.user}"
        return pb.CheckRelationResponse(allowed=allowed, explanation=[said])
