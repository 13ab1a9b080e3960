"""Keys and tokens through a real gRPC server and a real Postgres."""

from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest
from sqlalchemy import select, text

from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1 import tenant_service_pb2 as tenant_pb
from services.gateway.storage.tables import API_KEY
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.gateway.conftest import Face, Metadata
from tests.support.gateway import new_key_text

USER = identity_pb2.ROLE_TENANT_USER
ADMIN = identity_pb2.ROLE_ADMIN


async def a_key(face: Face, who: Metadata, **fields: object) -> pb.CreateApiKeyResponse:
    wish = {"display_name": "a key", "roles": [ADMIN], **fields}
    return await face.identity.CreateApiKey(pb.CreateApiKeyRequest(**wish), metadata=who)  # type: ignore[arg-type]


def reason_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    return error.code(), remote_error(error).reason


async def test_the_bootstrap_key_is_admin_and_operator_of_the_tenant_local(face: Face) -> None:
    me = await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=await face.admin())
    listed = await face.tenants.ListTenants(tenant_pb.ListTenantsRequest(), metadata=await face.admin())
    assert list(me.roles) == [ADMIN, identity_pb2.ROLE_OPERATOR]
    assert [(tenant.name, tenant.tenant_id) for tenant in listed.tenants] == [("local", me.tenant_id)]
    assert me.subject.removeprefix("key_") == face.gateway.admin_key.split("_")[1]


async def test_every_wrong_key_gets_the_same_answer(face: Face) -> None:
    admin = await face.admin()
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    expired, revoked = await a_key(face, admin, expire_time=soon), await a_key(face, admin)
    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=revoked.api_key.api_key_id), metadata=admin)
    while datetime.now(UTC) <= soon:
        pass
    right = face.gateway.admin_key
    wrong = ["", "ck_", "x" * 5000, "ck_' OR 1=1--_x", right[:-1] + ("0" if right[-1] != "0" else "1"), right.upper()]
    answers: set[tuple[object, ...]] = set()
    for tried in (*wrong, new_key_text(), expired.secret, revoked.secret):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await face.identity.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=tried))
        answers.add((*reason_of(raised.value), raised.value.details()))
    assert {answer[:2] for answer in answers} == {(grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")}
    assert len(answers) == 1


async def test_a_token_lives_fifteen_minutes_and_never_longer_than_its_key(face: Face) -> None:
    answer = await face.identity.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=face.gateway.admin_key))
    short = await a_key(face, await face.admin(), expire_time=datetime.now(UTC) + timedelta(minutes=1))
    bounded = await face.identity.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=short.secret))
    now = datetime.now(UTC)
    assert timedelta(minutes=14) < answer.expire_time.ToDatetime(tzinfo=UTC) - now <= timedelta(minutes=15)
    assert bounded.expire_time.ToDatetime(tzinfo=UTC) - now <= timedelta(minutes=1)


