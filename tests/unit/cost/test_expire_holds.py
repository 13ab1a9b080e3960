"""Holds end in time, whoever else has rows that cannot be written."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.cost.domain.changes import Changes
from services.cost.usecases.expire_holds import ExpireHolds
from services.cost.usecases.ports import Sweep
from services.meshkit.core.errors import Internal, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.memory_spend_store import MemorySpendStore
from tests.support.money import ANNA, BERT, MINUTE, NOON, a_budget, a_hold

CLEO = TenantId(UUID(int=0xC))


class Poisoned(MemorySpendStore):
    """Takes no changes of one tenant."""

    poison: TenantId | None = BERT
    away = False

    @asynccontextmanager
    async def sweep(self) -> AsyncGenerator[Sweep]:
        async with super().sweep() as work:
            save = work.save

            async def picky(changes: Changes) -> None:
                if self.away:
                    raise Unavailable("postgres")
                if any(budget.tenant == self.poison for budget in changes.budgets):
                    raise Internal("this row cannot be written")
                await save(changes)

            work.save = picky  # type: ignore[method-assign]
            yield work


def store_of(*tenants: TenantId) -> Poisoned:
    store = Poisoned()
    for number, tenant in enumerate(tenants):
        hold = a_hold(10, tenant=tenant, request_id=uuid4(), expires=NOON + number * timedelta(seconds=1))
        budget = store.rows.budgets.get(hold.budgets[0]) or a_budget(1000, tenant=tenant)
        held = a_budget(1000, tenant=tenant, held=budget.held + 10)
        store.rows.budgets[held.id] = held
        store.rows.holds[hold.id] = hold
    return store


def held(store: MemorySpendStore, tenant: TenantId) -> int:
    return sum(budget.held for budget in store.rows.budgets.values() if budget.tenant == tenant)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON + MINUTE)


async def test_one_that_cannot_be_ended_keeps_nobody_elses_waiting(clock: FakeClock) -> None:
    store = store_of(BERT, ANNA, BERT, CLEO)
    sweep = ExpireHolds(begin=store.sweep, clock=clock, every_seconds=1.0)
    while await sweep.once():
        pass
    assert [held(store, tenant) for tenant in (ANNA, BERT, CLEO)] == [0, 20, 0]


async def test_it_is_tried_again_after_a_while(clock: FakeClock) -> None:
    store = store_of(BERT, ANNA)
    sweep = ExpireHolds(begin=store.sweep, clock=clock, every_seconds=1.0)
    while await sweep.once():
        pass
    store.poison = None
    assert await sweep.once() == 0
    clock.advance(seconds=301)
    assert await sweep.once() == 1
    assert held(store, BERT) == 0


async def test_whatever_a_round_fails_by_the_next_one_comes(clock: FakeClock) -> None:
    store = store_of(ANNA)
    store.away = True
    running = asyncio.ensure_future(ExpireHolds(begin=store.sweep, clock=clock, every_seconds=1.0)())
    await clock.until_someone_sleeps()
    assert held(store, ANNA) == 10
    store.away = False
    clock.advance(seconds=1)
    await clock.until_someone_sleeps()
    assert held(store, ANNA) == 0
    running.cancel()
    await asyncio.wait([running])
