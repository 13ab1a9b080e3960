"""Old entries leave the database, and every proof goes on working."""

from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import grpc
import grpc.aio
import pytest

from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia_sdk.audit.head import AuditKeys
from comitia_sdk.audit.verify import verify_export
from comitia_sdk.nouns.audit import check_proof, export_line
from tests.integration.conftest import MakeDatabase
from tests.integration.gateway.audit.conftest import Room, administrator, open_room, until

OLD = 30
NEW = 20


async def fill(room: Room) -> None:
    feed = room.feeds["cost"]
    long_ago = datetime.now(UTC) - timedelta(days=91)
    for number in range(OLD + NEW):
        entry = feed.write(room.tenant, stream=0)
        if number < OLD:
            entry.record_time.FromDatetime(long_ago + timedelta(seconds=number))
    await room.until_signed(OLD + NEW)


async def hot(postgres: str, room: Room) -> tuple[int, int]:
    """Counts entries whose content is in the database, and all."""
    async with administrator(postgres, room.gateway.urls) as connection:
        row = await connection.fetchrow("SELECT count(canonical) AS hot, count(*) AS whole FROM audit_chain")
    assert row is not None
    return row["hot"], row["whole"]


@pytest.mark.parametrize("place", ["{folder}/audit", "file://{folder}/bucket"])
async def test_archived_entries_are_exported_and_proven_as_before(
    make_migrated: MakeDatabase, postgres: str, tmp_path: Path, place: str
) -> None:
    (tmp_path / "bucket").mkdir()
    async with open_room(make_migrated, tmp_path, audit_store=place.format(folder=tmp_path)) as room:
        await fill(room)

        async def archived() -> bool:
            return await hot(postgres, room) == (NEW, OLD + NEW)

        await until(archived)
        lines = await room.export()
        report = verify_export(BytesIO(b"".join(map(export_line, lines))))
        assert (report.whole, report.entries) == (True, OLD + NEW)
        keys = AuditKeys.read(lines[-1].key_set)
        for index in (0, OLD - 1, OLD, OLD + NEW - 1):
            proof = await room.stub.ProveAuditEntry(pb.ProveAuditEntryRequest(index=index), metadata=room.admin)
            assert check_proof(proof, index=index, keys=keys) is None
            assert proof.entry.entry.target == f"budget_0_{index + 1}"
        page = await room.stub.ListAuditEntries(pb.ListAuditEntriesRequest(page_size=500), metadata=room.admin)
        assert [one.index for one in page.entries] == list(range(OLD + NEW - 1, OLD - 1, -1))
        some = await room.export(first=OLD - 2)
        assert [line.entry.index for line in some if line.HasField("entry")] == list(range(OLD - 2, OLD + NEW))


async def test_what_is_not_signed_is_not_archived(make_migrated: MakeDatabase, postgres: str, tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "heads").write_text("no folder, so nothing can be signed")
    async with open_room(make_migrated, tmp_path, audit_archive_seconds=0.02) as room:
        entry = room.feeds["cost"].write(room.tenant, stream=0)
        entry.record_time.FromDatetime(datetime.now(UTC) - timedelta(days=200))
        await room.until_size(1)
        pulls = room.feeds["cost"].pulls

        async def some_rounds_later() -> bool:
            return room.feeds["cost"].pulls > pulls + 10

        await until(some_rounds_later)
        assert await hot(postgres, room) == (1, 1)


async def test_a_changed_archive_is_not_passed_on(make_migrated: MakeDatabase, postgres: str, tmp_path: Path) -> None:
    async with open_room(make_migrated, tmp_path) as room:
        await fill(room)

        async def archived() -> bool:
            return await hot(postgres, room) == (NEW, OLD + NEW)

        await until(archived)
        (file,) = (tmp_path / "audit" / "archive").rglob("*.jsonl")
        file.write_bytes(file.read_bytes().replace(b"budget_0_7", b"budget_0_8"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await room.export()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
