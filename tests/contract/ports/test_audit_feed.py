"""One suite for the audit feed: the fake that the gateway's tests use, and what every service serves."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest

from comitia.common.v1 import audit_pb2 as pb
from comitia_sdk.audit.canonical import canonical_entry, read_entry
from services.meshkit.audit.feed import AuditFeed
from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from tests.integration.conftest import MakeDatabase
from tests.support.fake_audit_feed import FakeAuditFeed

ONE, OTHER = uuid4(), uuid4()


class Feed(Protocol):
    """A feed, and the hand that writes what it gives."""

    async def write(self, tenant: UUID, count: int) -> None: ...
    async def pull(self, after: Mapping[int, int] | None = None, *, size: int = 0) -> pb.PullAuditEntriesResponse: ...


class Fake:
    """The fake, as a feed of this suite."""

    def __init__(self) -> None:
        self._feed = FakeAuditFeed("cost")

    async def write(self, tenant: UUID, count: int) -> None:
        for _ in range(count):
            self._feed.write(tenant)

    async def pull(self, after: Mapping[int, int] | None = None, *, size: int = 0) -> pb.PullAuditEntriesResponse:
        return await self._feed.PullAuditEntries(request(after, size), None)


def request(after: Mapping[int, int] | None, size: int) -> pb.PullAuditEntriesRequest:
    cursors = [
        pb.PullAuditEntriesRequest.Cursor(stream=stream, position=position)
        for stream, position in (after or {}).items()
    ]
    return pb.PullAuditEntriesRequest(cursors=cursors, page_size=size)


class Real:
    """What services serve, over real Postgres; here that of cost."""

    def __init__(self, store: SqlAuditStore) -> None:
        self._store = store
        self._feed = AuditFeed(store, service="cost", clock=SystemClock())

    async def write(self, tenant: UUID, count: int) -> None:
        for number in range(count):
            draft = AuditDraft(
                action="budgets.limit",
                method="comitia.cost.v1.BudgetService/SetBudgetLimit",
                tenant=TenantId(tenant),
                actor="key_01jx0000000000000000000000",
                request_hash=bytes(32),
                details={"number": str(number)},
            )
            await self._store.add_refused([(draft, "QUOTA_EXCEEDED")])

    async def pull(self, after: Mapping[int, int] | None = None, *, size: int = 0) -> pb.PullAuditEntriesResponse:
        no_context: Any = None
        return await self._feed.PullAuditEntries(request(after, size), no_context)


@pytest.fixture(params=["fake", "real"])
async def feed(request: pytest.FixtureRequest, make_database: MakeDatabase) -> AsyncIterator[Feed]:
    if request.param == "fake":
        yield Fake()
        return
    urls = await make_database("cost")
    await migrate("services.cost", urls.migrator)
    async with sql_engine(urls.app) as app, sql_engine(urls.maintenance) as maintenance:
        yield Real(SqlAuditStore(app=app, maintenance=maintenance))


async def everything(feed: Feed, *, size: int) -> list[pb.AuditEntry]:
    """Pulls as the gateway does, page by page."""
    after: dict[int, int] = {}
    found: list[pb.AuditEntry] = []
    for _ in range(1_000):
        page = await feed.pull(after, size=size)
        for entry in page.entries:
            assert entry.position == after.get(entry.stream, 0) + 1, "each stream is in order and without gaps"
            after[entry.stream] = entry.position
        found += page.entries
        assert page.entries or not page.more
        if not page.more:
            return found
    raise AssertionError("the feed never ends")


async def test_a_feed_of_nothing_is_empty(feed: Feed) -> None:
    page = await feed.pull()
    assert (list(page.entries), page.more) == ([], False)


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_every_entry_comes_once_and_each_stream_in_order(feed: Feed, size: int) -> None:
    await feed.write(ONE, 20)
    await feed.write(OTHER, 13)

    found = await everything(feed, size=size)

    assert len(found) == len({(entry.stream, entry.position) for entry in found}) == 33
    tenants = [entry.tenant_id for entry in found]
    assert (tenants.count(from_uuid("tenant", ONE)), tenants.count(from_uuid("tenant", OTHER))) == (20, 13)
    assert all(0 <= entry.stream < 64 for entry in found)


async def test_a_page_holds_no_more_than_was_asked_for_and_says_so(feed: Feed) -> None:
    await feed.write(ONE, 5)
    page = await feed.pull(size=4)
    assert (len(page.entries), page.more) == (4, True)
    page = await feed.pull(size=5)
    assert (len(page.entries), page.more) == (5, False)


async def test_what_was_seen_comes_again_as_it_was_when_it_is_asked_for_again(feed: Feed) -> None:
    """The gateway asks for the newest entry that it knows of each stream with every pull."""
    await feed.write(ONE, 12)
    first = {(entry.stream, entry.position): entry for entry in (await feed.pull()).entries}
    newest = {stream: max(p for s, p in first if s == stream) for stream, _ in first}

    again = await feed.pull({stream: position - 1 for stream, position in newest.items()})

    assert {(entry.stream, entry.position) for entry in again.entries} == set(newest.items())
    for entry in again.entries:
        assert canonical_entry(entry) == canonical_entry(first[entry.stream, entry.position])


async def test_every_entry_says_who_what_when_and_where(feed: Feed) -> None:
    await feed.write(ONE, 3)
    for entry in (await feed.pull()).entries:
        assert entry.service
        assert entry.actor
        assert entry.action
        assert entry.outcome
        assert entry.HasField("record_time")
        assert len(entry.request_hash) == 32
        assert read_entry(canonical_entry(entry)) == entry