async def test_a_new_key_works_with_its_own_roles_and_is_stored_as_a_hash(face: Face) -> None:
    made = await a_key(face, await face.admin(), roles=[USER, USER], project="apollo")
    me = await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=await face.login(made.secret))
    assert (list(me.roles), me.project, me.subject) == ([USER], "apollo", made.api_key.api_key_id)
    async with sql_engine(face.gateway.urls.maintenance) as engine, maintenance_scope(engine) as scope:
        rows = (await scope.execute(select(API_KEY))).all()
    secret = made.secret.split("_")[2]
    assert secret not in repr(rows)
    assert bytes.fromhex(secret) not in b"".join(row.digest + row.salt for row in rows)


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"display_name": ""}, "INVALID_ARGUMENT", "INVALID_FIELD", "display_name"),
        ({"display_name": "x" * 101}, "INVALID_ARGUMENT", "INVALID_FIELD", "display_name"),
        ({"display_name": "a\x00b"}, "INVALID_ARGUMENT", "INVALID_FIELD", "display_name"),
        ({"roles": []}, "INVALID_ARGUMENT", "INVALID_FIELD", "roles"),
        ({"roles": [USER, 0]}, "INVALID_ARGUMENT", "INVALID_FIELD", "roles[1]"),
        ({"roles": [99]}, "INVALID_ARGUMENT", "INVALID_FIELD", "roles[0]"),
        ({"project": "x" * 101}, "INVALID_ARGUMENT", "INVALID_FIELD", "project"),
        ({"request_id": "twice"}, "INVALID_ARGUMENT", "INVALID_FIELD", "request_id"),
        ({"expire_time": datetime(2020, 1, 1, tzinfo=UTC)}, "INVALID_ARGUMENT", "INVALID_FIELD", "expire_time"),
    ],
)
async def test_a_wrong_wish_is_refused_with_its_field(
    face: Face, fields: dict[str, object], code: str, reason: str, field: str | None
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await a_key(face, await face.admin(), **fields)
    assert (raised.value.code().name, remote_error(raised.value).reason) == (code, reason)
    assert remote_error(raised.value).field == field


async def test_nobody_gives_a_role_that_may_more_than_they_do(face: Face) -> None:
    made = await face.tenants.CreateTenant(tenant_pb.CreateTenantRequest(name="acme"), metadata=await face.admin())
    acme = await face.login(made.admin_api_key)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await a_key(face, acme, roles=[ADMIN, identity_pb2.ROLE_OPERATOR])
    assert reason_of(raised.value) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_HELD")
    assert remote_error(raised.value).metadata == {"role": "operator"}


async def test_a_project_bound_caller_makes_keys_for_its_project_only(face: Face) -> None:
    bound = await face.login((await a_key(face, await face.admin(), project="apollo")).secret)
    assert (await a_key(face, bound)).api_key.project == "apollo"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await a_key(face, bound, project="gemini")
    assert remote_error(raised.value).field == "project"


async def test_for_a_project_bound_caller_there_are_the_keys_and_accounts_of_its_project_only(face: Face) -> None:
    admin = await face.admin()
    bound = await face.login((await a_key(face, admin, project="apollo")).secret)
    for project in ("", "gemini"):
        other = await a_key(face, admin, project=project)
        account = await face.identity.CreateServiceAccount(
            pb.CreateServiceAccountRequest(display_name="x", roles=[USER], project=project), metadata=admin
        )
        revoke = pb.RevokeApiKeyRequest(api_key_id=other.api_key.api_key_id, request_id=str(SystemIds().uuid()))
        disable = pb.DisableServiceAccountRequest(service_account_id=account.service_account.service_account_id)
        for call in (
            face.identity.RevokeApiKey(revoke, metadata=bound),
            face.identity.DisableServiceAccount(disable, metadata=bound),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert reason_of(raised.value) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert await face.login(other.secret)
    mine = await a_key(face, bound)
    account = await face.identity.CreateServiceAccount(
        pb.CreateServiceAccountRequest(display_name="x", roles=[USER]), metadata=bound
    )
    listed = await face.identity.ListApiKeys(pb.ListApiKeysRequest(), metadata=bound)
    assert [key.project for key in listed.api_keys] == ["apollo", "apollo"]
    accounts = await face.identity.ListServiceAccounts(pb.ListServiceAccountsRequest(), metadata=bound)
    assert list(accounts.service_accounts) == [account.service_account]
    revoke = pb.RevokeApiKeyRequest(api_key_id=mine.api_key.api_key_id)
    assert (await face.identity.RevokeApiKey(revoke, metadata=bound)).api_key.HasField("revoke_time")


async def test_a_repeated_request_answers_with_the_same_key_without_its_secret(face: Face) -> None:
    admin, request_id = await face.admin(), str(SystemIds().uuid())
    first = await a_key(face, admin, request_id=request_id)
    second = await a_key(face, admin, request_id=request_id)
    assert (second.api_key, second.secret) == (first.api_key, "")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await a_key(face, admin, request_id=request_id, display_name="another")
    assert reason_of(raised.value) == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")


async def test_a_tenant_user_may_neither_make_nor_see_keys(face: Face) -> None:
    user = await face.login((await a_key(face, await face.admin(), roles=[USER])).secret)
    for call in (
        a_key(face, user, roles=[USER]),
        face.identity.ListApiKeys(pb.ListApiKeysRequest(), metadata=user),
        face.tenants.ListTenants(tenant_pb.ListTenantsRequest(), metadata=user),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert reason_of(raised.value) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


async def test_keys_are_listed_in_pages_newest_first(face: Face) -> None:
    admin = await face.admin()
    made = [(await a_key(face, admin, display_name=f"key {n}")).api_key.api_key_id for n in range(4)]
    seen: list[str] = []
    token = ""
    while True:
        page = await face.identity.ListApiKeys(pb.ListApiKeysRequest(page_size=2, page_token=token), metadata=admin)
        seen += [key.api_key_id for key in page.api_keys]
        token = page.next_page_token
        if not token:
            break
    assert seen[:4] == made[::-1]
    assert len(seen) == 5


async def test_another_tenants_key_does_not_exist(face: Face) -> None:
    admin = await face.admin()
    made = await face.tenants.CreateTenant(tenant_pb.CreateTenantRequest(name="acme"), metadata=admin)
    acme = await face.login(made.admin_api_key)
    mine = await face.identity.ListApiKeys(pb.ListApiKeysRequest(), metadata=acme)
    assert [key.display_name for key in mine.api_keys] == ["first admin key"]
    for key_id in ((await a_key(face, admin)).api_key.api_key_id, SystemIds().new("key")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key_id), metadata=acme)
        assert reason_of(raised.value) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_revoked_key_gets_no_token_and_revoking_again_changes_nothing(face: Face) -> None:
    admin = await face.admin()
    made = await a_key(face, admin)
    await face.login(made.secret)
    request = pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id)
    first = await face.identity.RevokeApiKey(request, metadata=admin)
    second = await face.identity.RevokeApiKey(request, metadata=admin)
    assert first.api_key.HasField("revoke_time")
    assert first == second
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await face.login(made.secret)
    assert reason_of(raised.value) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")


async def test_each_change_leaves_one_audit_row(face: Face) -> None:
    admin = await face.admin()
    request_id = str(SystemIds().uuid())
    made = await a_key(face, admin, request_id=request_id)
    await a_key(face, admin, request_id=request_id)
    key_id = made.api_key.api_key_id
    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key_id), metadata=admin)
    wrong = SystemIds().new("key")
    with pytest.raises(grpc.aio.AioRpcError):
        await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=wrong), metadata=admin)
    account = await face.identity.CreateServiceAccount(
        pb.CreateServiceAccountRequest(display_name="nightly", roles=[USER]), metadata=admin
    )
    svc_id = account.service_account.service_account_id
    await face.identity.DisableServiceAccount(
        pb.DisableServiceAccountRequest(service_account_id=svc_id), metadata=admin
    )
    subject = f"key_{face.gateway.admin_key.split('_')[1]}"
    entries = text("SELECT action, target, actor, reason FROM audit_entry WHERE actor = :actor ORDER BY position")
    expected = [
        ("api_keys.write", key_id, subject, ""),
        ("api_keys.write", key_id, subject, ""),
        ("service_accounts.write", svc_id, subject, ""),
        ("service_accounts.write", svc_id, subject, ""),
    ]
    async with sql_engine(face.gateway.urls.maintenance) as engine, maintenance_scope(engine) as scope:
        rows = (await scope.execute(entries, {"actor": subject})).all()
    assert [tuple(row) for row in rows if not row.reason] == expected


