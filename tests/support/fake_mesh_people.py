"""People and their providers in the fake mesh."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import user_service_pb2 as pb
from services.meshkit.core.errors import AlreadyExists, ErrorKind, Invalid, NotFound
from tests.support.fake_mesh_rooms import NOON, Refused, one_page


@dataclass(slots=True)
class People:
    """Users of the tenant `acme`, and the issuers that vouch for them."""

    give_token: Callable[[], tuple[str, float]]
    tenant: str = "acme"
    users: list[identity_pb2.User] = field(default_factory=list[identity_pb2.User])
    issuers: list[identity_pb2.OidcIssuer] = field(default_factory=list[identity_pb2.OidcIssuer])
    #: ID tokens that the mesh takes.
    believed: set[str] = field(default_factory=set[str])

    def GetLoginOptions(self, request: Any, _context: Any) -> pb.GetLoginOptionsResponse:
        found = self.issuers if request.tenant == self.tenant else []
        option = pb.GetLoginOptionsResponse.Option
        return pb.GetLoginOptionsResponse(options=[option(issuer=one.issuer, client_id=one.client_id) for one in found])

    def ExchangeOidcToken(self, request: Any, _context: Any) -> pb.ExchangeOidcTokenResponse:
        if request.tenant != self.tenant or request.id_token not in self.believed:
            raise Refused(ErrorKind.UNAUTHENTICATED, "LOGIN_REFUSED", "the sign-in is refused; ask an administrator")
        token, end = self.give_token()
        return pb.ExchangeOidcTokenResponse(access_token=token, expire_time=Timestamp(seconds=int(end)))

    def InviteUser(self, request: Any, _context: Any) -> pb.InviteUserResponse:
        if "@" not in request.email:
            raise Invalid("email", "must be a mail address such as ann@example.com")
        if any(user.email == request.email and not user.HasField("remove_time") for user in self.users):
            raise AlreadyExists("user", request.email)
        user = identity_pb2.User(
            user_id=f"user_{len(self.users) + 1}", email=request.email, roles=request.roles, create_time=NOON
        )
        self.users.insert(0, user)
        return pb.InviteUserResponse(user=user)

    def ListUsers(self, request: Any, _context: Any) -> pb.ListUsersResponse:
        page, token = one_page(self.users, request)
        return pb.ListUsersResponse(users=page, next_page_token=token)

    def SetUserRoles(self, request: Any, _context: Any) -> pb.SetUserRolesResponse:
        user = self._user(request.user_id)
        if user.HasField("remove_time"):
            raise NotFound("user", request.user_id)
        del user.roles[:]
        user.roles.extend(request.roles)
        return pb.SetUserRolesResponse(user=user)

    def RemoveUser(self, request: Any, _context: Any) -> pb.RemoveUserResponse:
        user = self._user(request.user_id)
        user.remove_time.CopyFrom(NOON)
        return pb.RemoveUserResponse(user=user)

    def _user(self, user_id: str) -> identity_pb2.User:
        for user in self.users:
            if user.user_id == user_id:
                return user
        raise NotFound("user", user_id)

    def CreateOidcIssuer(self, request: Any, _context: Any) -> pb.CreateOidcIssuerResponse:
        if any((one.issuer, one.client_id) == (request.issuer, request.client_id) for one in self.issuers):
            raise AlreadyExists("issuer", request.issuer)
        issuer = identity_pb2.OidcIssuer(
            oidc_issuer_id=f"issuer_{len(self.issuers) + 1}",
            issuer=request.issuer,
            client_id=request.client_id,
            trusted_domains=request.trusted_domains,
            default_roles=request.default_roles,
            create_time=NOON,
        )
        self.issuers.insert(0, issuer)
        return pb.CreateOidcIssuerResponse(oidc_issuer=issuer)

    def ListOidcIssuers(self, request: Any, _context: Any) -> pb.ListOidcIssuersResponse:
        page, token = one_page(self.issuers, request)
        return pb.ListOidcIssuersResponse(oidc_issuers=page, next_page_token=token)

    def DeleteOidcIssuer(self, request: Any, _context: Any) -> pb.DeleteOidcIssuerResponse:
        kept = [one for one in self.issuers if one.oidc_issuer_id != request.oidc_issuer_id]
        if len(kept) == len(self.issuers):
            raise NotFound("issuer", request.oidc_issuer_id)
        self.issuers = kept
        return pb.DeleteOidcIssuerResponse()
