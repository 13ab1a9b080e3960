"""Rounds of the archive: each tenant has its turn, whatever the runs of others are like."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import SecurityPolicy
from services.meshkit.telemetry import names
from services.meshkit.testing.fake_clock import FakeClock
from services.orchestrator.domain.errors import RunNotFound
from services.orchestrator.usecases import archive_runs
from services.orchestrator.usecases.archive_runs import ArchiveRuns
from services.orchestrator.usecases.recorded_runs import RecordedRun, RecordedRuns
from services.orchestrator.usecases.retention import Retention
from tests.support.known_tenants import KnownTenants

NOW = datetime(2026, 1, 1, tzinfo=UTC)
#: When the runs ended.
LONG_AGO = NOW - timedelta(days=100)
TENANTS = [TenantId(UUID(int=number)) for number in range(1, 4)]


class BlobsMissing(Unavailable):
    """What the object store says of a fact that is not there."""

    reason = "TEST_BLOBS_MISSING"


class Shelf:
    """Keeps no more than which runs are due and in which order they came."""

    def __init__(self, runs: Mapping[TenantId, int], *, at_once: int = 4) -> None:
        self._due = {tenant: [f"run_{tenant.int}_{at:05}" for at in range(count)] for tenant, count in runs.items()}
        self._at_once = at_once
        self.moved: list[str] = []
        #: What happens after each run that is moved.
        self.meanwhile: Callable[[], None] = lambda: None

    async def due(
        self,
        until: datetime,
        own: Mapping[TenantId, datetime],
        *,
        after: TenantId | None,
        but: Collection[str],
        without: Collection[TenantId],
    ) -> Sequence[tuple[TenantId, str]]:
        found = [
            (tenant, run_id)
            for tenant in sorted(self._due)
            if tenant not in without and (after is None or tenant > after) and own.get(tenant, until) > LONG_AGO
            for run_id in self._due[tenant]
            if run_id not in but
        ]
        return found[: self._at_once]

    async def put(self, tenant: TenantId, run_id: str, part: int, content: bytes) -> None:
        """Keeps nothing."""

    async def take_out(self, run_id: str, *, parts: int, facts: int) -> bool:
        for runs in self._due.values():
            if run_id in runs:
                runs.remove(run_id)
        self.moved.append(run_id)
        self.meanwhile()
        return True


class Records:
    """Runs without facts; those of some tenants cannot be read."""

    def __init__(self, broken: Mapping[TenantId, Exception]) -> None:
        self.tried = 0
        self._broken = broken

    async def of_tenant(self, tenant: TenantId, run_id: str) -> RecordedRun:
        self.tried += 1
        if tenant in self._broken:
            raise self._broken[tenant]
        return RecordedRun(tenant=tenant, run_id=run_id, last_sequence=0, started=None, _records=cast(Any, self))

    async def rows(self, tenant: TenantId, run_id: str, *, after: int) -> Sequence[Any]:
        return ()

    async def archived(self, tenant: TenantId, run_id: str) -> None:
        """None of them is."""


def mover(shelf: Shelf, records: Records, tenants: KnownTenants | None = None) -> ArchiveRuns:
    day = timedelta(days=1)
    clock = FakeClock(NOW)
    runs = cast(RecordedRuns, records)
    retention = Retention(tenants or KnownTenants(), clock=clock, keep=day, silent_seconds=5.0)
    return ArchiveRuns(archive=shelf, runs=runs, retention=retention, clock=clock, pause=day)


@pytest.mark.parametrize("error", [BlobsMissing("a fact is not there"), ValueError("a row that nobody can read")])
async def test_a_tenant_whose_runs_cannot_be_archived_holds_up_no_other(error: Exception) -> None:
    shelf = Shelf({tenant: 1_500 if tenant == TENANTS[0] else 3 for tenant in TENANTS})
    records = Records({TENANTS[0]: error})
    assert await mover(shelf, records).round() == 6
    assert records.tried < 6 + 32


async def test_runs_that_are_deleted_meanwhile_are_no_failure() -> None:
    shelf = Shelf({TENANTS[0]: 40, TENANTS[1]: 3})
    records = Records({TENANTS[0]: RunNotFound("run_gone")})
    before = _failures()
    assert await mover(shelf, records).round() == 3
    assert records.tried == 43
    assert _failures() == before


def _failures() -> float:
    return REGISTRY.get_sample_value(names.JOURNAL_KEEPING_FAILED_TOTAL, {"work": "archive"}) or 0.0


async def test_tenants_take_turns() -> None:
    shelf = Shelf({TENANTS[0]: 20, TENANTS[1]: 2, TENANTS[2]: 6})
    assert await mover(shelf, Records({})).round() == 28
    places = {tenant: [at for at, run in enumerate(shelf.moved) if f"_{tenant.int}_" in run] for tenant in TENANTS}
    assert max(places[TENANTS[1]]) < 8
    assert max(places[TENANTS[2]]) < 20


async def test_a_tenant_that_has_its_runs_stay_longer_meanwhile_loses_no_more_of_them() -> None:
    shelf, tenants = Shelf({TENANTS[0]: 20, TENANTS[1]: 6}, at_once=4), KnownTenants()
    longer = SecurityPolicy(archive_after_days=365)
    shelf.meanwhile = lambda: tenants.set(TENANTS[0], security_policy=longer)
    assert await mover(shelf, Records({}), tenants).round() == 4 + 6


async def test_a_round_ends_while_the_gateway_is_silent() -> None:
    shelf, tenants = Shelf({TENANTS[0]: 20}, at_once=4), KnownTenants()

    def cut_off() -> None:
        tenants.silent = 6.0

    shelf.meanwhile = cut_off
    archiving = mover(shelf, Records({}), tenants)
    assert [await archiving.round() for _ in range(2)] == [4, 0]
    tenants.silent, shelf.meanwhile = 0.0, lambda: None
    assert await archiving.round() == 16


async def test_a_round_ends_when_nothing_can_be_archived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_runs, "_MOST_FAILED", 50)
    tenants = {TenantId(UUID(int=number)): 100 for number in range(1, 20)}
    records = Records(dict.fromkeys(tenants, BlobsMissing("the object store is away")))
    assert await mover(Shelf(tenants), records).round() == 0
    assert records.tried < 60
