"""Signing keys are rotated while calls run, and no call notices."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from sqlalchemy import insert, select, text

from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.orchestrator.v1 import session_service_pb2 as session_pb
from services.gateway.clients.key_box import WrappedKeyBox
from services.gateway.storage.signing_key_store import SqlSigningKeyStore, SqlWrappedSigningKeys
from services.gateway.storage.tables import SIGNING_KEY
from services.gateway.usecases.identity_ports import StoredSigningKey
from services.gateway.wiring import gateway
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import KekFile, add_kek
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.identity import TokenSigner
from services.meshkit.grpc.server import serve
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.conftest import Face, Metadata
from tests.support.gateway import NEIGHBOURS, gateway_settings, running_gateway
from tests.support.guarded_service import guarded_service, until_fed

LIST = session_pb.ListSessionsRequest()
#: Longer than it takes a verifier to look at its file again.
LEAD_SECONDS = 2.5
_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")


@pytest.fixture
async def face(make_migrated: MakeDatabase, tmp_path: Path) -> AsyncIterator[Face]:
    async with (
        running_gateway(make_migrated, tmp_path, signing_key_lead_seconds=LEAD_SECONDS) as running,
        channel(running.target, identity=running.keys.workload("orchestrator")) as opened,
    ):
        yield Face.of(running, opened)


def kid_of(metadata: Metadata) -> str:
    header = metadata[0][1].removeprefix("Bearer ").split(".")[0]
    return json.loads(base64.urlsafe_b64decode(header + "=="))["kid"]


def published(path: Path) -> list[str]:
    return sorted(key["kid"] for key in json.loads(path.read_bytes())["keys"])


async def test_a_signing_key_is_rotated_under_load_without_a_failure(face: Face) -> None:
    admin = await face.admin()
    kids: dict[str, int] = {}
    async with guarded_service(face.gateway.keys, face.gateway.target) as service:
        await until_fed(service)
        stopped = asyncio.Event()

        async def load() -> None:
            while not stopped.is_set():
                # A new key, so that no token is remembered anywhere.
                wish = pb.CreateApiKeyRequest(display_name="a", roles=[identity_pb2.ROLE_ADMIN])
                made = await face.identity.CreateApiKey(wish, metadata=admin)
                fresh = await face.login(made.secret)
                await service.sessions.ListSessions(LIST, metadata=fresh)
                await service.sessions.ListSessions(LIST, metadata=admin)
                kids[kid_of(fresh)] = kids.get(kid_of(fresh), 0) + 1
                await asyncio.sleep(0.2)

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(load())
            rotated = await face.identity.RotateSigningKey(pb.RotateSigningKeyRequest(), metadata=admin)
            # Published at once, before it signs.
            assert published(face.gateway.keys.jwks_path) == sorted(["access-1", rotated.key_id])
            while kids.get(rotated.key_id, 0) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            stopped.set()
    assert set(kids) == {"access-1", rotated.key_id}
    known = await face.identity.GetKeySet(pb.GetKeySetRequest())
    assert sorted(key.kid for key in known.keys) == sorted(["access-1", rotated.key_id])
    assert {(key.kty, key.crv, key.use, key.alg) for key in known.keys} == {("OKP", "Ed25519", "sig", "EdDSA")}


async def test_a_second_rotation_waits_for_the_first(face: Face) -> None:
    admin = await face.admin()
    request_id = str(SystemIds().uuid())
    request = pb.RotateSigningKeyRequest(request_id=request_id)
    first = await face.identity.RotateSigningKey(request, metadata=admin)
    assert await face.identity.RotateSigningKey(request, metadata=admin) == first
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await face.identity.RotateSigningKey(pb.RotateSigningKeyRequest(), metadata=admin)
    error = remote_error(refused.value)
    assert (refused.value.code(), error.reason) == (grpc.StatusCode.ABORTED, "ROTATION_IN_PROGRESS")


async def test_only_an_operator_rotates(face: Face) -> None:
    wish = pb.CreateApiKeyRequest(display_name="a", roles=[identity_pb2.ROLE_ADMIN])
    made = await face.identity.CreateApiKey(wish, metadata=await face.admin())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await face.identity.RotateSigningKey(pb.RotateSigningKeyRequest(), metadata=await face.login(made.secret))
    assert remote_error(refused.value).metadata["permission"] == "signing_keys.write"


async def test_private_keys_are_stored_wrapped_and_survive_a_restart(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        running_gateway(make_migrated, tmp_path, signing_key_lead_seconds=1.0) as running,
        channel(running.target, identity=running.keys.workload("orchestrator")) as opened,
    ):
        face = Face.of(running, opened)
        rotated = await face.identity.RotateSigningKey(pb.RotateSigningKeyRequest(), metadata=await face.admin())
        async with sql_engine(running.urls.maintenance) as engine, maintenance_scope(engine) as scope:
            rows = (await scope.execute(select(SIGNING_KEY))).all()
        private = running.keys.access_key.private.private_bytes_raw()
        assert private not in b"".join(row.sealed for row in rows)
        settings = gateway_settings(
            tmp_path, running.keys, running.urls, targets={f"{name}_target": "127.0.0.1:1" for name in NEIGHBOURS}
        )
        async with asyncio.timeout(5):
            while datetime.now(UTC) < rotated.sign_time.ToDatetime(tzinfo=UTC):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with (
            gateway(settings, clock=SystemClock(), ids=SystemIds()) as server,
            serve(server) as second,
            channel(f"127.0.0.1:{second.port}", identity=running.keys.workload("orchestrator")) as to_second,
        ):
            answer = await IdentityServiceStub(to_second).ExchangeApiKey(
                pb.ExchangeApiKeyRequest(api_key=running.admin_key)
            )
            assert kid_of((("authorization", f"Bearer {answer.access_token}"),)) == rotated.key_id


async def test_gateways_that_start_together_bring_one_first_key(make_migrated: MakeDatabase) -> None:
    urls = await make_migrated("gateway")
    first = StoredSigningKey(kid="first", public=b"p" * 32, sealed=b"of one", sign_time=datetime.now(UTC))
    async with sql_engine(urls.maintenance) as engine, sql_engine(urls.maintenance) as other:
        async with maintenance_scope(other) as scope:
            await scope.execute(insert(SIGNING_KEY).values(asdict(first)))
            # Waits for the one above, of which it sees nothing.
            second = asyncio.create_task(SqlSigningKeyStore(engine).add_first(replace(first, sealed=b"of the other")))
            async with asyncio.timeout(10):
                while not (await scope.execute(_WAITING)).scalar_one():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await scope.commit()
        await second
        assert [key.sealed for key in await SqlSigningKeyStore(engine).all()] == [b"of one"]


async def test_signing_keys_follow_the_key_that_wraps_them(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    async with running_gateway(make_migrated, tmp_path) as running, sql_engine(running.urls.maintenance) as engine:
        store = SqlWrappedSigningKeys(engine)
        add_kek(tmp_path / "kek")
        wrapper = await KekFile.read(tmp_path / "kek")
        assert await store.count_otherwise(await wrapper.mark()) == 1
        assert await Rewrap(store, wrapper, service="gateway", clock=SystemClock()).sweep() == 1
        assert await store.count_otherwise(await wrapper.mark()) == 0
        box = WrappedKeyBox(
            wrapper,
            make_signer=lambda key: TokenSigner(key, clock=SystemClock()),
            read_first=lambda: running.keys.access_key,
        )
        for key in await SqlSigningKeyStore(engine).all():
            await box.signer(key.kid, key.sealed)


async def test_a_machine_without_the_file_verifies_by_what_the_gateway_says(face: Face, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with guarded_service(
        face.gateway.keys, face.gateway.target, jwks_path=elsewhere / "jwks.json", jwks_from_gateway=True
    ) as service:
        started = time.monotonic()
        await service.sessions.ListSessions(LIST, metadata=await face.admin())
        assert time.monotonic() - started < timedelta(seconds=5).total_seconds()
    assert published(elsewhere / "jwks.json") == ["access-1"]
