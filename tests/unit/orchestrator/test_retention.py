"""How long runs stay: the rule of a tenant goes before what the operator says, and nobody guesses a rule."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import Quotas, SecurityPolicy, TenantState
from services.meshkit.testing.fake_clock import FakeClock
from services.orchestrator.usecases.retention import Retention
from tests.support.known_tenants import KnownTenants

ONE, OTHER, THIRD = (TenantId(UUID(int=number)) for number in (1, 2, 3))
DAY = timedelta(days=1)


def test_the_archive_goes_by_the_tenant_then_by_the_operator() -> None:
    tenants, clock = KnownTenants(), FakeClock()
    retention = Retention(tenants, clock=clock, keep=90 * DAY, silent_seconds=5.0, own={ONE: 7 * DAY, OTHER: 8 * DAY})
    tenants.set(ONE, security_policy=SecurityPolicy(archive_after_days=365))
    tenants.set(OTHER, quotas=Quotas(max_agents=1))
    tenants.set(THIRD, security_policy=SecurityPolicy(archive_after_days=1))
    now = clock.now()
    assert retention.archived() == (now - 90 * DAY, {ONE: now - 365 * DAY, OTHER: now - 8 * DAY, THIRD: now - DAY})


def test_runs_are_deleted_of_active_tenants_that_say_so() -> None:
    tenants, clock = KnownTenants(), FakeClock()
    retention = Retention(tenants, clock=clock, keep=90 * DAY, silent_seconds=5.0)
    rule = SecurityPolicy(delete_runs_after_days=30)
    tenants.set(ONE, security_policy=rule)
    tenants.set(OTHER, security_policy=SecurityPolicy(archive_after_days=30))
    assert retention.deleting() == [ONE]
    assert retention.deleted(ONE) == clock.now() - 30 * DAY
    assert retention.deleted(OTHER) is retention.deleted(THIRD) is None
    for state in set(TenantState) - {TenantState.ACTIVE}:
        tenants.set(ONE, security_policy=rule, state=state)
        assert retention.deleting() == []


def test_no_rule_is_older_than_the_first_run_there_can_be() -> None:
    tenants = KnownTenants()
    tenants.set(ONE, security_policy=SecurityPolicy(archive_after_days=36_500, delete_runs_after_days=36_500))
    retention = Retention(tenants, clock=FakeClock(), keep=DAY, silent_seconds=5.0)
    first = datetime(1970, 1, 1, tzinfo=UTC)
    moments = retention.archived()
    assert moments is not None
    assert retention.deleted(ONE) == moments[1][ONE] == first


def test_nothing_is_archived_of_tenants_whose_rules_may_not_be_kept() -> None:
    tenants, clock = KnownTenants(), FakeClock()
    retention = Retention(tenants, clock=clock, keep=90 * DAY, silent_seconds=5.0, own={OTHER: 7 * DAY, THIRD: 7 * DAY})
    tenants.set(ONE, security_policy=SecurityPolicy(archive_after_days=365))
    tenants.set(OTHER, quotas=Quotas(max_agents=1))
    tenants.is_cut = True
    now = clock.now()
    first = datetime(1970, 1, 1, tzinfo=UTC)
    assert retention.archived() == (first, {ONE: now - 365 * DAY, OTHER: now - 7 * DAY})


async def test_nothing_goes_by_rules_that_nobody_has_heard_of_lately() -> None:
    tenants, clock = KnownTenants(), FakeClock()
    tenants.set(ONE, security_policy=SecurityPolicy(delete_runs_after_days=30))
    retention = Retention(tenants, clock=clock, keep=DAY, silent_seconds=5.0)
    tenants.silent = float("inf")
    assert retention.deleting() == []
    assert retention.archived() is None
    waiting = asyncio.create_task(retention.known())
    await clock.until_someone_sleeps()
    tenants.silent = 1.0
    clock.advance(seconds=1)
    await waiting
    assert retention.deleting() == [ONE]
