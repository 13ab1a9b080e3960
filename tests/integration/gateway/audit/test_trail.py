"""What services write is chained once, signed, listed, exported and proven, each tenant's for itself."""

from io import BytesIO
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.common.v1.audit_pb2 import AUDIT_OUTCOME_REFUSED
from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia_sdk.audit import merkle
from comitia_sdk.audit.canonical import canonical_entry
from comitia_sdk.audit.head import AuditKeys
from comitia_sdk.audit.verify import verify_export
from comitia_sdk.nouns.audit import export_line, read_head
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import from_uuid
from services.meshkit.grpc.errors import remote_error
from tests.integration.gateway.audit.conftest import Room

OTHER = uuid4()


def refusal(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> MeshError:
    return remote_error(caught.value)


def fill(room: Room, count: int, *, tenant: UUID | None = None) -> None:
    """Lets the services write in turn."""
    feeds = list(room.feeds.values())
    for number in range(count):
        feeds[number % len(feeds)].write(tenant or room.tenant, target=f"thing_{number}")


async def test_entries_of_all_services_are_chained_once_and_in_their_order(room: Room) -> None:
    fill(room, 200)
    await room.until_size(200)
    fill(room, 7)
    await room.until_size(207)

    lines = await room.export()
    entries = [line.entry for line in lines if line.HasField("entry")]
    assert [one.index for one in entries] == list(range(207))
    assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
    written = {canonical_entry(entry) for feed in room.feeds.values() for s in feed.streams.values() for entry in s}
    assert {one.canonical for one in entries} == written
    assert all(canonical_entry(one.entry) == one.canonical for one in entries)
    for service in room.feeds:
        for stream in range(8):
            of_stream = [
                one.entry.position for one in entries if (one.entry.service, one.entry.stream) == (service, stream)
            ]
            assert of_stream == sorted(of_stream)


async def test_an_export_verifies_offline_and_its_keys_are_the_gateways(room: Room) -> None:
    fill(room, 50)
    await room.until_size(50)

    lines = await room.export()
    report = verify_export(BytesIO(b"".join(map(export_line, lines))))

    assert report.whole, report.faults
    assert (report.entries, report.covered) == (50, 50)
    assert report.tenant_id == from_uuid("tenant", room.tenant)
    assert lines[-1].WhichOneof("line") == "key_set"
    assert list(AuditKeys.read(lines[-1].key_set).keys) == ["audit-1"]


async def test_an_export_covers_what_was_not_signed_yet(room: Room) -> None:
    fill(room, 30)
    await room.until_size(30)
    lines = await room.export()
    assert max(line.head.size for line in lines if line.HasField("head")) >= 30


async def test_an_export_may_begin_later(room: Room) -> None:
    fill(room, 20)
    await room.until_size(20)
    lines = await room.export(first=15)
    assert [line.entry.index for line in lines if line.HasField("entry")] == [15, 16, 17, 18, 19]


async def test_entries_are_listed_newest_first_in_pages_and_by_filter(room: Room) -> None:
    feed = room.feeds["cost"]
    moment = Timestamp(seconds=1_800_000_000)
    for number in range(25):
        feed.write(room.tenant, stream=0, actor=f"key_{number % 2}", action="a.write" if number % 5 else "b.write")
    feed.write(room.tenant, stream=0, record_time=moment, target="budget_x", outcome=AUDIT_OUTCOME_REFUSED)
    await room.until_size(26)

    async def listed(**wanted: object) -> list[int]:
        found: list[int] = []
        request = pb.ListAuditEntriesRequest(page_size=10, **wanted)  # pyright: ignore[reportArgumentType]
        while True:
            page = await room.stub.ListAuditEntries(request, metadata=room.admin)
            found += [one.index for one in page.entries]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    assert await listed() == list(range(25, -1, -1))
    assert await listed(actor="key_1") == list(range(23, 0, -2))
    assert await listed(action="b.write") == [20, 15, 10, 5, 0]
    assert await listed(action="b.write", actor="key_1") == [15, 5]
    assert await listed(target="budget_x") == [25]
    assert await listed(after_time=moment) == [25]
    assert await listed(target="nothing") == []


async def test_each_entry_is_proven_against_a_signed_head(room: Room) -> None:
    fill(room, 60)
    await room.until_size(60)
    keys = AuditKeys.read((await room.export())[-1].key_set)

    for index in (0, 1, 31, 32, 59):
        answer = await room.stub.ProveAuditEntry(pb.ProveAuditEntryRequest(index=index), metadata=room.admin)
        head = read_head(answer.head)
        leaf = merkle.leaf_hash(answer.entry.canonical)
        assert keys.verify(head) is None
        assert merkle.verify_inclusion(leaf, index, head.size, answer.path, head.root_hash)
        assert leaf == answer.entry.leaf_hash


async def test_an_earlier_head_is_the_beginning_of_a_later_one(room: Room) -> None:
    fill(room, 13)
    await room.until_size(13)
    await room.export()
    fill(room, 40)
    await room.until_size(53)
    sizes = [line.head.size for line in await room.export() if line.HasField("head")]

    for first in sizes:
        request = pb.ProveAuditConsistencyRequest(first_size=first)
        answer = await room.stub.ProveAuditConsistency(request, metadata=room.admin)
        one, two = read_head(answer.first), read_head(answer.second)
        assert (one.size, two.size) == (first, sizes[-1])
        assert merkle.verify_consistency(one.size, two.size, answer.path, one.root_hash, two.root_hash)


async def test_proofs_of_what_is_not_there_are_refused(room: Room) -> None:
    fill(room, 3)
    await room.until_size(3)
    await room.export()

    async def entry(index: int, size: int = 0) -> tuple[str, str | None]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = pb.ProveAuditEntryRequest(index=index, size=size)
            await room.stub.ProveAuditEntry(request, metadata=room.admin)
        return refusal(caught).reason, refusal(caught).field

    async def consistency(first: int, second: int = 0) -> tuple[str, str | None]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = pb.ProveAuditConsistencyRequest(first_size=first, second_size=second)
            await room.stub.ProveAuditConsistency(request, metadata=room.admin)
        return refusal(caught).reason, refusal(caught).field

    assert await entry(3) == ("NOT_FOUND", "index")
    assert await entry(-1) == ("INVALID_FIELD", "index")
    assert await entry(0, 77) == ("NOT_FOUND", "size")
    assert await entry(0, -1) == ("INVALID_FIELD", "size")
    assert await consistency(0) == ("INVALID_FIELD", "first_size")
    assert await consistency(77) == ("NOT_FOUND", "first_size")
    assert await consistency(3, 2) == ("INVALID_FIELD", "second_size")


async def test_tenants_have_trails_of_their_own(room: Room) -> None:
    other = room.as_role(Role.ADMIN, tenant=OTHER)
    fill(room, 5)
    fill(room, 9, tenant=OTHER)
    await room.until_size(5)
    await room.until_size(9, other)

    for metadata, tenant, size in ((room.admin, room.tenant, 5), (other, OTHER, 9)):
        lines = await room.export(metadata)
        tenants = {line.entry.entry.tenant_id for line in lines if line.HasField("entry")}
        heads = {line.head.tenant_id for line in lines if line.HasField("head")}
        assert tenants == heads == {from_uuid("tenant", tenant)}
        page = await room.stub.ListAuditEntries(pb.ListAuditEntriesRequest(), metadata=metadata)
        assert len(page.entries) == size
        assert (await room.status(metadata)).size == size
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.stub.ProveAuditEntry(pb.ProveAuditEntryRequest(index=7), metadata=room.admin)
    assert refusal(caught).reason == "NOT_FOUND"


@pytest.mark.parametrize(
    ("role", "may"),
    [(Role.ADMIN, True), (Role.AUDITOR, True), (Role.OPERATOR, True), (Role.TENANT_USER, False)],
)
async def test_who_may_read_the_trail(room: Room, role: Role, may: bool) -> None:
    metadata = room.as_role(role)

    asked = (
        room.stub.GetAuditStatus(pb.GetAuditStatusRequest(), metadata=metadata),
        room.stub.ListAuditEntries(pb.ListAuditEntriesRequest(), metadata=metadata),
        room.export(metadata),
    )
    for question in asked:
        if may:
            await question
            continue
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await question
        assert refusal(caught).reason == "PERMISSION_MISSING"
