"""Rounds of deletion: in the order of trees, tenant by tenant in turn, and none held up by another."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import SecurityPolicy
from services.meshkit.testing.fake_clock import NOON, FakeClock
from services.orchestrator.usecases.delete_runs import AnotherDeletes, DeleteRuns, KeptRun
from services.orchestrator.usecases.retention import Retention
from tests.support.known_tenants import KnownTenants

TENANTS = [TenantId(UUID(int=number)) for number in range(1, 4)]
LONG_AGO = NOON - timedelta(days=31)


class ViewSealed(Unavailable):
    """What is kept of a run cannot be read now."""

    reason = "TEST_VIEW_SEALED"


class Kept:
    """Runs in memory, with what goes wrong about them."""

    def __init__(self, *, at_once: int = 4) -> None:
        self.runs: dict[TenantId, dict[str, KeptRun]] = {tenant: {} for tenant in TENANTS}
        self.unreadable: Mapping[TenantId, Exception] = {}
        self.broken: frozenset[str] = frozenset()
        self.taken_after: int | None = None
        self.trail_is_away = False
        self.deleted: list[str] = []
        self.noted: list[tuple[TenantId, int]] = []
        self.looked = 0
        #: What happens between two turns.
        self.meanwhile: Callable[[], None] = lambda: None
        self._at_once = at_once

    def add(self, tenant: TenantId, run_id: str, *, under: str = "", end: datetime | None = LONG_AGO) -> None:
        self.runs[tenant][run_id] = KeptRun(run_id=run_id, parent_run_id=under, end_time=end)

    async def old(self, tenant: TenantId, until: datetime, *, after: str | None) -> Sequence[str]:
        roots = sorted(run.run_id for run in self.runs[tenant].values() if not run.parent_run_id and run.end_time)
        return [run_id for run_id in roots if after is None or run_id > after][: self._at_once]

    async def look(self, tenant: TenantId, run_id: str) -> KeptRun | None:
        self.looked += 1
        if tenant in self.unreadable:
            raise self.unreadable[tenant]
        if run_id in self.broken:
            raise ValueError("a view that nobody can read")
        return self.runs[tenant].get(run_id)

    async def maybe_below(self, tenant: TenantId, run_id: str) -> Sequence[str]:
        return [run.run_id for run in self.runs[tenant].values() if run.parent_run_id]

    async def delete(self, tenant: TenantId, run_id: str) -> bool:
        if self.taken_after is not None and len(self.deleted) >= self.taken_after:
            raise AnotherDeletes
        self.deleted.append(run_id)
        return self.runs[tenant].pop(run_id, None) is not None

    async def note(self, tenant: TenantId, runs: int) -> None:
        if self.trail_is_away:
            raise Unavailable("postgres")
        self.noted.append((tenant, runs))
        self.meanwhile()


def deleting(kept: Kept, tenants: KnownTenants | None = None) -> DeleteRuns:
    known = tenants or KnownTenants()
    for tenant in TENANTS:
        known.set(tenant, security_policy=SecurityPolicy(delete_runs_after_days=30))
    clock = FakeClock()
    retention = Retention(known, clock=clock, keep=timedelta(days=90), silent_seconds=5.0)
    return DeleteRuns(deletions=kept, retention=retention, clock=clock, pause=timedelta(hours=1))


async def test_each_run_goes_after_all_that_it_started() -> None:
    kept = Kept()
    for run_id, under in (("a", ""), ("a1", "a"), ("a2", "a"), ("a11", "a1"), ("b", ""), ("b1", "b")):
        kept.add(TENANTS[0], run_id, under=under)
    assert await deleting(kept).round() == 6
    places = {run_id: at for at, run_id in enumerate(kept.deleted)}
    assert places["a11"] < places["a1"] < places["a"] > places["a2"]
    assert places["b1"] < places["b"]


@pytest.mark.parametrize("end", [None, NOON - timedelta(days=29)])
async def test_a_tree_stays_while_one_run_of_it_does(end: datetime | None) -> None:
    kept = Kept()
    for run_id, under, ended in (("a", "", LONG_AGO), ("a1", "a", LONG_AGO), ("a11", "a1", end), ("b", "", LONG_AGO)):
        kept.add(TENANTS[0], run_id, under=under, end=ended)
    assert await deleting(kept).round() == 1
    assert kept.deleted == ["b"]


async def test_tenants_take_turns_and_hear_how_many_went() -> None:
    kept = Kept()
    for tenant, count in zip(TENANTS, (20, 2, 6), strict=True):
        for at in range(count):
            kept.add(tenant, f"{tenant.int}_{at:05}")
    assert await deleting(kept).round() == 28
    assert max(at for at, run_id in enumerate(kept.deleted) if run_id.startswith("2_")) < 8
    assert {tenant: sum(runs for who, runs in kept.noted if who == tenant) for tenant in TENANTS} == {
        TENANTS[0]: 20,
        TENANTS[1]: 2,
        TENANTS[2]: 6,
    }


@pytest.mark.parametrize("error", [ViewSealed("the key service is away"), ValueError("a view that nobody can read")])
async def test_a_tenant_whose_runs_cannot_be_read_holds_up_no_other(error: Exception) -> None:
    kept = Kept()
    kept.unreadable = {TENANTS[0]: error}
    for tenant in TENANTS:
        for at in range(500 if tenant == TENANTS[0] else 3):
            kept.add(tenant, f"{tenant.int}_{at:05}")
    assert await deleting(kept).round() == 6
    assert kept.looked < 6 + 32


async def test_runs_that_cannot_be_read_hold_up_the_younger_ones_for_some_rounds_only() -> None:
    kept = Kept()
    for at in range(50):
        kept.add(TENANTS[0], f"run_{at:05}")
    kept.broken = frozenset(f"run_{at:05}" for at in range(40))
    worker = deleting(kept)
    assert [await worker.round() for _ in range(4)] == [0, 0, 10, 0]


async def test_what_the_audit_trail_does_not_take_it_is_told_in_the_next_round() -> None:
    kept = Kept()
    kept.trail_is_away = True
    for tenant in TENANTS:
        kept.add(tenant, f"{tenant.int}_0")
    worker = deleting(kept)
    assert await worker.round() == 3
    kept.trail_is_away = False
    assert await worker.round() == 0
    assert kept.noted == [(tenant, 1) for tenant in TENANTS]
    await worker.round()
    assert len(kept.noted) == 3


async def test_a_replica_leaves_it_to_the_one_that_is_at_it_and_tells_what_it_did() -> None:
    kept = Kept()
    kept.taken_after = 2
    for at in range(3):
        kept.add(TENANTS[0], f"run_{at}")
    assert await deleting(kept).round() == 2
    assert kept.noted == [(TENANTS[0], 2)]


async def test_a_tenant_that_takes_its_rule_back_loses_no_more_runs() -> None:
    kept, tenants = Kept(at_once=1), KnownTenants()
    for at in range(3):
        kept.add(TENANTS[0], f"run_{at}")
    kept.meanwhile = lambda: tenants.set(TENANTS[0])
    assert await deleting(kept, tenants).round() == 1


async def test_rounds_follow_each_other_and_wait_for_the_rules() -> None:
    kept, tenants, clock = Kept(), KnownTenants(), FakeClock()
    tenants.set(TENANTS[0], security_policy=SecurityPolicy(delete_runs_after_days=30))
    tenants.silent = float("inf")
    kept.add(TENANTS[0], "run_0")
    retention = Retention(tenants, clock=clock, keep=timedelta(days=90), silent_seconds=5.0)
    worker = DeleteRuns(deletions=kept, retention=retention, clock=clock, pause=timedelta(hours=1))
    working = asyncio.create_task(worker())
    try:
        await clock.until_someone_sleeps()
        assert kept.deleted == []
        tenants.silent = 0.0
        clock.advance(seconds=1)
        await clock.until_someone_sleeps()
        assert kept.deleted == ["run_0"]
        kept.add(TENANTS[0], "run_1")
        clock.advance(seconds=3_600)
        await clock.until_someone_sleeps()
        assert kept.deleted == ["run_0", "run_1"]
    finally:
        working.cancel()
