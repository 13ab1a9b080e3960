"""Invitations, roles and issuers through a real gRPC server and a real Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as identity
from comitia.gateway.v1 import user_service_pb2 as pb
from services.meshkit.core.ids import SystemIds
from tests.integration.gateway.people.conftest import TENANT, Metadata, People, id_token, reason_of
from tests.support.oidc_provider import CLIENT_ID, OidcProvider

ADMIN = identity_pb2.ROLE_ADMIN
AUDITOR = identity_pb2.ROLE_AUDITOR
USER = identity_pb2.ROLE_TENANT_USER
OPERATOR = identity_pb2.ROLE_OPERATOR


async def reason(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return reason_of(raised.value)


async def emails(people: People, who: Metadata) -> list[str]:
    found: list[str] = []
    request = pb.ListUsersRequest(page_size=2)
    while True:
        page = await people.users.ListUsers(request, metadata=who)
        found += [user.email for user in page.users]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_an_invitation_is_made_once(people: People) -> None:
    admin = await people.admin()
    request = pb.InviteUserRequest(email="Ann@Example.com", roles=[AUDITOR, AUDITOR], request_id=str(uuid4()))
    user = (await people.users.InviteUser(request, metadata=admin)).user
    assert (user.email, list(user.roles)) == ("ann@example.com", [AUDITOR])
    assert (await people.users.InviteUser(request, metadata=admin)).user == user
    request.email = "bob@example.com"
    assert await reason(people.users.InviteUser(request, metadata=admin)) == "REQUEST_ID_REUSED"
    again = pb.InviteUserRequest(email="ANN@example.com", roles=[USER])
    assert await reason(people.users.InviteUser(again, metadata=admin)) == "ALREADY_EXISTS"
    for number in range(4):
        await people.invite(f"user{number}@example.com")
    assert await emails(people, admin) == [*(f"user{n}@example.com" for n in (3, 2, 1, 0)), "ann@example.com"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"email": "", "roles": [USER]}, "email"),
        ({"email": "ann", "roles": [USER]}, "email"),
        ({"email": "ann@example.com\x00", "roles": [USER]}, "email"),
        ({"email": "ann@example.com"}, "roles"),
        ({"email": "ann@example.com", "roles": [0]}, "roles[0]"),
        ({"email": "ann@example.com", "roles": [USER, 99]}, "roles[1]"),
        ({"email": "ann@example.com", "roles": [USER], "request_id": "x"}, "request_id"),
    ],
)
async def test_a_wrong_invitation_is_refused_with_its_field(people: People, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await people.users.InviteUser(pb.InviteUserRequest(**fields), metadata=await people.admin())
    assert (raised.value.code(), reason_of(raised.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert (raised.value.details() or "").startswith(f"{field}: ")


async def test_nobody_makes_users_who_may_do_more(people: People) -> None:
    _, admin = await people.key()
    invite = people.users.InviteUser
    request = pb.InviteUserRequest(email="ann@example.com", roles=[OPERATOR])
    assert await reason(invite(request, metadata=admin)) == "ROLE_NOT_HELD"
    for roles in (["ROLE_AUDITOR"], ["ROLE_TENANT_USER"], ["ROLE_OPERATOR"]):
        _, who = await people.key(roles=tuple(roles))
        request = pb.InviteUserRequest(email="ann@example.com", roles=[USER])
        assert await reason(invite(request, metadata=who)) == "PERMISSION_MISSING"
    _, narrow = await people.key(scopes=["users.write", "oidc_issuers.write"])
    assert await reason(invite(request, metadata=narrow)) == "ROLE_NOT_HELD"
    _, bound = await people.key(project="apollo")
    assert await reason(invite(request, metadata=bound)) == "BOUND_TO_PROJECT"

    user = await people.invite("ann@example.com")
    change = pb.SetUserRolesRequest(user_id=user.user_id, roles=[OPERATOR])
    assert await reason(people.users.SetUserRoles(change, metadata=admin)) == "ROLE_NOT_HELD"
    issuer = pb.CreateOidcIssuerRequest(issuer="https://accounts.example.com", client_id="x")
    for who, why in ((narrow, "ROLE_NOT_HELD"), (bound, "BOUND_TO_PROJECT")):
        assert await reason(people.users.CreateOidcIssuer(issuer, metadata=who)) == why


async def test_a_tenant_keeps_somebody_who_can_administer_it(people: People, provider: OidcProvider) -> None:
    admin = await people.admin()
    ann, bob = (
        await people.invite("ann@example.com", "ROLE_ADMIN"),
        await people.invite("bob@example.com", "ROLE_ADMIN"),
    )
    await people.trust(provider.issuer)
    who = await people.login(await id_token(provider, "ann@example.com"))
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    # None of them is somebody to leave a tenant to.
    await people.key(expire_time=soon)
    await people.key(project="apollo")
    await people.key(scopes=["users.write"])
    await people.key(roles=("ROLE_AUDITOR",))
    me = await people.me(admin)
    await people.identity.RevokeApiKey(identity.RevokeApiKeyRequest(api_key_id=me.subject), metadata=who)

    one = pb.SetUserRolesRequest(user_id=bob.user_id, roles=[AUDITOR])
    other = pb.SetUserRolesRequest(user_id=ann.user_id, roles=[AUDITOR])
    answers = await asyncio.gather(
        people.users.SetUserRoles(one, metadata=who),
        people.users.SetUserRoles(other, metadata=who),
        return_exceptions=True,
    )
    reasons = [reason_of(one) for one in answers if isinstance(one, grpc.aio.AioRpcError)]
    assert reasons == ["LAST_ADMIN"], answers


async def test_a_key_is_somebody_to_leave_a_tenant_to(people: People) -> None:
    admin = await people.admin()
    ann = await people.invite("ann@example.com", "ROLE_ADMIN")
    request = pb.RemoveUserRequest(user_id=ann.user_id, request_id=str(uuid4()))
    removed = (await people.users.RemoveUser(request, metadata=admin)).user
    assert removed.HasField("remove_time")
    assert (await people.users.RemoveUser(request, metadata=admin)).user == removed
    request.request_id = ""
    assert (await people.users.RemoveUser(request, metadata=admin)).user == removed
    change = pb.SetUserRolesRequest(user_id=ann.user_id, roles=[USER])
    assert await reason(people.users.SetUserRoles(change, metadata=admin)) == "NOT_FOUND"


async def test_what_is_another_tenants_does_not_exist(people: People) -> None:
    from comitia.gateway.v1 import tenant_service_pb2
    from comitia.gateway.v1.tenant_service_pb2_grpc import TenantServiceStub
    from services.meshkit.grpc.channel import channel

    user = await people.invite("ann@example.com")
    async with channel(people.gateway.target, identity=people.gateway.keys.workload("orchestrator")) as opened:
        request = tenant_service_pb2.CreateTenantRequest(name="stranger")
        made = await TenantServiceStub(opened).CreateTenant(request, metadata=await people.admin())
    exchange = identity.ExchangeApiKeyRequest(api_key=made.admin_api_key)
    token = (await people.identity.ExchangeApiKey(exchange)).access_token
    stranger = (("authorization", f"Bearer {token}"),)
    assert await emails(people, stranger) == []
    nobody = SystemIds().new("user")
    texts: set[str] = set()
    for user_id in (user.user_id, nobody):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await people.users.RemoveUser(pb.RemoveUserRequest(user_id=user_id), metadata=stranger)
        assert reason_of(raised.value) == "NOT_FOUND"
        texts.add((raised.value.details() or "").replace(user_id, "ID"))
    assert len(texts) == 1


async def test_issuers_come_and_go(people: People, provider: OidcProvider) -> None:
    admin = await people.admin()
    request = pb.CreateOidcIssuerRequest(
        issuer=provider.issuer,
        client_id=CLIENT_ID,
        trusted_domains=["Example.com"],
        default_roles=[USER],
        request_id=str(uuid4()),
    )
    made = (await people.users.CreateOidcIssuer(request, metadata=admin)).oidc_issuer
    assert (made.issuer, list(made.trusted_domains), list(made.default_roles)) == (
        provider.issuer,
        ["example.com"],
        [USER],
    )
    assert (await people.users.CreateOidcIssuer(request, metadata=admin)).oidc_issuer == made
    request.request_id = ""
    assert await reason(people.users.CreateOidcIssuer(request, metadata=admin)) == "ALREADY_EXISTS"
    assert provider.key_set_fetches == 1
    token = await id_token(provider, "ann@example.com")
    await people.login(token)

    listed = await people.users.ListOidcIssuers(pb.ListOidcIssuersRequest(), metadata=admin)
    assert list(listed.oidc_issuers) == [made]
    gone = pb.DeleteOidcIssuerRequest(oidc_issuer_id=made.oidc_issuer_id)
    await people.users.DeleteOidcIssuer(gone, metadata=admin)
    assert await reason(people.users.DeleteOidcIssuer(gone, metadata=admin)) == "NOT_FOUND"
    assert await reason(people.login(token)) == "LOGIN_REFUSED"
    assert not (await people.users.GetLoginOptions(pb.GetLoginOptionsRequest(tenant=TENANT))).options
    assert not (await people.users.GetLoginOptions(pb.GetLoginOptionsRequest(tenant="nobody\x00"))).options


@pytest.mark.parametrize(
    ("issuer", "why"),
    [
        ("http://127.0.0.1:1", "ISSUER_UNUSABLE"),
        ("http://accounts.example.com", "INVALID_FIELD"),
        ("https://127.0.0.1:1/path", "ISSUER_UNUSABLE"),
    ],
)
async def test_what_is_no_issuer_is_refused(people: People, issuer: str, why: str) -> None:
    request = pb.CreateOidcIssuerRequest(issuer=issuer, client_id="x")
    assert await reason(people.users.CreateOidcIssuer(request, metadata=await people.admin())) == why


async def test_a_tenant_has_twenty_issuers(people: People, provider: OidcProvider) -> None:
    admin = await people.admin()

    async def add(number: int) -> str:
        request = pb.CreateOidcIssuerRequest(issuer=provider.issuer, client_id=f"client-{number}")
        try:
            await people.users.CreateOidcIssuer(request, metadata=admin)
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return ""

    answers = await asyncio.gather(*(add(number) for number in range(25)))
    assert answers.count("") == 20
    assert answers.count("QUOTA_EXCEEDED") == 5
    # One fetch for all of them.
    assert provider.key_set_fetches == 1
