"""The turns of a tenant's runs on a real journal: of this tenant, of this time, and never off the record."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import run_service_pb2 as pb
from comitia.orchestrator.v1 import run_service_pb2_grpc, session_pb2
from services.meshkit.core.identity import Principal, Role
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.orchestrator.conftest import OTHER_TENANT, House, Replica
from tests.integration.orchestrator.test_following import talk, watch
from tests.integration.orchestrator.test_sessions import start, until


async def streamed(
    replica: Replica, who: Principal | None = None, *, service: str = "", **wanted: Any
) -> list[pb.StreamTurnsResponse]:
    """Asks as somebody, an administrator unless said otherwise, from outside the mesh or through a service."""
    principal, request = who or replica.server.keys.principal(), pb.StreamTurnsRequest(**wanted)
    server = replica.server
    by_service = channel(server.target, identity=server.keys.workload(service)) if service else None
    async with by_service or grpc.aio.insecure_channel(server.target) as opened:
        turns = run_service_pb2_grpc.RunServiceStub(opened).StreamTurns(request, metadata=call_metadata(principal))
        return [one async for one in turns]


async def entries(house: House) -> list[Any]:
    """Gives what the audit trail says of such calls."""
    async with sql_engine(house.urls.maintenance) as engine, maintenance_scope(engine, read_only=True) as scope:
        found = await scope.exec_driver_sql(
            "SELECT actor, target, outcome, details FROM audit_entry WHERE action = 'turns.export'"
        )
        return list(found.all())


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def test_turns_of_sessions_and_of_workflows_come_in_order_and_page_by_page(replica: Replica) -> None:
    session = await start(replica)
    await until(replica, session.session_id, session_pb2.SESSION_STATE_SUCCEEDED)
    run_id = await talk(replica)
    assert [event async for event in watch(replica, run_id)][-1].run.output
    *turns, end = await streamed(replica)
    assert [turn.run_id for turn in turns] == [session.session_id] * 4 + [run_id] * 2
    assert [turn.workflow for turn in turns] == [""] * 4 + ["talk@1.0.0"] * 2
    assert turns[0].path == "rounds/1/Athena"
    assert turns[0].turn.output.parts
    assert (end.HasField("turn"), end.next_page_token, end.unreadable_runs) == (False, "", 0)
    token, found = "", list[pb.StreamTurnsResponse]()
    for _ in range(4):
        *page, last = await streamed(replica, page_size=2, page_token=token)
        found += page
        token = last.next_page_token
        if not token:
            break
    assert [turn.SerializeToString() for turn in found] == [turn.SerializeToString() for turn in turns]
    rest = await streamed(replica, page_token=turns[2].next_page_token)
    assert [turn.sequence for turn in rest[:-1]] == [turn.sequence for turn in turns[3:]]


async def test_another_time_and_another_tenant_have_none_of_them(replica: Replica) -> None:
    session = await start(replica)
    await until(replica, session.session_id, session_pb2.SESSION_STATE_SUCCEEDED)
    now = datetime.now(UTC)
    assert len(await streamed(replica, before_time=stamp(now - timedelta(hours=1)))) == 1
    assert len(await streamed(replica, after_time=stamp(now + timedelta(hours=1)))) == 1
    assert len(await streamed(replica, after_time=stamp(now - timedelta(hours=1)))) == 5
    stranger = replica.server.keys.principal(tenant=OTHER_TENANT)
    assert len(await streamed(replica, stranger)) == 1
    (first, *_) = await streamed(replica)
    assert len(await streamed(replica, stranger, page_token=first.next_page_token)) == 1


async def test_each_call_is_on_record_once_and_a_refused_one_gives_nothing(house: House, replica: Replica) -> None:
    await streamed(replica, page_size=7)
    (entry,) = await entries(house)
    assert (entry.target, entry.details["most"]) == ("turns", "7")
    assert entry.actor == replica.server.keys.principal().subject
    await streamed(replica)
    assert len(await entries(house)) == 2
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await streamed(replica, replica.server.keys.principal(Role.TENANT_USER))
    assert remote_error(refused.value).reason == "PERMISSION_MISSING"
    assert await streamed(replica, replica.server.keys.principal(Role.AUDITOR))
    assert len(await entries(house)) == 3


async def test_of_services_policy_alone_reads_for_somebody_who_may(house: House, replica: Replica) -> None:
    assert await streamed(replica, service="policy")
    for who, service, reason in (
        (replica.server.keys.principal(), "tools", "TURNS_NOT_FOR_SERVICE"),
        (replica.server.keys.principal(Role.TENANT_USER), "policy", "PERMISSION_MISSING"),
        (replica.server.keys.principal(project="claims"), "", "BOUND_TO_PROJECT"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await streamed(replica, who, service=service)
        assert remote_error(refused.value).reason == reason
    assert len(await entries(house)) == 1


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"after_time": Timestamp(seconds=9), "before_time": Timestamp(seconds=8)}, "before_time"),
        ({"after_time": Timestamp(seconds=-9)}, "after_time"),
        ({"before_time": Timestamp(seconds=2**62)}, "before_time"),
    ],
)
async def test_a_bad_request_is_refused_with_its_field(replica: Replica, wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await streamed(replica, **wanted)
    assert remote_error(refused.value).field == field
