"""The tenant's own budget follows what the operator lets the tenant spend, on real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.budget import Budget, BudgetScope, tenant_budget_id
from services.cost.domain.node import NodeKey
from services.cost.domain.period import Period
from services.cost.domain.terms import BudgetMode, Terms, TermsChange
from services.cost.storage.budget_repository import BudgetRepository
from services.cost.storage.unit_of_work import SpendStore
from services.cost.transport.convert import alert_to_message
from services.cost.usecases.follow_quotas import FollowQuotas
from services.cost.usecases.set_budget import SetBudget
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.tenant import QuotaExceeded, Quotas
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.scope import driver_scope
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
    """Two replicas over one database. Each hears of quotas for itself."""

    def __init__(self, stores: list[SpendStore], app: AsyncEngine) -> None:
        self.tenant, self.known, self.stores = TenantId(uuid4()), [Told(), Told()], stores
        self.app, self._budgets = app, BudgetRepository(app)
        self._clock = FakeClock()
        self._followers = [
            FollowQuotas(begin=store.begin, tenants=known, limited=store.limited, default=DEFAULT, clock=self._clock)
            for store, known in zip(stores, self.known, strict=True)
        ]

    async def follow(self, quota: int, *replicas: int) -> int:
        """Has both replicas hear of a quota at once, or some of them; gives the limit that there is then."""
        for replica in replicas or (0, 1):
            self.known[replica].set(self.tenant, quotas=Quotas(max_cost_nano_usd=quota))
        await asyncio.gather(*(self._followers[replica].follow(self.tenant) for replica in replicas or (0, 1)))
        return await self.limit()

    async def own(self) -> Budget:
        return await self._budgets.get(self.tenant, tenant_budget_id(self.tenant))

    async def limit(self) -> int:
        return (await self.own()).limit

    async def lower(self, limit: int, *, replica: int = 0) -> None:
        store = self.stores[replica]
        change = SetBudgetLimit(begin=store.begin, last_seen=store, clock=self._clock)
        await change(self.tenant, tenant_budget_id(self.tenant), NanoUsd(limit))

    async def define(self, *, replica: int = 0, **terms: Any) -> Budget:
        values: dict[str, Any] = {"limit": NanoUsd(0), **terms}
        to = Terms(**values)
        change = SetBudget(begin=self.stores[replica].begin, clock=self._clock)
        own = NodeKey(BudgetScope.TENANT, "")
        return await change(self.tenant, own, TermsChange(named=frozenset(terms), to=to))


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
        yield Room(stores, app)


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


@pytest.mark.parametrize("replica", [0, 1])
async def test_a_replica_that_has_not_heard_of_the_quota_lets_nobody_beyond_it(room: Room, replica: int) -> None:
    await room.follow(5_000, 0)
    for _ in range(2):
        # The second time the replica has seen the row, and decides without a lock first.
        with pytest.raises(QuotaExceeded):
            await room.lower(10**12, replica=replica)
        with pytest.raises(QuotaExceeded):
            await room.define(limit=NanoUsd(10**12), replica=replica)
        await room.lower(700, replica=replica)
    with pytest.raises(Invalid):
        await room.define(mode=BudgetMode.SOFT, replica=replica)
    with pytest.raises(Invalid):
        await room.define(period=Period.DAY, replica=replica)
    assert await room.follow(5_000) == 700


async def test_what_a_release_before_let_through_is_mended_by_the_next_who_hears_the_quota(room: Room) -> None:
    await room.follow(500)
    async with driver_scope(room.app, room.tenant) as scope:
        await scope.driver.execute(
            "UPDATE budget SET limit_nano_usd = 10 ^ 12, own_limit_nano_usd = 10 ^ 12 WHERE id = $1", room.tenant
        )
        await scope.commit()
    assert await room.follow(500, 1) == 500


async def test_the_tenants_own_limit_stays_beside_the_quota(room: Room) -> None:
    assert [await room.follow(500), await room.lower(100), await room.follow(600)] == [500, None, 100]
    assert [await room.follow(quota) for quota in (60, 600, 0)] == [60, 100, 100]
    assert await room.stores[0].limited() == []


async def test_the_tenants_period_and_mode_come_back_with_the_quota(room: Room) -> None:
    await room.lower(900)
    await room.define(mode=BudgetMode.SOFT, period=Period.MONTH, zone="Europe/Berlin")
    assert await room.follow(500) == 500
    held_back = await room.own()
    assert (held_back.mode, held_back.period, held_back.turn) == (BudgetMode.HARD, Period.NONE, None)
    await room.define(warn_at=55)
    assert await room.follow(0) == 900
    back = await room.own()
    assert (back.mode, back.period, back.zone) == (BudgetMode.SOFT, Period.MONTH, "Europe/Berlin")
    assert (back.warn_at, back.turn is None) == (55, False)
