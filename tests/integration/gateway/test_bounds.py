"""What one tenant may have at most: nobody fills what all tenants share."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from comitia.gateway.v1 import access_service_pb2 as access_pb
from comitia.gateway.v1 import identity_pb2, tenant_service_pb2, user_service_pb2
from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1.access_service_pb2_grpc import AccessServiceStub
from comitia.gateway.v1.user_service_pb2_grpc import UserServiceStub
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.engine import sql_engine
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.conftest import Face, Metadata
from tests.support.gateway import running_gateway

USER = identity_pb2.ROLE_TENANT_USER


@pytest.fixture
async def face(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[Face]:
    bounds: Any = {"max_api_keys": 3, "max_service_accounts": 3, "max_users": 3, "max_relation_tuples": 3}
    async with (
        running_gateway(make_migrated, tmp_path, **bounds) as gateway,
        channel(gateway.target, identity=gateway.keys.workload("orchestrator")) as opened,
    ):
        yield Face.of(gateway, opened)


async def made_of(calls: list[Any], quota: str) -> list[Any]:
    """Runs calls at one time; gives the answers of those that were not refused for this quota of three."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    made: list[Any] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            error = remote_error(answer)
            assert (error.reason, error.metadata["quota"], error.metadata["limit"]) == ("QUOTA_EXCEEDED", quota, "3")
        else:
            made.append(answer)
    return made


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return remote_error(raised.value).reason


def a_key(face: Face, who: Metadata, **fields: Any) -> Any:
    request = pb.CreateApiKeyRequest(display_name="a key", roles=[USER], **fields)
    return face.identity.CreateApiKey(request, metadata=who)


async def test_a_tenant_has_so_many_keys_that_work(face: Face) -> None:
    admin = await face.admin()
    request_id = str(SystemIds().uuid())
    first = await a_key(face, admin, request_id=request_id)
    [second] = await made_of([a_key(face, admin) for _ in range(4)], "max_api_keys")
    # A repeat makes nothing, and other tenants have bounds of their own.
    assert (await a_key(face, admin, request_id=request_id)).api_key == first.api_key
    await face.tenants.CreateTenant(tenant_service_pb2.CreateTenantRequest(name="acme"), metadata=admin)
    # What has ended does not count.
    ended = pb.RevokeApiKeyRequest(api_key_id=second.api_key.api_key_id)
    await face.identity.RevokeApiKey(ended, metadata=admin)
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    expiring = await a_key(face, admin, expire_time=soon)
    assert await refused(a_key(face, admin)) == "QUOTA_EXCEEDED"
    key_id = expiring.api_key.api_key_id
    rotated = await face.identity.RotateApiKey(pb.RotateApiKeyRequest(api_key_id=key_id), metadata=admin)
    assert rotated.secret


async def test_a_tenant_has_so_many_service_accounts(face: Face) -> None:
    admin = await face.admin()
    request = pb.CreateServiceAccountRequest(display_name="nightly", roles=[USER])

    def make() -> Any:
        return face.identity.CreateServiceAccount(request, metadata=admin)

    made = await made_of([make() for _ in range(6)], "max_service_accounts")
    assert len(made) == 3
    account_id = made[0].service_account.service_account_id
    ended = pb.DisableServiceAccountRequest(service_account_id=account_id)
    await face.identity.DisableServiceAccount(ended, metadata=admin)
    await make()
    assert await refused(make()) == "QUOTA_EXCEEDED"


async def test_a_tenant_has_so_many_users(face: Face) -> None:
    admin = await face.admin()
    users: Any = UserServiceStub(face.channel)

    def invite(name: str) -> Any:
        request = user_service_pb2.InviteUserRequest(email=f"{name}@example.com", roles=[USER])
        return users.InviteUser(request, metadata=admin)

    made = await made_of([invite(f"user{number}") for number in range(6)], "max_users")
    assert len(made) == 3
    gone = user_service_pb2.RemoveUserRequest(user_id=made[0].user.user_id)
    await users.RemoveUser(gone, metadata=admin)
    await invite("late")
    assert await refused(invite("later")) == "QUOTA_EXCEEDED"


async def test_a_tenant_has_so_many_relation_tuples(face: Face) -> None:
    admin = await face.admin()
    access: Any = AccessServiceStub(face.channel)

    def change(*names: str, gone: tuple[str, ...] = ()) -> Any:
        request = access_pb.WriteRelationsRequest(
            writes=[a_tuple(name) for name in names], deletes=[a_tuple(name) for name in gone]
        )
        return access.WriteRelations(request, metadata=admin)

    await change("ann", "bob")
    await change("ann")  # is there already, and counts once
    assert await refused(change("cleo", "dora")) == "QUOTA_EXCEEDED"
    await change("cleo")
    assert await refused(change("dora")) == "QUOTA_EXCEEDED"
    await change(gone=("ann", "nobody"))
    await change("dora")
    assert await made_of([change("emil")], "max_relation_tuples") == []
    # The count is that of the rows.
    async with sql_engine(face.gateway.urls.maintenance) as engine, engine.connect() as connection:
        count = "SELECT tuples, (SELECT count(*) FROM relation_tuple) FROM access_model"
        counted = await connection.execute(text(count))
        assert [tuple(row) for row in counted] == [(3, 3)]


def a_tuple(name: str) -> access_pb.RelationTuple:
    return access_pb.RelationTuple(user=f"user:{name}@example.com", relation="viewer", object="project:claims")
