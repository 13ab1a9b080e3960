"""What is missing, changed or rewritten is noticed and said; an outage loses nothing and chains nothing twice."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia_sdk.audit.verify import verify_export
from comitia_sdk.nouns.audit import export_line
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import from_uuid
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.roles import DatabaseUrls
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.audit.conftest import Metadata, Room, administrator, open_room, until

Gap = tuple[str, int, int]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def gaps(room: Room) -> list[Gap]:
    return [(gap.service, gap.stream, gap.position) for gap in (await room.status()).gaps]


async def exported(room: Room) -> list[pb.ExportAuditResponse]:
    lines = await room.export()
    report = verify_export(BytesIO(b"".join(map(export_line, lines))))
    assert report.whole, report.faults
    return lines


async def test_a_trail_without_faults_is_whole(room: Room) -> None:
    room.feeds["tools"].write(room.tenant)
    await room.until_size(1)
    await until(lambda: is_whole(room))


async def is_whole(room: Room) -> bool:
    return (await room.status()).whole


async def test_a_missing_entry_is_an_alarm_that_names_its_place(room: Room) -> None:
    feed = room.feeds["cost"]
    before = metric("comitia_audit_breaks_total", service="cost", kind="gap")
    for _ in range(5):
        feed.write(room.tenant, stream=3)
    await room.until_size(5)
    feed.away = True
    for _ in range(5):
        feed.write(room.tenant, stream=3)
    feed.lose(3, 8)
    feed.away = False
    await room.until_size(9)

    assert await gaps(room) == [("cost", 3, 8)]
    assert not (await room.status()).whole
    assert metric("comitia_audit_breaks_total", service="cost", kind="gap") == before + 1
    # Only who runs the installation sees streams of all tenants; that something is wrong is for everybody.
    seen = await room.status(room.as_role(Role.AUDITOR))
    assert (list(seen.gaps), seen.whole) == ([], False)
    await exported(room)


async def lose_one(room: Room) -> None:
    """Has entry 2 of stream 3 of cost go missing, and waits until that is noticed."""
    feed = room.feeds["cost"]
    feed.write(room.tenant, stream=3)
    await room.until_size(1)
    feed.away = True
    for _ in range(2):
        feed.write(room.tenant, stream=3)
    feed.lose(3, 2)
    feed.away = False
    await until(lambda: has_gaps(room))


async def acknowledge(
    room: Room, *, position: int = 2, reason: str = "the disk of 3 March", metadata: Metadata | None = None
) -> pb.GetAuditStatusResponse.Gap:
    request = pb.AcknowledgeAuditGapRequest(service="cost", stream=3, position=position, reason=reason)
    return (await room.stub.AcknowledgeAuditGap(request, metadata=metadata or room.admin)).gap


async def test_a_gap_that_was_looked_into_stays_with_who_when_and_why_and_is_no_alarm(room: Room) -> None:
    await lose_one(room)
    await until(lambda: alarms(room, 1))
    told = await acknowledge(room, reason=" the disk of 3 March ")

    seen = await room.status()
    assert list(seen.gaps) == [told]
    assert (seen.whole, seen.acknowledged_gaps) == (True, 1)
    given = told.acknowledgement
    assert (given.actor.partition("_")[0], given.reason) == ("key", "the disk of 3 March")
    assert given.acknowledge_time.ToDatetime() >= told.notice_time.ToDatetime()
    await until(lambda: alarms(room, 0))
    # Other tenants see no stream, and see that something is missing all the same.
    other = await room.status(room.as_role(Role.AUDITOR))
    assert (list(other.gaps), other.whole, other.acknowledged_gaps) == ([], True, 1)


async def alarms(room: Room, count: int) -> bool:
    return metric("comitia_audit_gaps", service="cost") == count and (await room.status()).whole == (count == 0)


async def test_what_was_acknowledged_and_is_noticed_anew_is_an_alarm_anew(room: Room) -> None:
    feed = room.feeds["cost"]
    feed.write(room.tenant, stream=3)
    await room.until_size(1)
    for life in ("second", "third"):
        feed.streams[3][0].actor = f"key_of_the_{life}_life"
        await until(lambda: alarms(room, 1))
        assert (await room.status()).acknowledged_gaps == 0
        await acknowledge(room, position=1, reason=f"the {life} life")
        await until(lambda: alarms(room, 0))
    ((gap,), whole) = (await room.status()).gaps, (await room.status()).whole
    assert (gap.acknowledgement.reason, whole) == ("the third life", True)


@pytest.mark.parametrize(
    ("position", "reason", "refusal"),
    [
        (2, "", "INVALID_FIELD"),
        (2, "  ", "INVALID_FIELD"),
        (2, "x" * 257, "INVALID_FIELD"),
        (2, "a\x00b", "INVALID_FIELD"),
        (3, "why", "GAP_NOT_FOUND"),
        (-1, "why", "GAP_NOT_FOUND"),
    ],
)
async def test_what_is_no_gap_and_what_is_no_reason_is_refused(
    room: Room, position: int, reason: str, refusal: str
) -> None:
    await lose_one(room)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await acknowledge(room, position=position, reason=reason)
    assert remote_error(refused.value).reason == refusal
    assert (await room.status()).acknowledged_gaps == 0


async def test_only_who_runs_the_installation_acknowledges_and_only_once(room: Room) -> None:
    await lose_one(room)
    for role in (Role.ADMIN, Role.AUDITOR, Role.TENANT_USER):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await acknowledge(room, metadata=room.as_role(role))
        assert remote_error(refused.value).reason == "PERMISSION_MISSING"
    await acknowledge(room)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await acknowledge(room, reason="another")
    assert remote_error(refused.value).reason == "GAP_ACKNOWLEDGED"
    assert (await room.status()).gaps[0].acknowledgement.reason == "the disk of 3 March"


async def test_a_stream_that_was_restored_from_an_old_copy_is_an_alarm_and_loses_nothing(room: Room) -> None:
    feed = room.feeds["cost"]
    for number in range(10):
        feed.write(room.tenant, stream=0, target=f"first life {number}")
    await room.until_size(10)

    feed.restore(0, 6)
    for number in range(8):
        feed.write(room.tenant, stream=0, target=f"second life {number}")
    await room.until_size(18)

    assert await gaps(room) == [("cost", 0, 10)]
    targets = [line.entry.entry.target for line in await room.export() if line.HasField("entry")]
    assert targets == [f"first life {n}" for n in range(10)] + [f"second life {n}" for n in range(8)]


async def test_an_entry_that_was_changed_after_it_was_fetched_is_an_alarm(room: Room) -> None:
    feed = room.feeds["memory"]
    feed.write(room.tenant, stream=0)
    await room.until_size(1)
    feed.streams[0][0].actor = "key_somebody_else"

    await until(lambda: has_gaps(room))
    assert await gaps(room) == [("memory", 0, 1)]


async def has_gaps(room: Room) -> bool:
    return bool(await gaps(room))


async def test_a_service_that_is_away_is_named_and_catches_up(room: Room) -> None:
    feed = room.feeds["inference"]
    await until(lambda: is_whole(room))
    feed.away = True

    async def named() -> bool:
        return list((await room.status()).unreachable_services) == ["inference"]

    await until(named)
    assert metric("comitia_audit_feed_away", service="inference") == 1
    for _ in range(20):
        feed.write(room.tenant)
    room.feeds["tools"].write(room.tenant)
    await room.until_size(1)
    feed.away = False
    await room.until_size(21)
    assert list((await room.status()).unreachable_services) == []


@pytest.mark.parametrize(
    "wrong",
    [{"service": "policy"}, {"tenant_id": "tenant_nobody"}, {"details": {"a": "x" * 70_000}}, {"stream": 99}],
)
async def test_a_feed_that_cannot_be_right_is_not_chained(room: Room, wrong: dict[str, object]) -> None:
    fields: dict[str, Any] = {"stream": 0, **wrong}
    room.feeds["cost"].write(room.tenant, **fields)
    room.feeds["tools"].write(room.tenant)
    await room.until_size(1)

    async def named() -> bool:
        return list((await room.status()).unreachable_services) == ["cost"]

    await until(named)
    assert (await room.status()).size == 1


async def test_two_gateways_chain_every_entry_once(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with open_room(make_migrated, tmp_path) as one:
        again = database_of(one)
        shared = {
            "kek_path": tmp_path / "kek",
            "audit_store": str(tmp_path / "audit"),
            "audit_key_path": tmp_path / "audit.jwk",
        }
        async with open_room(again, tmp_path / "other", feeds=one.feeds, **shared) as other:
            for number in range(300):
                list(one.feeds.values())[number % 7].write(one.tenant, target=f"thing {number}")
            await other.until_size(300)
            lines = await exported(other)
            targets = [line.entry.entry.target for line in lines if line.HasField("entry")]
            assert sorted(targets) == sorted(f"thing {number}" for number in range(300))


def database_of(room: Room) -> MakeDatabase:
    async def same(_service: str) -> DatabaseUrls:
        return room.gateway.urls

    return same


async def test_a_new_gateway_goes_on_where_the_last_one_stopped(make_migrated: MakeDatabase, tmp_path: Path) -> None:
    async with open_room(make_migrated, tmp_path) as first:
        for _ in range(40):
            first.feeds["cost"].write(first.tenant)
        await first.until_size(40)
        await first.until_signed(40)
    for _ in range(10):
        first.feeds["cost"].write(first.tenant)
    async with open_room(database_of(first), tmp_path, feeds=first.feeds) as second:
        await second.until_size(50)
        await exported(second)
        status = await second.status()
        assert (status.size, status.contradiction) == (50, "")


async def test_a_gateway_that_died_between_head_store_and_database_signs_again(
    make_migrated: MakeDatabase, postgres: str, tmp_path: Path
) -> None:
    async with open_room(make_migrated, tmp_path) as first:
        for _ in range(8):
            first.feeds["cost"].write(first.tenant, stream=0)
        await first.until_signed(8)
    await rewrite(postgres, first, "DELETE FROM audit_head", "UPDATE audit_tree SET signed_size = 0")

    async with open_room(database_of(first), tmp_path, feeds=first.feeds) as second:
        await second.until_signed(8)
        await exported(second)
        assert not (await second.status()).contradiction


async def test_a_damaged_head_store_is_an_alarm_for_its_tenant_only(
    make_migrated: MakeDatabase, tmp_path: Path
) -> None:
    other = uuid4()
    async with open_room(make_migrated, tmp_path) as first:
        first.feeds["cost"].write(first.tenant)
        first.feeds["cost"].write(other)
        await first.until_signed(1)
    (damaged,) = (tmp_path / "audit" / "heads" / from_uuid("tenant", first.tenant)).iterdir()
    damaged.write_bytes(b"something else\n")

    async with open_room(database_of(first), tmp_path, feeds=first.feeds) as second:
        await until(lambda: is_contradicted(second))
        second.feeds["cost"].write(other)
        others = first.as_role(Role.ADMIN, tenant=other)
        await second.until_size(2, others)
        lines = await second.export(others)
        assert max(line.head.size for line in lines) == 2


async def rewrite(postgres: str, room: Room, *statements: str) -> None:
    async with administrator(postgres, room.gateway.urls) as connection:
        for statement in statements:
            await connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE audit_chain SET leaf_hash = sha256('forged') WHERE index = 12", "entry 12 "),
        ("UPDATE audit_chain SET subtrees = subtrees || subtrees WHERE index = 7", "entry 7 "),
        # These two are seen by both checks of the start, whichever looks first.
        ("UPDATE audit_chain SET chain_hash = sha256('forged') WHERE index = 19", "entry 19 |are not those that were"),
        (
            "UPDATE audit_chain SET subtrees = substr(subtrees, 1, 96) || sha256('forged') WHERE index = 15",
            "entry 15 |are not those that were signed",
        ),
        ("UPDATE audit_tree SET size = 10, signed_size = 10; DELETE FROM audit_chain WHERE index >= 10", "it has 10"),
        ("DELETE FROM audit_chain; DELETE FROM audit_tree; DELETE FROM audit_head", "it has 0 entries"),
    ],
)
async def test_a_database_that_was_rewritten_is_an_alarm_at_the_start(
    make_migrated: MakeDatabase, postgres: str, tmp_path: Path, statement: str, told: str
) -> None:
    async with open_room(make_migrated, tmp_path) as first:
        for _ in range(20):
            first.feeds["cost"].write(first.tenant, stream=0)
        await first.until_signed(20)
    await rewrite(postgres, first, statement)

    async with open_room(database_of(first), tmp_path, feeds=first.feeds) as second:
        await until(lambda: is_contradicted(second))
        status = await second.status()
        assert re.search(told, status.contradiction)
        assert not status.whole
        assert metric("comitia_audit_contradictions") == 1


async def is_contradicted(room: Room) -> bool:
    return bool((await room.status()).contradiction)


async def test_nothing_is_signed_over_a_history_that_was_changed_while_the_gateway_runs(
    room: Room, postgres: str
) -> None:
    feed = room.feeds["cost"]
    for _ in range(16):
        feed.write(room.tenant, stream=0)
    await room.until_signed(16)
    await rewrite(postgres, room, "UPDATE audit_chain SET subtrees = sha256('a') || sha256('b') WHERE index = 15")
    await rewrite(postgres, room, "UPDATE audit_chain SET chain_hash = sha256('forged') WHERE index = 15")
    feed.write(room.tenant, stream=0)

    await until(lambda: is_contradicted(room))
    status = await room.status()
    assert (status.size, status.head.size) == (17, 16)


async def test_an_entry_whose_content_alone_was_changed_is_found_by_reading_through(
    make_migrated: MakeDatabase, postgres: str, tmp_path: Path
) -> None:
    async with open_room(make_migrated, tmp_path, audit_read_through_seconds=0.05) as room:
        for _ in range(5):
            room.feeds["cost"].write(room.tenant, stream=0)
        await room.until_signed(5)
        changed = "UPDATE audit_chain SET canonical = replace(canonical::text, 'a', 'b')::bytea WHERE index = 3"
        await rewrite(postgres, room, changed)
        await until(lambda: is_contradicted(room))
        assert "entry 3" in (await room.status()).contradiction


async def test_the_services_roles_can_change_no_hash_and_no_head(room: Room) -> None:
    room.feeds["cost"].write(room.tenant)
    await room.until_size(1)
    tries = (
        "UPDATE audit_chain SET leaf_hash = sha256('x')",
        "UPDATE audit_chain SET chain_hash = sha256('x')",
        "UPDATE audit_chain SET index = 7",
        "DELETE FROM audit_chain",
        "TRUNCATE audit_chain",
        "UPDATE audit_head SET head = 'x'",
        "DELETE FROM audit_head",
        "DELETE FROM audit_tree",
        "DELETE FROM audit_break",
        "UPDATE audit_break SET position = 1",
        "UPDATE audit_acknowledgement SET reason = 'x'",
        "DELETE FROM audit_acknowledgement",
    )
    for url in (room.gateway.urls.app, room.gateway.urls.maintenance):
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(f"SET app.tenants = '{{{room.tenant}}}'")
            for statement in tries:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.close()


async def test_heads_wait_while_their_store_is_away_and_nothing_else_does(room: Room) -> None:
    store = room.folder / "audit"
    await until(lambda: is_whole(room))
    store.mkdir(exist_ok=True)
    (store / "heads").write_text("in the way")  # whoever runs as root may write where a mode forbids it
    room.feeds["cost"].write(room.tenant)
    await room.until_size(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.export()
    assert remote_error(caught.value).reason == "UNAVAILABLE"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.stub.ProveAuditEntry(pb.ProveAuditEntryRequest(index=0), metadata=room.admin)
    assert remote_error(caught.value).reason == "NOT_YET_SIGNED"
    (store / "heads").unlink()
    await room.until_signed(1)
    await exported(room)
