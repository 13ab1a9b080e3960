"""People sign in through a real gRPC server, a real Postgres and a real OpenID Connect provider."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest

from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as identity
from comitia.gateway.v1 import tenant_service_pb2 as tenant_pb
from comitia.gateway.v1 import user_service_pb2 as pb
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.gateway.v1.tenant_service_pb2_grpc import TenantServiceStub
from comitia.gateway.v1.user_service_pb2_grpc import UserServiceStub
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.channel import channel
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.people.conftest import TENANT, Metadata, People, Shifted, bearer, id_token, reason_of
from tests.support.gateway import running_gateway
from tests.support.issuers import RSA, claims, signed
from tests.support.oidc_provider import CLIENT_ID, OidcProvider, running_oidc_provider


async def refused(people: People, token: str, tenant: str = TENANT) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await people.login(token, tenant)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return f"{reason_of(raised.value)}: {raised.value.details()}"


async def test_an_invited_person_comes_in_and_nobody_else(people: People, provider: OidcProvider) -> None:
    await people.trust(provider.issuer)
    invited = await people.invite("Ann@Example.com", "ROLE_AUDITOR")
    who = await people.login(await id_token(provider, "ann@example.com"))

    me = await people.me(who)
    assert (me.subject, me.email, list(me.roles)) == (invited.user_id, "ann@example.com", [identity_pb2.ROLE_AUDITOR])
    listed = await people.users.ListUsers(pb.ListUsersRequest(), metadata=who)
    assert [(user.email, user.HasField("last_login_time")) for user in listed.users] == [("ann@example.com", True)]
    options = await people.users.GetLoginOptions(pb.GetLoginOptionsRequest(tenant=TENANT))
    assert [(option.issuer, option.client_id) for option in options.options] == [(provider.issuer, CLIENT_ID)]

    stranger = await refused(people, await id_token(provider, "eve@example.com"))
    unverified = await refused(people, await id_token(provider, "unverified@example.com"))
    elsewhere = await refused(people, await id_token(provider, "ann@example.com"), tenant="nowhere")
    forged = await refused(people, signed(claims(iss=provider.issuer, aud=CLIENT_ID), key=RSA))
    assert {stranger, unverified, elsewhere, forged, await refused(people, ""), await refused(people, "x" * 9000)} == {
        stranger
    }
    assert stranger.startswith("LOGIN_REFUSED: ")


@pytest.mark.parametrize("algorithm", ["PS256", "ES256", "EdDSA"])
async def test_providers_sign_in_their_own_way(people: People, tmp_path: Path, algorithm: str) -> None:
    with running_oidc_provider(tmp_path, algorithm=algorithm) as provider:
        await people.trust(provider.issuer)
        await people.invite("ann@example.com")
        assert (await people.me(await people.login(await id_token(provider, "ann@example.com")))).email


async def test_a_trusted_domain_needs_no_invitation_but_removal_holds(people: People, provider: OidcProvider) -> None:
    await people.trust(provider.issuer, trusted_domains=["Example.com"], default_roles=["ROLE_TENANT_USER"])
    ann = await id_token(provider, "ann@example.com")
    both = await asyncio.gather(people.login(ann), people.login(ann))
    subjects = {(await people.me(who)).subject for who in both}
    assert len(subjects) == 1
    await refused(people, await id_token(provider, "ann@sub.example.com"))

    admin = await people.admin()
    await people.users.RemoveUser(pb.RemoveUserRequest(user_id=subjects.pop()), metadata=admin)
    await refused(people, ann)
    again = await people.invite("ann@example.com", "ROLE_AUDITOR")
    assert (await people.me(await people.login(ann))).subject == again.user_id


async def test_an_address_that_is_given_to_somebody_else_lets_nobody_in(people: People, provider: OidcProvider) -> None:
    await people.trust(provider.issuer)
    await people.invite("ann@example.com")
    await people.login(await id_token(provider, "ann@example.com"))
    # The same address, verified by the same issuer, but another account there.
    [key] = provider.keys
    now = int(time.time())
    said = claims(iss=provider.issuer, aud=CLIENT_ID, sub="another", email="ann@example.com", iat=now, exp=now + 300)
    token = signed(said, key=key, header={"alg": "RS256", "kid": key.kid})
    assert (await refused(people, token)).startswith("LOGIN_REFUSED")


async def wait_for(test: Callable[[], Awaitable[bool]], *, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not await test():  # noqa: ASYNC110  # another task tells nobody
            await asyncio.sleep(0.05)


async def test_tokens_from_before_a_change_of_roles_end_within_five_seconds(
    people: People, provider: OidcProvider
) -> None:
    await people.trust(provider.issuer)
    user = await people.invite("ann@example.com", "ROLE_ADMIN")
    token = await id_token(provider, "ann@example.com")
    before = await people.login(token)
    admin = await people.admin()
    request = pb.SetUserRolesRequest(user_id=user.user_id, roles=[identity_pb2.ROLE_AUDITOR])
    await people.users.SetUserRoles(request, metadata=admin)

    async def ended(who: tuple[tuple[str, str], ...]) -> bool:
        try:
            await people.me(who)
        except grpc.aio.AioRpcError as error:
            return reason_of(error) == "TOKEN_REVOKED"
        return False

    await wait_for(lambda: ended(before))
    after = await people.login(token)
    assert list((await people.me(after)).roles) == [identity_pb2.ROLE_AUDITOR]
    await people.users.RemoveUser(pb.RemoveUserRequest(user_id=user.user_id), metadata=admin)
    await wait_for(lambda: ended(after))
    await refused(people, token)


async def test_an_issuer_gives_no_role_that_its_maker_could_not_give(people: People, provider: OidcProvider) -> None:
    await people.invite("otto@example.com", "ROLE_OPERATOR")
    olga = await people.invite("olga@example.com", "ROLE_AUDITOR")
    _, plain = await people.key()
    request = pb.CreateOidcIssuerRequest(issuer=provider.issuer, client_id=CLIENT_ID)
    added = (await people.users.CreateOidcIssuer(request, metadata=plain)).oidc_issuer
    assert identity_pb2.ROLE_OPERATOR not in added.most_roles
    # Whoever controls the issuer says whom they like to be, with a verified address.
    otto, as_olga = [await id_token(provider, f"{name}@example.com") for name in ("otto", "olga")]
    assert (await refused(people, otto)).startswith("LOGIN_REFUSED")
    # The role is given after the issuer was added.
    admin = await people.admin()
    roles = [identity_pb2.ROLE_OPERATOR, identity_pb2.ROLE_AUDITOR]
    await people.users.SetUserRoles(pb.SetUserRolesRequest(user_id=olga.user_id, roles=roles), metadata=admin)
    assert roles_in(await people.login(as_olga)) == ["auditor"]

    gone = pb.DeleteOidcIssuerRequest(oidc_issuer_id=added.oidc_issuer_id)
    await people.users.DeleteOidcIssuer(gone, metadata=plain)
    assert identity_pb2.ROLE_OPERATOR in (await people.trust(provider.issuer)).most_roles
    assert roles_in(await people.login(otto)) == ["operator"]
    assert roles_in(await people.login(as_olga)) == ["auditor", "operator"]


def roles_in(who: Metadata) -> list[str]:
    """Reads the roles out of a token."""
    part = who[0][1].split(".")[1]
    return sorted(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["roles"])


async def test_nobody_signs_in_to_a_tenant_that_is_suspended(people: People, provider: OidcProvider) -> None:
    admin = await people.admin()
    async with channel(people.gateway.target, identity=people.gateway.keys.workload("orchestrator")) as opened:
        tenants = TenantServiceStub(opened)
        made = await tenants.CreateTenant(tenant_pb.CreateTenantRequest(name="acme"), metadata=admin)
        key = identity.ExchangeApiKeyRequest(api_key=made.admin_api_key)
        theirs = bearer((await people.identity.ExchangeApiKey(key)).access_token)
        request = pb.CreateOidcIssuerRequest(issuer=provider.issuer, client_id=CLIENT_ID)
        await people.users.CreateOidcIssuer(request, metadata=theirs)
        invitation = pb.InviteUserRequest(email="ann@example.com", roles=[identity_pb2.ROLE_AUDITOR])
        await people.users.InviteUser(invitation, metadata=theirs)
        ann = await id_token(provider, "ann@example.com")
        await people.login(ann, "acme")

        suspend = tenant_pb.SuspendTenantRequest(tenant_id=made.tenant.tenant_id)
        await tenants.SuspendTenant(suspend, metadata=admin)
        assert (await refused(people, ann, "acme")).startswith("LOGIN_REFUSED")
        resume = tenant_pb.ResumeTenantRequest(tenant_id=made.tenant.tenant_id)
        await tenants.ResumeTenant(resume, metadata=admin)
        await people.login(ann, "acme")


async def test_an_outage_of_the_provider_is_outlived_for_the_stated_time(
    people: People, provider: OidcProvider, clock: Shifted
) -> None:
    await people.trust(provider.issuer)
    await people.invite("ann@example.com")
    token = await id_token(provider, "ann@example.com")
    provider.stop()
    await people.login(token)
    assert provider.key_set_fetches == 1

    clock.ahead = 86_401
    [key] = provider.keys
    now = int(clock.now().timestamp())
    said = claims(iss=provider.issuer, sub="ann@example.com", iat=now, exp=now + 300)
    late = signed(said, key=key, header={"alg": "RS256", "kid": key.kid})
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await people.login(late)
    assert (raised.value.code(), reason_of(raised.value)) == (grpc.StatusCode.UNAVAILABLE, "ISSUER_UNAVAILABLE")
    provider.start()
    clock.ahead += 10
    await people.login(late)


@pytest.mark.parametrize("keep", [True, False])
async def test_rotation_is_found_and_a_flood_of_unknown_keys_costs_one_fetch_in_ten_seconds(
    people: People, provider: OidcProvider, clock: Shifted, keep: bool
) -> None:
    await people.trust(provider.issuer)
    await people.invite("ann@example.com")
    old = await id_token(provider, "ann@example.com")
    await people.login(old)
    provider.stop()
    provider.rotate(keep=keep)
    provider.start()
    new = await id_token(provider, "ann@example.com")
    flood = [signed(claims(iss=provider.issuer), header={"alg": "RS256", "kid": f"k{n}"}) for n in range(200)]

    async def all_refused() -> bool:
        answers = await asyncio.gather(*(people.login(token) for token in flood), return_exceptions=True)
        return all(isinstance(one, grpc.aio.AioRpcError) for one in answers)

    assert await all_refused()
    assert provider.key_set_fetches == 1  # fetched less than ten seconds ago, when the issuer was added
    clock.ahead += 11
    assert await all_refused()
    assert provider.key_set_fetches == 2
    await people.login(new)
    if keep:
        await people.login(old)
    else:
        await refused(people, old)
    assert provider.key_set_fetches == 2


async def test_a_grant_of_a_person_lasts_until_they_are_removed(people: People, provider: OidcProvider) -> None:
    await people.trust(provider.issuer)
    user = await people.invite("ann@example.com", "ROLE_ADMIN")
    who = await people.login(await id_token(provider, "ann@example.com"))
    run = SystemIds().new("run")
    grant = (await people.identity.IssueGrant(identity.IssueGrantRequest(run_id=run), metadata=who)).grant_id
    request = identity.ExchangeGrantRequest(grant_id=grant, run_id=run)
    working = bearer((await people.identity.ExchangeGrant(request)).access_token)
    me = await people.me(working)
    assert (me.subject, me.email, list(me.roles)) == (user.user_id, "ann@example.com", [identity_pb2.ROLE_ADMIN])

    admin = await people.admin()
    await people.users.RemoveUser(pb.RemoveUserRequest(user_id=user.user_id), metadata=admin)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await people.identity.ExchangeGrant(request)
    assert reason_of(raised.value) == "GRANT_INVALID"


async def test_nobody_joins_a_tenant_beyond_its_bound(
    make_migrated: MakeDatabase, tmp_path: Path, provider: OidcProvider
) -> None:
    async with (
        running_gateway(make_migrated, tmp_path, oidc_reach_local="everybody", max_users=2) as gateway,
        channel(gateway.target, identity=gateway.keys.workload("orchestrator")) as opened,
    ):
        people = People(gateway, UserServiceStub(opened), IdentityServiceStub(opened))
        await people.trust(provider.issuer, trusted_domains=["example.com"], default_roles=["ROLE_TENANT_USER"])
        tokens = [await id_token(provider, f"{name}@example.com") for name in ("ann", "bob", "cleo")]
        answers = await asyncio.gather(*(people.login(token) for token in tokens), return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert [reason_of(refusal) for refusal in refusals] == ["LOGIN_REFUSED"]
        # Who is in comes in again.
        for token, answer in zip(tokens, answers, strict=True):
            if not isinstance(answer, BaseException):
                await people.login(token)
