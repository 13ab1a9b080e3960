"""Waits for money under a clock that stands still: nobody is left behind, and nothing is held for who is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.cost.domain.budget import tenant_budget_id
from services.cost.domain.errors import BudgetExhausted, RefusalCause
from services.cost.domain.hold import CostKind, Hold, HoldState
from services.cost.domain.hold_lines import HoldLines
from services.cost.usecases.askers import Asker, Item
from services.cost.usecases.hold_queue import HoldQueue
from services.cost.usecases.spend import Release, Reserve, Spend
from services.cost.usecases.spend_together import SpendTogether
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.content import Usage
from services.meshkit.core.errors import DeadlineExceeded
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.memory_spend_store import MemorySpendStore
from tests.support.money import ANNA, a_purpose
from tests.support.unknown_prices import refused_unknown_prices


class NoPrices:
    """What is asked for a call of a fixed price: nothing."""

    async def ensure(self, digests: set[bytes]) -> None:
        assert not digests


@dataclass
class Room:
    """A queue over a ledger in memory, of which a tenant may spend 100."""

    clock: FakeClock
    store: MemorySpendStore
    spend: SpendTogether

    async def asks(self, amount: int, *, request: UUID | None = None, **changes: Any) -> Hold | Asker:
        values: dict[str, Any] = {
            "tenant": ANNA,
            "request_id": request or uuid4(),
            "purpose": a_purpose(kind=CostKind.TOOL),
            "budgets": (),
            "bound": Usage(),
            "tool_cost": NanoUsd(amount),
            "ttl": timedelta(hours=1),
            "dispatched": True,
            "wait": timedelta(seconds=60),
            **changes,
        }
        return await self.spend.reserve(Reserve(**values))

    async def waits(self, amount: int, *, request: UUID | None = None) -> Asker:
        asker = await self.asks(amount, request=request)
        assert isinstance(asker, Asker)
        return asker

    async def holds(self, amount: int) -> Hold:
        hold = await self.asks(amount)
        assert isinstance(hold, Hold)
        return hold

    async def frees(self, hold: Hold) -> None:
        await self.spend.one(Release(tenant=ANNA, hold=hold.id, dispatched_unbilled=True))

    @property
    def held(self) -> int:
        return self.store.rows.budgets[tenant_budget_id(ANNA)].held


@asynccontextmanager
async def a_room() -> AsyncIterator[Room]:
    clock, news = FakeClock(), asyncio.Event()
    lines = HoldLines(changed=news.set)
    store = MemorySpendStore(tenant_limit=100, moved=lines.moved)
    spend = Spend(
        begin=store.begin,
        begin_patiently=store.begin,
        last_seen=store,
        prices=NoPrices(),  # type: ignore[arg-type]
        unknown=refused_unknown_prices(),
        lines=lines,
        clock=clock,
        ids=SystemIds(),
    )
    queue = HoldQueue(spend=spend, lines=lines, news=news, clock=clock, most=100, poll_seconds=0.5)
    async with GroupCommit[Item, Hold | Asker](queue.commit, name="test") as group, queue.over(group):
        yield Room(clock, store, SpendTogether(group, queue))


async def settled() -> None:
    """Lets everything run that can run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_hold_that_nobody_was_told_of_is_freed() -> None:
    async with a_room() as room:
        held = await room.holds(100)
        asker = await room.waits(60)
        await room.frees(held)
        await settled()
        # The hold is made and on its way as whoever asked goes away.
        assert room.held == 60
        asker.leave()
        await settled()
        assert room.held == 0


async def test_a_hold_that_one_of_two_was_told_of_stays() -> None:
    async with a_room() as room:
        held, request = await room.holds(100), uuid4()
        first, repeat = await room.waits(60, request=request), await room.waits(60, request=request)
        await room.frees(held)
        hold = await repeat.answer()
        first.leave()
        await settled()
        assert (room.held, hold.state) == (60, HoldState.DISPATCHED)


async def test_a_wait_ends_at_its_time_and_not_before() -> None:
    async with a_room() as room:
        await room.holds(100)
        asker = await room.waits(60)
        answer = asyncio.create_task(asker.answer())
        await room.clock.until_someone_sleeps()
        for _ in range(599):
            room.clock.advance(seconds=0.1)
            await settled()
        assert not answer.done()
        room.clock.advance(seconds=0.2)
        with pytest.raises(BudgetExhausted) as refusal:
            await answer
        assert refusal.value.cause is RefusalCause.HELD


async def test_nothing_is_held_for_a_caller_whose_time_is_up() -> None:
    async with a_room() as room:
        with pytest.raises(DeadlineExceeded):
            await room.asks(60, left=timedelta(0))
        held = await room.holds(100)
        asker = await room.asks(60, left=timedelta(seconds=5))
        assert isinstance(asker, Asker)
        # Time passes, and nobody has looked yet.
        room.clock.advance(seconds=5)
        await room.frees(held)
        with pytest.raises(BudgetExhausted):
            await asker.answer()
        await settled()
        assert room.held == 0


async def test_all_who_wait_are_told_when_the_process_stops() -> None:
    async with a_room() as room:
        await room.holds(100)
        answer = asyncio.create_task((await room.waits(60)).answer())
        await settled()
    with pytest.raises(Exception, match="cost does not answer"):
        await answer