async def test_a_grant_becomes_a_token_of_its_run_until_its_key_is_revoked(face: Face) -> None:
    admin = await face.admin()
    key, run = await a_key(face, admin), SystemIds().new("run")
    mine = await face.login(key.secret)
    granted = await face.identity.IssueGrant(pb.IssueGrantRequest(run_id=run), metadata=mine)
    again = await face.identity.IssueGrant(pb.IssueGrantRequest(run_id=run), metadata=mine)
    exchange = pb.ExchangeGrantRequest(grant_id=granted.grant_id, run_id=run)
    token = (await face.identity.ExchangeGrant(exchange)).access_token
    me = await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=(("authorization", f"Bearer {token}"),))
    assert again == granted
    assert (me.subject, list(me.roles)) == (key.api_key.api_key_id, [ADMIN])
    other_run = pb.ExchangeGrantRequest(grant_id=granted.grant_id, run_id=SystemIds().new("run"))
    forged = pb.ExchangeGrantRequest(grant_id=SystemIds().new("grant"), run_id=run)
    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key.api_key.api_key_id), metadata=admin)
    for request in (other_run, forged, exchange):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await face.identity.ExchangeGrant(request)
        assert reason_of(raised.value) == (grpc.StatusCode.UNAUTHENTICATED, "GRANT_INVALID")


async def test_grants_are_for_the_orchestrator_only(face: Face) -> None:
    request = pb.ExchangeGrantRequest(grant_id=SystemIds().new("grant"), run_id=SystemIds().new("run"))
    async with grpc.aio.insecure_channel(face.gateway.target) as outside:
        call = outside.unary_unary(
            "/comitia.gateway.v1.IdentityService/ExchangeGrant",
            request_serializer=pb.ExchangeGrantRequest.SerializeToString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(request)
    assert reason_of(raised.value) == (grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ALLOWED")
