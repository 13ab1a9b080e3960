"""What was revoked or suspended at the gateway is refused by another service within seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from sqlalchemy import text

from comitia.gateway.v1 import guard_feed_service_pb2 as feed_pb
from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as pb
from comitia.gateway.v1.guard_feed_service_pb2_grpc import GuardFeedServiceStub
from comitia.gateway.v1.identity_service_pb2_grpc import IdentityServiceStub
from comitia.orchestrator.v1 import session_service_pb2 as session_pb
from services.gateway.wiring import gateway
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.errors import remote_error
from services.meshkit.grpc.server import serve
from services.meshkit.sql.engine import sql_engine
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.conftest import Face, Metadata
from tests.support.gateway import NEIGHBOURS, gateway_settings, running_gateway
from tests.support.guarded_service import guarded_service, until_fed

ADMIN = identity_pb2.ROLE_ADMIN
LIST = session_pb.ListSessionsRequest()


async def a_key(face: Face, who: Metadata, **fields: object) -> pb.CreateApiKeyResponse:
    wish = {"display_name": "a key", "roles": [ADMIN], **fields}
    return await face.identity.CreateApiKey(pb.CreateApiKeyRequest(**wish), metadata=who)  # type: ignore[arg-type]


async def seconds_until_refused(
    call: Callable[[], Awaitable[object]], reason: str, *, within_seconds: float = 5.0
) -> float:
    """Calls until it is refused for this reason; gives the seconds that took."""
    started = time.monotonic()
    async with asyncio.timeout(within_seconds):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                refused = remote_error(error)
                break
            await asyncio.sleep(0.005)
    assert refused.reason == reason
    return time.monotonic() - started


async def set_state(face: Face, tenant: str, state: str) -> None:
    """Moves a tenant, as the database sees it."""
    # The owner of the tables is bound by row-level security too.
    for statement in (
        "ALTER TABLE tenant NO FORCE ROW LEVEL SECURITY",
        "UPDATE tenant SET state = :state WHERE name = :name",
        "ALTER TABLE tenant FORCE ROW LEVEL SECURITY",
    ):
        async with sql_engine(face.gateway.urls.migrator) as engine, engine.begin() as connection:
            await connection.execute(text(statement), {"state": state, "name": tenant} if ":" in statement else {})


async def test_tokens_of_a_revoked_key_are_refused_within_a_second_and_its_streams_end(face: Face) -> None:
    admin = await face.admin()
    made = await a_key(face, admin)
    token = await face.login(made.secret)
    async with guarded_service(face.gateway.keys, face.gateway.target) as service:
        await until_fed(service)
        await service.sessions.ListSessions(LIST, metadata=token)
        stream = service.sessions.WatchSession(session_pb.WatchSessionRequest(), metadata=token)
        assert (await stream.read()).sequence == 1
        others = service.sessions.WatchSession(session_pb.WatchSessionRequest(), metadata=admin)
        assert (await others.read()).sequence == 1

        await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id), metadata=admin)

        took = await seconds_until_refused(lambda: service.sessions.ListSessions(LIST, metadata=token), "TOKEN_REVOKED")
        assert took < 1.0
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async with asyncio.timeout(5):
                await stream.read()
        assert (ended.value.code(), remote_error(ended.value).reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "TOKEN_REVOKED",
        )
        await service.sessions.ListSessions(LIST, metadata=admin)
        assert not others.done()
        others.cancel()


async def test_the_gateway_refuses_a_revoked_token_itself_and_the_key_at_once(face: Face) -> None:
    admin = await face.admin()
    made = await a_key(face, admin)
    token = await face.login(made.secret)
    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id), metadata=admin)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await face.login(made.secret)
    assert remote_error(refused.value).reason == "API_KEY_INVALID"
    took = await seconds_until_refused(
        lambda: face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=token), "TOKEN_REVOKED"
    )
    assert took < 1.0


async def test_a_key_revoked_under_load_has_no_success_later_than_five_seconds(face: Face) -> None:
    admin = await face.admin()
    made = await a_key(face, admin)
    token = await face.login(made.secret)
    successes: list[float] = []
    refusals: list[float] = []
    reasons: set[str] = set()
    async with guarded_service(face.gateway.keys, face.gateway.target) as service:
        await until_fed(service)
        stopped = asyncio.Event()

        async def load() -> None:
            while not stopped.is_set():
                try:
                    fresh = await face.login(made.secret)
                    await service.sessions.ListSessions(LIST, metadata=fresh)
                    await service.sessions.ListSessions(LIST, metadata=token)
                    successes.append(time.monotonic())
                except grpc.aio.AioRpcError as error:
                    refusals.append(time.monotonic())
                    reasons.add(remote_error(error).reason)
                await asyncio.sleep(0)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(load())
            while len(successes) < 50:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id), metadata=admin)
            revoked = time.monotonic()
            before = len(refusals)
            while len(refusals) < before + 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            stopped.set()
    assert successes[-1] - revoked < 5.0
    assert max(refusals) > max(successes)
    assert reasons <= {"API_KEY_INVALID", "TOKEN_REVOKED"}


async def test_a_suspended_tenant_is_refused_everywhere_until_it_is_resumed(face: Face) -> None:
    admin = await face.admin()
    async with guarded_service(face.gateway.keys, face.gateway.target) as service:
        await until_fed(service)
        await service.sessions.ListSessions(LIST, metadata=admin)
        await set_state(face, "local", "suspended")
        took = await seconds_until_refused(
            lambda: service.sessions.ListSessions(LIST, metadata=admin), "TENANT_SUSPENDED"
        )
        assert took < 1.5
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await face.admin()
        assert (refused.value.code(), remote_error(refused.value).reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "TENANT_SUSPENDED",
        )
        await set_state(face, "local", "active")
        await until_it_works(lambda: service.sessions.ListSessions(LIST, metadata=admin))
        await face.admin()


async def until_it_works(call: Callable[[], Awaitable[object]], *, within_seconds: float = 5.0) -> None:
    async with asyncio.timeout(within_seconds):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
            else:
                return


async def test_two_gateways_tell_of_each_others_changes(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    async with running_gateway(make_migrated, tmp_path) as first:
        settings = gateway_settings(
            tmp_path, first.keys, first.urls, targets={f"{name}_target": "127.0.0.1:1" for name in NEIGHBOURS}
        )
        async with (
            gateway(settings, clock=SystemClock(), ids=SystemIds()) as server,
            serve(server) as second,
            channel(first.target, identity=first.keys.workload("orchestrator")) as to_first,
            channel(f"127.0.0.1:{second.port}", identity=first.keys.workload("orchestrator")) as to_second,
            guarded_service(first.keys, f"127.0.0.1:{second.port}") as service,
        ):
            one, two = IdentityServiceStub(to_first), IdentityServiceStub(to_second)
            answer = await one.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=first.admin_key))
            admin = (("authorization", f"Bearer {answer.access_token}"),)
            made = await one.CreateApiKey(pb.CreateApiKeyRequest(display_name="a", roles=[ADMIN]), metadata=admin)
            got = await two.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=made.secret))
            token = (("authorization", f"Bearer {got.access_token}"),)
            await until_fed(service)
            await service.sessions.ListSessions(LIST, metadata=token)
            await one.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id), metadata=admin)
            took = await seconds_until_refused(
                lambda: service.sessions.ListSessions(LIST, metadata=token), "TOKEN_REVOKED"
            )
            assert took < 1.5
            # The second replica remembered the key; it forgets it with the news, not with its 5 s.
            took = await seconds_until_refused(
                lambda: two.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=made.secret)), "API_KEY_INVALID"
            )
            assert took < 1.0


async def test_a_stopped_gateway_takes_nothing_from_issued_tokens(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    async with running_gateway(make_migrated, tmp_path) as running:
        async with channel(running.target, identity=running.keys.workload("tools")) as opened:
            identity = IdentityServiceStub(opened)
            answer = await identity.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=running.admin_key))
        token = (("authorization", f"Bearer {answer.access_token}"),)
        stack = guarded_service(running.keys, running.target)
        service = await stack.__aenter__()
        await until_fed(service)
    try:
        await asyncio.sleep(0)
        await service.sessions.ListSessions(LIST, metadata=token)
        async with channel(running.target, identity=running.keys.workload("tools")) as opened:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await IdentityServiceStub(opened).ExchangeApiKey(
                    pb.ExchangeApiKeyRequest(api_key=running.admin_key), timeout=5
                )
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert service.feed.version > 0
    finally:
        await stack.__aexit__(None, None, None)


async def test_a_service_that_starts_while_the_gateway_is_away_goes_by_what_it_heard_before(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    kept, nowhere = tmp_path / "kept" / "orchestrator", "127.0.0.1:1"
    async with (
        running_gateway(make_migrated, tmp_path) as running,
        channel(running.target, identity=running.keys.workload("tools")) as opened,
    ):
        identity = IdentityServiceStub(opened)
        answer = await identity.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=running.admin_key))
        admin = (("authorization", f"Bearer {answer.access_token}"),)
        made = await identity.CreateApiKey(pb.CreateApiKeyRequest(display_name="a", roles=[ADMIN]), metadata=admin)
        got = await identity.ExchangeApiKey(pb.ExchangeApiKeyRequest(api_key=made.secret))
        revoked = (("authorization", f"Bearer {got.access_token}"),)
        await identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id), metadata=admin)
        async with guarded_service(running.keys, nowhere, guard_path=kept) as service:
            assert await refusal(service.sessions.ListSessions(LIST, metadata=admin)) == "GUARD_UNKNOWN"
        async with guarded_service(running.keys, running.target, guard_path=kept) as service:
            await until_fed(service)
            assert await refusal(service.sessions.ListSessions(LIST, metadata=revoked)) == "TOKEN_REVOKED"
            async with asyncio.timeout(10):
                while not kept.exists():  # noqa: ASYNC110  # a file has no bell
                    await asyncio.sleep(0.05)
    async with guarded_service(running.keys, nowhere, guard_path=kept) as service:
        await service.sessions.ListSessions(LIST, metadata=admin)
        assert await refusal(service.sessions.ListSessions(LIST, metadata=revoked)) == "TOKEN_REVOKED"


async def refusal(call: Awaitable[object]) -> str:
    """Gives the reason for which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return remote_error(refused.value).reason


