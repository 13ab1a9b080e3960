"""Keys that are narrowed, rotated, used and made for service accounts."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1 import tenant_service_pb2 as tenant_pb
from services.gateway.storage.key_uses import SqlKeyUses
from services.gateway.usecases.key_uses import KeyUses
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.engine import sql_engine
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.gateway.conftest import Face, Metadata

ADMIN = identity_pb2.ROLE_ADMIN
AUDITOR = identity_pb2.ROLE_AUDITOR
OPERATOR = identity_pb2.ROLE_OPERATOR
USER = identity_pb2.ROLE_TENANT_USER


async def a_key(face: Face, who: Metadata, **fields: Any) -> pb.CreateApiKeyResponse:
    wish: dict[str, Any] = {
        "display_name": "a key",
        "roles": [] if "service_account_id" in fields else [ADMIN],
        **fields,
    }
    return await face.identity.CreateApiKey(pb.CreateApiKeyRequest(**wish), metadata=who)


async def an_account(face: Face, who: Metadata, **fields: Any) -> identity_pb2.ServiceAccount:
    wish: dict[str, Any] = {"display_name": "nightly", "roles": [AUDITOR], **fields}
    request = pb.CreateServiceAccountRequest(**wish)
    return (await face.identity.CreateServiceAccount(request, metadata=who)).service_account


async def refused(call: Any) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return remote_error(raised.value)


async def test_a_narrowed_key_may_only_what_its_scopes_name(face: Face) -> None:
    made = await a_key(face, await face.admin(), scopes=["identity.read", "api_keys.read", "identity.read"])
    assert list(made.api_key.scopes) == ["api_keys.read", "identity.read"]
    narrowed = await face.login(made.secret)
    await face.identity.ListApiKeys(pb.ListApiKeysRequest(), metadata=narrowed)
    error = await refused(a_key(face, narrowed))
    assert (error.reason, error.metadata["permission"]) == ("PERMISSION_MISSING", "api_keys.write")


@pytest.mark.parametrize(
    ("roles", "scopes", "field"),
    [([USER], ["sessions.read", "api_keys.write"], "scopes[1]"), ([ADMIN], ["everything"], "scopes[0]")],
)
async def test_a_scope_that_the_roles_do_not_grant_is_refused(
    face: Face, roles: list[Any], scopes: list[str], field: str
) -> None:
    error = await refused(a_key(face, await face.admin(), roles=roles, scopes=scopes))
    assert (error.reason, error.field) == ("INVALID_FIELD", field)


async def test_a_narrowed_caller_makes_no_key_that_may_more(face: Face) -> None:
    narrowed = await face.login(
        (await a_key(face, await face.admin(), scopes=["api_keys.write", "sessions.read"])).secret
    )
    assert (await refused(a_key(face, narrowed))).reason == "ROLE_NOT_HELD"
    assert (await refused(a_key(face, narrowed, scopes=["sessions.read", "costs.read"]))).reason == "ROLE_NOT_HELD"
    await a_key(face, narrowed, scopes=["sessions.read"])


async def test_a_rotated_key_has_a_new_secret_and_the_old_one_works_for_the_overlap(face: Face) -> None:
    admin = await face.admin()
    made = await a_key(face, admin)
    key_id = made.api_key.api_key_id
    await face.login(made.secret)

    request = pb.RotateApiKeyRequest(api_key_id=key_id, overlap_seconds=1, request_id=str(SystemIds().uuid()))
    rotated = await face.identity.RotateApiKey(request, metadata=admin)
    old_ends = rotated.api_key.previous_secret_expire_time.ToDatetime(tzinfo=UTC)
    assert rotated.secret.split("_")[1] == made.secret.split("_")[1]
    assert rotated.secret != made.secret
    await face.login(rotated.secret)
    await face.login(made.secret)
    again = await face.identity.RotateApiKey(request, metadata=admin)
    assert (again.api_key, again.secret) == (rotated.api_key, "")

    async with asyncio.timeout(8):  # a verified key is remembered for up to 5 s
        await until(lambda: fails(face, made.secret))
    assert datetime.now(UTC) >= old_ends
    await face.login(rotated.secret)


async def until(told: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await told():
            return
        await asyncio.sleep(0.02)


async def fails(face: Face, secret: str) -> bool:
    try:
        await face.login(secret)
    except grpc.aio.AioRpcError:
        return True
    return False


async def test_without_an_overlap_the_old_secret_ends_at_once(face: Face) -> None:
    admin = await face.admin()
    made = await a_key(face, admin)
    await face.login(made.secret)
    key = pb.RotateApiKeyRequest(api_key_id=made.api_key.api_key_id)
    rotated = await face.identity.RotateApiKey(key, metadata=admin)
    assert await fails(face, made.secret)
    assert not rotated.api_key.HasField("previous_secret_expire_time")
    await face.login(rotated.secret)


@pytest.mark.parametrize("speaks", ["for itself", "for an account"])
async def test_without_an_overlap_tokens_of_the_old_secret_end_and_new_ones_work_at_once(
    face: Face, speaks: str
) -> None:
    admin = await face.admin()
    fields: dict[str, Any] = {"roles": [USER]}
    if speaks == "for an account":
        fields = {"service_account_id": (await an_account(face, admin, roles=[USER])).service_account_id}
    made, other = [await a_key(face, admin, **fields) for _ in range(2)]
    old, apart = await face.login(made.secret), await face.login(other.secret)
    run = SystemIds().new("run")
    issued = await face.identity.IssueGrant(pb.IssueGrantRequest(run_id=run), metadata=old)
    exchange = pb.ExchangeGrantRequest(grant_id=issued.grant_id, run_id=run)
    of_run = bearer(await face.identity.ExchangeGrant(exchange))

    key = pb.RotateApiKeyRequest(api_key_id=made.api_key.api_key_id, overlap_seconds=60)
    overlapping = await face.identity.RotateApiKey(key, metadata=admin)
    both = [await face.login(secret) for secret in (made.secret, overlapping.secret)]
    assert not any([await is_revoked(face, token) for token in (old, *both)])
    key.overlap_seconds = 0
    rotated = await face.identity.RotateApiKey(key, metadata=admin)
    new = await face.login(rotated.secret)
    async with asyncio.timeout(5):
        for token in (old, *both, of_run):
            await until(lambda token=token: is_revoked(face, token))
    assert not await is_revoked(face, new)
    assert not await is_revoked(face, apart)
    # The key goes on, and with it the run.
    assert not await is_revoked(face, bearer(await face.identity.ExchangeGrant(exchange)))

    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key.api_key_id), metadata=admin)
    async with asyncio.timeout(5):
        await until(lambda: is_revoked(face, new))


async def test_what_cannot_be_rotated_says_why(face: Face) -> None:
    admin = await face.admin()
    made = await a_key(face, admin)
    key_id = made.api_key.api_key_id

    async def rotate(who: Metadata = admin, **fields: Any) -> pb.RotateApiKeyResponse:
        wish: dict[str, Any] = {"api_key_id": key_id, **fields}
        return await face.identity.RotateApiKey(pb.RotateApiKeyRequest(**wish), metadata=who)

    for seconds in (-1, 604_801):
        assert (await refused(rotate(overlap_seconds=seconds))).field == "overlap_seconds"
    assert (await refused(rotate(api_key_id=SystemIds().new("key")))).reason == "NOT_FOUND"
    other = await face.tenants.CreateTenant(tenant_pb.CreateTenantRequest(name="acme"), metadata=admin)
    assert (await refused(rotate(await face.login(other.admin_api_key)))).reason == "NOT_FOUND"
    # The bootstrap key is an operator's too: who is none cannot take it over by a new secret.
    bootstrap = f"key_{face.gateway.admin_key.split('_')[1]}"
    plain_admin = await face.login((await a_key(face, admin)).secret)
    assert (await refused(rotate(plain_admin, api_key_id=bootstrap))).reason == "ROLE_NOT_HELD"
    bound = await face.login((await a_key(face, admin, project="apollo")).secret)
    assert (await refused(rotate(bound))).reason == "NOT_FOUND"
    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key_id), metadata=admin)
    assert (await refused(rotate())).reason == "API_KEY_ENDED"


async def test_a_service_account_lends_its_keys_its_name_roles_and_project(face: Face) -> None:
    admin = await face.admin()
    account = await an_account(face, admin, project="apollo")
    made = await a_key(face, admin, service_account_id=account.service_account_id)
    assert (list(made.api_key.roles), made.api_key.project) == ([AUDITOR], "apollo")
    me = await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=await face.login(made.secret))
    assert (me.subject, list(me.roles), me.project) == (account.service_account_id, [AUDITOR], "apollo")


async def test_disabling_an_account_ends_all_its_keys_and_their_tokens(face: Face) -> None:
    admin = await face.admin()
    account = await an_account(face, admin)
    keys = [await a_key(face, admin, service_account_id=account.service_account_id) for _ in range(2)]
    tokens = [await face.login(key.secret) for key in keys]
    request = pb.DisableServiceAccountRequest(service_account_id=account.service_account_id)
    disabled = (await face.identity.DisableServiceAccount(request, metadata=admin)).service_account
    assert disabled.HasField("disable_time")
    assert (await face.identity.DisableServiceAccount(request, metadata=admin)).service_account == disabled
    assert all([await fails(face, key.secret) for key in keys])
    listed = await face.identity.ListApiKeys(pb.ListApiKeysRequest(), metadata=admin)
    assert [key.HasField("revoke_time") for key in listed.api_keys] == [True, True, False]
    async with asyncio.timeout(5):
        for token in tokens:
            await until(lambda token=token: is_revoked(face, token))
    error = await refused(a_key(face, admin, service_account_id=account.service_account_id))
    assert error.reason == "SERVICE_ACCOUNT_DISABLED"


async def is_revoked(face: Face, token: Metadata) -> bool:
    try:
        await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=token)
    except grpc.aio.AioRpcError as error:
        return remote_error(error).reason == "TOKEN_REVOKED"
    return False


async def test_revoking_one_key_of_an_account_leaves_the_others(face: Face) -> None:
    admin = await face.admin()
    account = await an_account(face, admin)
    one, two = [await a_key(face, admin, service_account_id=account.service_account_id) for _ in range(2)]
    ended, kept = await face.login(one.secret), await face.login(two.secret)
    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=one.api_key.api_key_id), metadata=admin)
    async with asyncio.timeout(5):
        await until(lambda: is_revoked(face, ended))
    assert not await is_revoked(face, kept)
    await face.login(two.secret)


async def test_revoking_one_key_of_an_account_ends_the_runs_that_were_started_with_it(face: Face) -> None:
    admin = await face.admin()
    account = await an_account(face, admin, roles=[USER])
    one, two = [await a_key(face, admin, service_account_id=account.service_account_id) for _ in range(2)]
    requests: list[pb.ExchangeGrantRequest] = []
    for key in (one, two):
        run = SystemIds().new("run")
        issued = await face.identity.IssueGrant(pb.IssueGrantRequest(run_id=run), metadata=await face.login(key.secret))
        requests.append(pb.ExchangeGrantRequest(grant_id=issued.grant_id, run_id=run))
    tokens = [bearer(await face.identity.ExchangeGrant(request)) for request in requests]
    for token in tokens:
        me = await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=token)
        assert (me.subject, list(me.roles)) == (account.service_account_id, [USER])

    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=one.api_key.api_key_id), metadata=admin)
    assert (await refused(face.identity.ExchangeGrant(requests[0]))).reason == "GRANT_INVALID"
    async with asyncio.timeout(5):
        await until(lambda: is_revoked(face, tokens[0]))
    assert not await is_revoked(face, tokens[1])
    # A run goes on as it began: a second grant for it is the first one, whoever asks.
    again = pb.IssueGrantRequest(run_id=requests[0].run_id)
    issued = await face.identity.IssueGrant(again, metadata=await face.login(two.secret))
    assert issued.grant_id == requests[0].grant_id

    await face.identity.ExchangeGrant(requests[1])
    disable = pb.DisableServiceAccountRequest(service_account_id=account.service_account_id)
    await face.identity.DisableServiceAccount(disable, metadata=admin)
    assert (await refused(face.identity.ExchangeGrant(requests[1]))).reason == "GRANT_INVALID"


def bearer(answer: pb.ExchangeGrantResponse) -> Metadata:
    return (("authorization", f"Bearer {answer.access_token}"),)


async def test_a_token_of_a_run_ends_with_the_key_that_started_it(face: Face) -> None:
    admin = await face.admin()
    account = await an_account(face, admin, roles=[USER])
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(minutes=2))
    for fields in ({"roles": [USER]}, {"service_account_id": account.service_account_id}):
        key = await a_key(face, admin, expire_time=soon, **fields)
        run = SystemIds().new("run")
        who = await face.login(key.secret)
        issued = await face.identity.IssueGrant(pb.IssueGrantRequest(run_id=run), metadata=who)
        request = pb.ExchangeGrantRequest(grant_id=issued.grant_id, run_id=run)
        assert (await face.identity.ExchangeGrant(request)).expire_time == soon


async def test_nobody_makes_an_account_or_a_key_of_one_that_may_more_than_they_do(face: Face) -> None:
    admin = await face.admin()
    plain_admin = await face.login((await a_key(face, admin)).secret)
    assert (await refused(an_account(face, plain_admin, roles=[OPERATOR]))).reason == "ROLE_NOT_HELD"
    operators = await an_account(face, admin, roles=[OPERATOR])
    taken = a_key(face, plain_admin, service_account_id=operators.service_account_id)
    assert (await refused(taken)).reason == "ROLE_NOT_HELD"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"roles": [AUDITOR]}, "roles"), ({"project": "apollo"}, "project"), ({"service_account_id": "svc_x"}, None)],
)
async def test_a_key_of_an_account_takes_nothing_beside_it(
    face: Face, fields: dict[str, Any], field: str | None
) -> None:
    admin = await face.admin()
    account = await an_account(face, admin)
    error = await refused(a_key(face, admin, **{"service_account_id": account.service_account_id, **fields}))
    assert (error.reason, error.field) == ("INVALID_FIELD", field or "service_account_id")


async def test_accounts_are_listed_newest_first_and_are_the_tenants_own(face: Face) -> None:
    admin = await face.admin()
    made = [(await an_account(face, admin)).service_account_id for _ in range(3)]
    request_id = str(SystemIds().uuid())
    repeated = {(await an_account(face, admin, request_id=request_id)).service_account_id for _ in range(2)}
    assert len(repeated) == 1
    first = await face.identity.ListServiceAccounts(pb.ListServiceAccountsRequest(page_size=3), metadata=admin)
    rest = pb.ListServiceAccountsRequest(page_size=3, page_token=first.next_page_token)
    second = await face.identity.ListServiceAccounts(rest, metadata=admin)
    listed = [account.service_account_id for page in (first, second) for account in page.service_accounts]
    assert listed == [*repeated, *reversed(made)]
    assert second.next_page_token == ""
    other = await face.tenants.CreateTenant(tenant_pb.CreateTenantRequest(name="acme"), metadata=admin)
    stranger = await face.login(other.admin_api_key)
    found = await face.identity.ListServiceAccounts(pb.ListServiceAccountsRequest(), metadata=stranger)
    assert list(found.service_accounts) == []
    theirs = pb.DisableServiceAccountRequest(service_account_id=made[0])
    assert (await refused(face.identity.DisableServiceAccount(theirs, metadata=stranger))).reason == "NOT_FOUND"
    assert (await refused(a_key(face, stranger, service_account_id=made[0]))).reason == "NOT_FOUND"


async def test_the_last_use_of_a_key_is_kept_to_the_minute_and_never_goes_back(face: Face) -> None:
    admin = await face.admin()
    me = await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=admin)
    made = await a_key(face, admin)
    tenant, key = TenantId(to_uuid(me.tenant_id, "tenant")), to_uuid(made.api_key.api_key_id, "key")
    clock = FakeClock(datetime(2031, 1, 1, 12, 30, 45, tzinfo=UTC))
    async with sql_engine(face.gateway.urls.app) as engine:
        uses = KeyUses(SqlKeyUses(engine), clock=clock)
        uses.used(tenant, key)
        uses.used(tenant, key)
        await uses.write()
        await SqlKeyUses(engine).keep({(tenant, key): clock.now() - timedelta(hours=1)})
    listed = await face.identity.ListApiKeys(pb.ListApiKeysRequest(), metadata=admin)
    assert listed.api_keys[0].last_use_time.ToDatetime(tzinfo=UTC) == datetime(2031, 1, 1, 12, 30, tzinfo=UTC)
    assert not made.api_key.HasField("last_use_time")
