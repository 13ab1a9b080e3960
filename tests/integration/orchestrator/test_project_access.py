"""Sessions of a project: who may start, steer and read them."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia.orchestrator.v1 import session_service_pb2 as pb
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role
from services.meshkit.grpc.channel import Metadata, call_metadata
from services.meshkit.grpc.errors import remote_error
from tests.integration.orchestrator.conftest import House, Replica
from tests.integration.orchestrator.test_sessions import create_agents, start, until

WAITING = session_pb2.SESSION_STATE_WAITING
CLAIMS = {"project": "claims"}


@pytest.fixture(autouse=True)
async def claims(house: House, replica: Replica) -> None:
    """In the tenant `key_ed` edits and `key_vi` views the project `claims`; there is an agent."""
    for relation in ("editor", "viewer"):
        house.gate.grant("key_ed", relation, "project:claims")
    house.gate.grant("key_vi", "viewer", "project:claims")
    await create_agents(replica, "Athena")


def a_user(replica: Replica, subject: str) -> Metadata:
    return call_metadata(replica.server.keys.principal(Role.TENANT_USER, subject=subject))


def a_start(metadata: dict[str, str] | None = None) -> pb.StartSessionRequest:
    return pb.StartSessionRequest(
        topic="Rivers",
        mode=session_pb2.SESSION_MODE_DEBATE,
        agents=["Athena"],
        manual_advance=True,
        metadata=CLAIMS if metadata is None else metadata,
    )


def every_call(replica: Replica, session_id: str, user: Metadata) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every RPC on one session, and the start of another."""
    sessions = replica.sessions

    async def watch() -> object:
        call = sessions.WatchSession(pb.WatchSessionRequest(session_id=session_id), metadata=user)
        try:
            return await call.read()
        finally:
            call.cancel()

    return {
        "start": lambda: sessions.StartSession(a_start(), metadata=user),
        "get": lambda: sessions.GetSession(pb.GetSessionRequest(session_id=session_id), metadata=user),
        "turns": lambda: sessions.ListTurns(pb.ListTurnsRequest(session_id=session_id), metadata=user),
        "watch": watch,
        "advance": lambda: sessions.AdvanceSession(pb.AdvanceSessionRequest(session_id=session_id), metadata=user),
        "cancel": lambda: sessions.CancelSession(pb.CancelSessionRequest(session_id=session_id), metadata=user),
    }


async def outcomes(replica: Replica, session_id: str, subject: str) -> dict[str, str]:
    """Says for each call what its refusal names, empty for a success."""
    found: dict[str, str] = {}
    for name, call in every_call(replica, session_id, a_user(replica, subject)).items():
        found[name] = ""
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            found[name] = what_is_missing(error, subject)
    return found


