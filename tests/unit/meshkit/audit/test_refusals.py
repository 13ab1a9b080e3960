"""Entries of refused calls: repeats are one entry, and one tenant's flood costs no other its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from services.meshkit.audit.refusals import WINDOW_SECONDS, GroupedRefusals
from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.errors import MeshError, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.audit_store import Refused
from services.meshkit.testing.fake_clock import FakeClock

TENANT = TenantId(UUID(int=1))
OTHER = TenantId(UUID(int=2))


@dataclass
class Store:
    """Keeps entries, or fails."""

    entries: list[Refused] = field(default_factory=list[Refused])
    error: MeshError | None = None

    async def add_refused(self, batch: Sequence[Refused]) -> None:
        if self.error is not None:
            raise self.error
        self.entries.extend(batch)


def a_log(store: Store, clock: FakeClock) -> GroupedRefusals:
    stands_in: Any = store
    return GroupedRefusals(stands_in, service="tested", clock=clock)


def a_draft(actor: str = "key_a", *, tenant: TenantId = TENANT, target: str = "", method: str = "m") -> AuditDraft:
    return AuditDraft(action="a", method=method, tenant=tenant, actor=actor, target=target)


def told(store: Store) -> list[tuple[str, str, str]]:
    """Actor, reason and number of repeats of each entry."""
    return [(draft.actor, reason, draft.details.get("repeats", "")) for draft, reason in store.entries]


async def test_repeats_become_one_entry_that_counts_them() -> None:
    store, clock = Store(), FakeClock()
    async with a_log(store, clock) as log:
        began = clock.now()
        for number in range(500):
            await log.add(a_draft(target=f"key_{number}"), "PERMISSION_MISSING")
        assert told(store) == [("key_a", "PERMISSION_MISSING", "")]
        clock.advance(seconds=WINDOW_SECONDS)
        await log.write_due()
        assert told(store)[1:] == [("key_a", "PERMISSION_MISSING", "499")]
        counted, _ = store.entries[1]
        assert (counted.target, counted.details["repeats_since"]) == ("key_499", began.isoformat())
        for _ in range(7):
            await log.add(a_draft(), "PERMISSION_MISSING")
        clock.advance(seconds=WINDOW_SECONDS)
        await log.write_due()
        assert store.entries[2][0].details == {
            "repeats": "7",
            "repeats_since": (began + timedelta(seconds=WINDOW_SECONDS)).isoformat(),
        }
    assert len(store.entries) == 3


async def test_what_differs_in_who_what_or_why_has_entries_of_its_own() -> None:
    store, clock = Store(), FakeClock()
    async with a_log(store, clock) as log:
        await log.add(a_draft(), "NO")
        await log.add(a_draft("key_b"), "NO")
        await log.add(a_draft(tenant=OTHER), "NO")
        await log.add(a_draft(method="n"), "NO")
        await log.add(a_draft(), "NEVER")
    assert len(told(store)) == 5
    assert {repeats for _, _, repeats in told(store)} == {""}


async def test_one_that_comes_again_after_a_quiet_minute_is_written_at_once() -> None:
    store, clock = Store(), FakeClock()
    async with a_log(store, clock) as log:
        for _ in range(3):
            await log.add(a_draft(), "NO")
            clock.advance(seconds=WINDOW_SECONDS)
            await log.write_due()
        assert told(store) == [("key_a", "NO", "")] * 3


async def test_what_was_counted_is_written_when_the_service_stops() -> None:
    store = Store()
    async with a_log(store, FakeClock()) as log:
        for _ in range(3):
            await log.add(a_draft(), "NO")
    assert told(store) == [("key_a", "NO", ""), ("key_a", "NO", "2")]


async def test_what_cannot_be_written_now_is_counted_and_written_later() -> None:
    store, clock = Store(error=Unavailable("postgres")), FakeClock()
    async with a_log(store, clock) as log:
        await log.add(a_draft(), "NO")
        clock.advance(seconds=WINDOW_SECONDS)
        await log.write_due()
        await log.add(a_draft(), "NO")
        store.error = None
        clock.advance(seconds=WINDOW_SECONDS)
        await log.write_due()
        assert told(store) == [("key_a", "NO", "2")]


async def test_a_flood_of_one_tenant_drops_no_refusal_of_another() -> None:
    store, clock = Store(), FakeClock()
    async with a_log(store, clock) as log:
        async with asyncio.timeout(30):
            await asyncio.gather(*(log.add(a_draft(f"user_{number}"), "NO") for number in range(6_000)))
            await log.add(a_draft("key_of_other", tenant=OTHER), "NO")
        # Half of the places, and not one that somebody else needs.
        clock.advance(seconds=WINDOW_SECONDS)
        await log.write_due()
    actors = {draft.actor for draft, _ in store.entries}
    assert len(actors) == 2_501
    assert "key_of_other" in actors


async def test_background_work_writes_when_the_time_has_come() -> None:
    store, clock = Store(), FakeClock()
    async with a_log(store, clock) as log, asyncio.timeout(5):
        work = asyncio.create_task(log.write_repeats())
        for _ in range(2):
            await log.add(a_draft(), "NO")
        await clock.until_someone_sleeps()
        clock.advance(seconds=WINDOW_SECONDS)
        while len(store.entries) < 2:  # noqa: ASYNC110  # the work itself is what is waited for
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert told(store)[1] == ("key_a", "NO", "1")