async def test_a_gateway_that_stops_ends_its_feeds_and_does_not_wait_for_them(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    async with (
        running_gateway(make_migrated, tmp_path) as running,
        channel(running.target, identity=running.keys.workload("tools")) as opened,
    ):
        stream = GuardFeedServiceStub(opened).WatchGuard(feed_pb.WatchGuardRequest())
        await messages_until_complete(stream)
        running.serving.drain.begin()
        async with asyncio.timeout(10):
            while await stream.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                pass
        assert await stream.code() is grpc.StatusCode.OK


async def test_the_feed_is_for_services_only(face: Face) -> None:
    async with grpc.aio.insecure_channel(face.gateway.target) as bare:
        stream = GuardFeedServiceStub(bare).WatchGuard(feed_pb.WatchGuardRequest(), metadata=await face.admin())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
    assert remote_error(refused.value).reason == "PEER_NOT_ALLOWED"


async def messages_until_complete(stream: object) -> list[feed_pb.WatchGuardResponse]:
    messages: list[feed_pb.WatchGuardResponse] = []
    async with asyncio.timeout(5):
        while not messages or not messages[-1].complete:
            messages.append(await stream.read())  # type: ignore[attr-defined]
    return messages


async def test_the_feed_gives_the_whole_state_first_then_changes_and_a_heartbeat(face: Face) -> None:
    admin = await face.admin()
    stub = GuardFeedServiceStub(face.channel)
    stream = stub.WatchGuard(feed_pb.WatchGuardRequest())
    whole = await messages_until_complete(stream)
    assert whole[0].reset
    assert [key.api_key_id for message in whole for key in message.keys] == [
        "key_" + face.gateway.admin_key.split("_")[1]
    ]
    assert len([tenant for message in whole for tenant in message.tenants]) == 1

    made = await a_key(face, admin, scopes=["sessions.read"])
    (change,) = await messages_until_complete(stream)
    assert [key.api_key_id for key in change.keys] == [made.api_key.api_key_id]
    assert list(change.keys[0].scopes) == ["sessions.read"]
    assert change.version > whole[-1].version

    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id), metadata=admin)
    ended: list[feed_pb.EndedKey] = []
    revoked: list[str] = []
    while not (ended and revoked):
        (change,) = await messages_until_complete(stream)
        ended += change.ended_keys
        revoked += [subject.subject for subject in change.revoked]
    tenant = (await face.identity.WhoAmI(pb.WhoAmIRequest(), metadata=admin)).tenant_id
    assert ended == [feed_pb.EndedKey(api_key_id=made.api_key.api_key_id, tenant_id=tenant)]
    assert revoked == [made.api_key.api_key_id]

    # What changes nothing is no news.
    await face.identity.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.api_key.api_key_id), metadata=admin)
    (beat,) = await messages_until_complete(stream)
    assert beat == feed_pb.WatchGuardResponse(version=change.version, complete=True)
    stream.cancel()

    again = stub.WatchGuard(feed_pb.WatchGuardRequest(after_version=change.version))
    assert await messages_until_complete(again) == [beat]
    again.cancel()
    unknown = stub.WatchGuard(feed_pb.WatchGuardRequest(after_version=change.version + 1_000))
    assert (await messages_until_complete(unknown))[0].reset
    unknown.cancel()
