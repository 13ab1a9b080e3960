"""The tenant's own budget follows what the operator lets the tenant spend, on real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from services.cost.domain.budget import tenant_budget_id
from services.cost.storage.budget_repository import BudgetRepository
from services.cost.storage.unit_of_work import SpendStore
from services.cost.transport.convert import alert_to_message
from services.cost.usecases.follow_quotas import FollowQuotas
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.tenant import QuotaExceeded, Quotas
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.conftest import MakeDatabase
from tests.support.known_tenants import KnownTenants

DEFAULT = NanoUsd(1_000)


class Told(KnownTenants):
    """Tenants without news; the tests call `follow` themselves."""

    def ruled(self) -> tuple[TenantId, ...]:
        return ()

    @contextmanager
    def changed(self, listener: object) -> Iterator[None]:
        yield


class Room:
    """Two replicas over one database."""

    def __init__(self, stores: list[SpendStore], budgets: BudgetRepository) -> None:
        self.tenant, self.known, self.stores = TenantId(uuid4()), Told(), stores
        self._budgets = budgets
        clock = FakeClock()
        self.set_limit = SetBudgetLimit(begin=stores[0].begin, last_seen=stores[0], tenants=self.known, clock=clock)
        self._followers = [
            FollowQuotas(begin=store.begin, tenants=self.known, limited=store.limited, default=DEFAULT, clock=clock)
            for store in stores
        ]

    async def follow(self, quota: int) -> int:
        """Has both replicas hear of a quota at once; gives the limit that there is then."""
        self.known.set(self.tenant, quotas=Quotas(max_cost_nano_usd=quota))
        await asyncio.gather(*(follower.follow(self.tenant) for follower in self._followers))
        return await self.limit()

    async def limit(self) -> int:
        return (await self._budgets.get(self.tenant, tenant_budget_id(self.tenant))).limit

    async def lower(self, limit: int) -> None:
        await self.set_limit(self.tenant, tenant_budget_id(self.tenant), NanoUsd(limit))


@pytest.fixture
async def room(make_database: MakeDatabase) -> AsyncIterator[Room]:
    urls = await make_database("cost")
    await migrate("services.cost", urls.migrator)
    async with sql_engine(urls.app, pool_size=4) as app, sql_engine(urls.maintenance, pool_size=2) as maintenance:
        stores = [
            SpendStore(
                app=app,
                hasty=app,
                maintenance=maintenance,
                ids=SystemIds(),
                tenant_limit=DEFAULT,
                encode=alert_to_message,
                published=lambda: None,
                moved=lambda budgets: None,
            )
            for _ in range(2)
        ]
        yield Room(stores, BudgetRepository(app))


async def test_the_budget_gets_each_new_quota_as_its_limit_and_the_default_without_one(room: Room) -> None:
    assert [await room.follow(quota) for quota in (500, 5_000, 0)] == [500, 5_000, DEFAULT]


async def test_a_tenant_may_spend_less_than_its_quota_and_stays_so_while_the_quota_stays(room: Room) -> None:
    await room.follow(500)
    await room.lower(100)
    assert await room.follow(500) == 100
    assert await room.stores[0].limited() == [room.tenant]


async def test_a_tenant_cannot_let_itself_spend_more_than_its_quota(room: Room) -> None:
    await room.follow(500)
    with pytest.raises(QuotaExceeded) as refused:
        await room.lower(501)
    assert (refused.value.metadata["quota"], refused.value.metadata["limit"]) == ("max_cost_nano_usd", "500")
    assert await room.limit() == 500