def what_is_missing(error: grpc.aio.AioRpcError, subject: str) -> str:
    said = remote_error(error)
    assert (error.code(), said.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RELATION_MISSING")
    assert said.metadata["object"] == "project:claims"
    assert "user:" + subject in said.message
    return said.metadata["relation"]


async def test_editors_do_all_viewers_read_and_strangers_nothing(replica: Replica) -> None:
    made = await replica.sessions.StartSession(a_start(), metadata=a_user(replica, "key_ed"))
    await until(replica, made.session.session_id, WAITING)
    control = dict.fromkeys(("start", "advance", "cancel"), "editor")
    reading = dict.fromkeys(("get", "turns", "watch"), "viewer")
    allowed = dict.fromkeys(reading, "")
    assert await outcomes(replica, made.session.session_id, "key_stranger") == control | reading
    assert await outcomes(replica, made.session.session_id, "key_vi") == control | allowed
    assert await outcomes(replica, made.session.session_id, "key_ed") == dict.fromkeys(control, "") | allowed


async def test_a_list_leaves_out_what_one_may_not_read(replica: Replica) -> None:
    mine = await replica.sessions.StartSession(a_start({}), metadata=a_user(replica, "key_stranger"))
    theirs = await replica.sessions.StartSession(a_start(), metadata=a_user(replica, "key_ed"))

    async def listed(user: Metadata) -> list[str]:
        answer = await replica.sessions.ListSessions(pb.ListSessionsRequest(), metadata=user)
        return [session.session_id for session in answer.sessions]

    both = [theirs.session.session_id, mine.session.session_id]
    assert await listed(a_user(replica, "key_stranger")) == [mine.session.session_id]
    assert await listed(a_user(replica, "key_vi")) == both
    assert await listed(replica.as_tenant()) == both


async def test_a_stream_ends_when_the_relation_is_taken_away(house: House, replica: Replica) -> None:
    made = await replica.sessions.StartSession(a_start(), metadata=a_user(replica, "key_ed"))
    watching = replica.sessions.WatchSession(
        pb.WatchSessionRequest(session_id=made.session.session_id), metadata=a_user(replica, "key_vi")
    )
    first = await watching.read()
    assert isinstance(first, pb.WatchSessionResponse)
    assert first.HasField("session_started")
    await until(replica, made.session.session_id, WAITING)
    house.gate.granted.discard(("key_vi", "viewer", "project:claims"))
    advance = pb.AdvanceSessionRequest(session_id=made.session.session_id)
    await replica.sessions.AdvanceSession(advance, metadata=a_user(replica, "key_ed"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        while isinstance(await watching.read(), pb.WatchSessionResponse):
            pass
    assert remote_error(raised.value).reason == "RELATION_MISSING"


async def test_administrators_need_no_relation(replica: Replica) -> None:
    session = await start(replica, metadata=CLAIMS)
    assert session.metadata["project"] == "claims"


async def test_a_token_bound_to_a_project_starts_sessions_of_that_project_only(house: House, replica: Replica) -> None:
    keys = replica.server.keys
    house.gate.grant("key_ed", "editor", "project:billing")
    bound = call_metadata(keys.principal(Role.TENANT_USER, subject="key_ed", project="claims"))
    made = await replica.sessions.StartSession(a_start({"project": "billing", "team": "a"}), metadata=bound)
    assert dict(made.session.metadata) == {"project": "claims", "team": "a"}
    stranger = call_metadata(keys.principal(Role.TENANT_USER, subject="key_vi", project="claims"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await replica.sessions.StartSession(a_start({}), metadata=stranger)
    assert remote_error(raised.value).reason == "RELATION_MISSING"


@pytest.mark.parametrize("role", [Role.TENANT_USER, Role.ADMIN])
async def test_for_a_token_bound_to_a_project_there_are_no_sessions_of_others(
    house: House, replica: Replica, role: Role
) -> None:
    for relation in ("editor", "viewer"):
        house.gate.grant("key_ed", relation, "project:billing")
    everybodys = await replica.sessions.StartSession(a_start({}), metadata=replica.as_tenant())
    theirs = await replica.sessions.StartSession(a_start(), metadata=replica.as_tenant())
    principal = replica.server.keys.principal(role, subject="key_ed", project="billing")
    bound = call_metadata(principal)
    mine = await replica.sessions.StartSession(a_start(), metadata=bound)
    assert mine.session.metadata["project"] == "billing"
    for hidden in (everybodys, theirs):
        calls = every_call(replica, hidden.session.session_id, bound)
        del calls["start"]
        for name, call in calls.items():
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call()
            assert remote_error(raised.value).reason == "SESSION_NOT_FOUND", name
    listed = await replica.sessions.ListSessions(pb.ListSessionsRequest(), metadata=bound)
    assert [session.session_id for session in listed.sessions] == [mine.session.session_id]
    await replica.sessions.GetSession(pb.GetSessionRequest(session_id=mine.session.session_id), metadata=bound)


async def test_what_keys_of_two_projects_send_alike_is_no_repeat(house: House, replica: Replica) -> None:
    keys: dict[str, Metadata] = {}
    for project in ("billing", "sales"):
        house.gate.grant(f"key_{project}", "editor", f"project:{project}")
        principal = replica.server.keys.principal(Role.TENANT_USER, subject=f"key_{project}", project=project)
        keys[project] = call_metadata(principal)
    request = a_start({})
    request.request_id = str(uuid4())
    made = await replica.sessions.StartSession(request, metadata=keys["billing"])
    again = await replica.sessions.StartSession(request, metadata=keys["billing"])
    assert again.session.session_id == made.session.session_id
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await replica.sessions.StartSession(request, metadata=keys["sales"])
    assert remote_error(raised.value).reason == "REQUEST_ID_REUSED"


async def test_without_the_gateway_sessions_of_a_project_wait_and_others_do_not(house: House, replica: Replica) -> None:
    user = a_user(replica, "key_ed")
    made = await replica.sessions.StartSession(a_start(), metadata=user)
    await until(replica, made.session.session_id, WAITING)
    house.gate.away = True
    for name, call in every_call(replica, made.session.session_id, user).items():
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call()
        error: MeshError = remote_error(raised.value)
        assert (raised.value.code(), error.retry_after is not None) == (grpc.StatusCode.UNAVAILABLE, True), name
    await replica.sessions.StartSession(a_start({}), metadata=user)
