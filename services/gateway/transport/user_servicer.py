"""gRPC face of people and of the issuers that vouch for them."""

from functools import partial
from typing import Any

from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import user_service_pb2 as pb
from comitia.gateway.v1.user_service_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server
from services.gateway.domain.oidc_issuer import ISSUER_PREFIX, IssuerWish, OidcIssuer
from services.gateway.domain.user import USER_PREFIX, User
from services.gateway.transport import convert
from services.gateway.usecases.change_user import RemoveUser, SetUserRoles
from services.gateway.usecases.invite_user import InviteUser
from services.gateway.usecases.people_ports import PeopleReader
from services.gateway.usecases.sign_in import SignIn
from services.gateway.usecases.trust_issuer import DistrustIssuer, TrustIssuer
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.paging import clamp_page_size, decode_id_place, one_page
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once
from services.meshkit.grpc.server import Registration


class UserServicer(UserServiceServicer):
    """Converts, calls one use case, converts back. No decisions here."""

    def __init__(
        self,
        *,
        sign_in: SignIn,
        invite_user: InviteUser,
        set_user_roles: SetUserRoles,
        remove_user: RemoveUser,
        trust_issuer: TrustIssuer,
        distrust_issuer: DistrustIssuer,
        people: PeopleReader,
    ) -> None:
        self._sign_in = sign_in
        self._invite_user = invite_user
        self._set_user_roles = set_user_roles
        self._remove_user = remove_user
        self._trust_issuer = trust_issuer
        self._distrust_issuer = distrust_issuer
        self._people = people

    async def GetLoginOptions(self, request: pb.GetLoginOptionsRequest, context: Any) -> pb.GetLoginOptionsResponse:
        """See `user_service.proto`, as the other methods."""
        found = await self._sign_in.options(request.tenant)
        option = pb.GetLoginOptionsResponse.Option
        return pb.GetLoginOptionsResponse(
            options=[option(issuer=issuer.issuer, client_id=issuer.client_id) for issuer in found]
        )

    async def ExchangeOidcToken(
        self, request: pb.ExchangeOidcTokenRequest, context: Any
    ) -> pb.ExchangeOidcTokenResponse:
        token = await self._sign_in(request.tenant, request.id_token)
        return pb.ExchangeOidcTokenResponse(access_token=token.token, expire_time=convert.timestamp(token.expire_time))

    async def InviteUser(self, request: pb.InviteUserRequest, context: Any) -> pb.InviteUserResponse:
        caller, roles = caller_of(context), convert.to_roles(request.roles)
        return await once(
            request,
            lambda: self._invite_user(caller, request.email, roles),
            lambda user: pb.InviteUserResponse(user=_user(user)),
            answers=pb.InviteUserResponse,
        )

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        size = clamp_page_size(request.page_size)
        after = decode_id_place(request.page_token, USER_PREFIX)
        found = await self._people.users(caller_of(context).principal.tenant, after=after, most=size + 1)
        page, more = one_page(found, size, lambda user: (user.subject,))
        return pb.ListUsersResponse(users=[_user(user) for user in page], next_page_token=more)

    async def SetUserRoles(self, request: pb.SetUserRolesRequest, context: Any) -> pb.SetUserRolesResponse:
        caller, roles = caller_of(context), convert.to_roles(request.roles)
        user_id = to_uuid(request.user_id, USER_PREFIX, field="user_id")
        return await once(
            request,
            lambda: self._set_user_roles(caller, user_id, roles),
            lambda user: pb.SetUserRolesResponse(user=_user(user)),
            answers=pb.SetUserRolesResponse,
        )

    async def RemoveUser(self, request: pb.RemoveUserRequest, context: Any) -> pb.RemoveUserResponse:
        caller, user_id = caller_of(context), to_uuid(request.user_id, USER_PREFIX, field="user_id")
        return await once(
            request,
            lambda: self._remove_user(caller, user_id),
            lambda user: pb.RemoveUserResponse(user=_user(user)),
            answers=pb.RemoveUserResponse,
        )

    async def CreateOidcIssuer(self, request: pb.CreateOidcIssuerRequest, context: Any) -> pb.CreateOidcIssuerResponse:
        caller = caller_of(context)
        wish = IssuerWish(
            issuer=request.issuer,
            client_id=request.client_id,
            trusted_domains=tuple(request.trusted_domains),
            default_roles=convert.to_roles(request.default_roles, field="default_roles"),
        )
        return await once(
            request,
            lambda: self._trust_issuer(caller, wish),
            lambda issuer: pb.CreateOidcIssuerResponse(oidc_issuer=_issuer(issuer)),
            answers=pb.CreateOidcIssuerResponse,
        )

    async def ListOidcIssuers(self, request: pb.ListOidcIssuersRequest, context: Any) -> pb.ListOidcIssuersResponse:
        size = clamp_page_size(request.page_size)
        after = decode_id_place(request.page_token, ISSUER_PREFIX)
        found = await self._people.issuers(caller_of(context).principal.tenant, after=after, most=size + 1)
        page, more = one_page(found, size, lambda issuer: (issuer.name,))
        return pb.ListOidcIssuersResponse(oidc_issuers=[_issuer(issuer) for issuer in page], next_page_token=more)

    async def DeleteOidcIssuer(self, request: pb.DeleteOidcIssuerRequest, context: Any) -> pb.DeleteOidcIssuerResponse:
        caller, issuer_id = caller_of(context), to_uuid(request.oidc_issuer_id, ISSUER_PREFIX, field="oidc_issuer_id")
        return await once(
            request,
            lambda: self._distrust_issuer(caller, issuer_id),
            lambda _: pb.DeleteOidcIssuerResponse(),
            answers=pb.DeleteOidcIssuerResponse,
        )


def registration(servicer: UserServicer) -> Registration:
    """Gives what adds the service to a server."""
    return partial(add_UserServiceServicer_to_server, servicer)


def _user(user: User) -> identity_pb2.User:
    return identity_pb2.User(
        user_id=user.subject,
        email=user.email,
        roles=convert.roles_to_proto(user.roles),
        create_time=convert.timestamp(user.create_time),
        last_login_time=None if user.last_login_time is None else convert.timestamp(user.last_login_time),
        remove_time=None if user.remove_time is None else convert.timestamp(user.remove_time),
    )


def _issuer(issuer: OidcIssuer) -> identity_pb2.OidcIssuer:
    return identity_pb2.OidcIssuer(
        oidc_issuer_id=issuer.name,
        issuer=issuer.issuer,
        client_id=issuer.client_id,
        trusted_domains=sorted(issuer.trusted_domains),
        default_roles=convert.roles_to_proto(issuer.default_roles),
        most_roles=convert.roles_to_proto(issuer.most_roles),
        create_time=convert.timestamp(issuer.create_time),
    )
