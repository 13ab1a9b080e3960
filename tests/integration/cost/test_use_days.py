"""What is read of the ledger for watching and advice is the same before, during and after it is added up and kept."""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import func, select

from services.cost.domain.use_history import Use
from services.cost.storage.rollup_store import RollupStore
from services.cost.storage.spend_reader import LedgerSpendReader
from services.cost.storage.tables import COST_EVENT, COST_USE_DAY
from services.cost.storage.use_store import UseStore
from services.cost.usecases.forecast_ports import WHOLE, Shares, Spender, SpendPart
from services.cost.usecases.keep_uses import KeepUses
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.sql.scope import maintenance_scope
from services.meshkit.testing.fake_clock import FakeClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

TODAY = datetime(2026, 3, 31, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START = TODAY - 30 * DAY
PARTS = (
    WHOLE,
    SpendPart(agent="Athena"),
    SpendPart(project="apollo"),
    SpendPart(run_id="run_1"),
    SpendPart(run_id="run_1", path="1"),
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A ledger of this test's own tenant."""

    tenant: TenantId
    reader: LedgerSpendReader
    rollups: RollupStore
    uses: UseStore
    engines: tuple[Any, Any]

    async def write(self, rows: Sequence[Row]) -> None:
        async with maintenance_scope(self.engines[1]) as scope:
            await scope.execute(COST_EVENT.insert(), [{"tenant_id": self.tenant, **row} for row in rows])
            await scope.commit()

    async def roll(self, *, most: int = 1000) -> None:
        while await self.rollups.add_up(most=most):
            pass

    async def advised_on(self, start: datetime = START) -> list[Use]:
        return await self.reader.uses(self.tenant, start=start, end=TODAY)

    async def sums(self) -> list[Any]:
        """All that watching and forecasting read."""
        hour = TODAY - 5 * HOUR
        starts = (TODAY - timedelta(minutes=90), hour, TODAY - DAY, START)
        return [
            *[await self.reader.hourly(self.tenant, start=START, end=TODAY, part=part) for part in PARTS],
            await self.reader.since(self.tenant, *starts),
            *[await self.reader.shares(self.tenant, by, hour=hour, start=hour - 7 * DAY) for by in Spender],
        ]


@pytest_asyncio.fixture(loop_scope="module")
async def books(postgres: str) -> AsyncIterator[Books]:
    urls = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", urls.migrator)
    async with (
        sql_engine(urls.app, pool_size=2) as app,
        sql_engine(urls.maintenance, pool_size=2) as maintenance,
    ):
        yield Books(
            tenant=TenantId(uuid4()),
            reader=LedgerSpendReader(app),
            rollups=RollupStore(maintenance),
            uses=UseStore(maintenance),
            engines=(app, maintenance),
        )


def a_call(random: Random, at: datetime, **changes: Any) -> Row:
    prompt = random.choice((200, 900, 1_000, 1_100, 50_000))
    return {
        "id": uuid4(),
        "hold_id": uuid4(),
        "kind": random.choice((1, 1, 1, 2, 3)),
        "provider": random.choice(("openai", "anthropic")),
        "model": random.choice(("gpt-test", "ü" * 200)),
        "run_id": random.choice(("run_1", "run_2")),
        "path": random.choice(("1", "1/a", "10")),
        "attempt_group": 0,
        "call_index": 0,
        "agent_name": random.choice(("Athena", "Hermes", "")),
        "agent_version": "",
        "project": random.choice(("", "apollo")),
        **dict.fromkeys((f"{name}_tokens" for name in USAGE_CLASSES), 0),
        "input_tokens": prompt,
        "output_tokens": random.choice((0, 100, 5_000)),
        "cost_nano_usd": prompt * random.randrange(1, 90),
        "assumed": random.random() < 0.1,
        "reversal": False,
        "note": "priced anew" if random.random() < 0.1 else "",
        "price_digest": None,
        "created_time": at,
        **changes,
    }


def some_calls(seed: int, count: int = 800) -> list[Row]:
    """Calls of a month in bursts, some at the turn of an hour or a day."""
    random = Random(seed)
    made: list[Row] = []
    while len(made) < count:
        at = START + timedelta(seconds=random.randrange(30 * 86_400))
        if random.random() < 0.3:
            at = at.replace(minute=0, second=0) - timedelta(microseconds=random.randrange(2))
        made += [a_call(random, at + timedelta(minutes=minute)) for minute in (0, 2, 4, 6)]
    return [row for row in made if row["created_time"] < TODAY]


def spent_by_hour(rows: Sequence[Row], **named: str) -> dict[datetime, int]:
    found: dict[datetime, int] = {}
    for row in rows:
        if row["note"] == "" and row["created_time"] >= START and all(row[key] == name for key, name in named.items()):
            hour = row["created_time"].replace(minute=0, second=0, microsecond=0)
            found[hour] = found.get(hour, 0) + row["cost_nano_usd"]
    return found


async def test_sums_are_those_of_the_calls_however_far_they_are_added_up(books: Books) -> None:
    rows = some_calls(1)
    half = len(rows) // 2
    for part in (rows[:half], rows[half:]):
        await books.write(part)
    before = await books.sums()
    hourly = [{hour: cost for hour, cost in found.items() if cost} for found in before[: len(PARTS)]]
    assert hourly[0] == {hour: cost for hour, cost in spent_by_hour(rows).items() if cost}
    assert hourly[1] == spent_by_hour(rows, agent_name="Athena")
    assert hourly[2] == spent_by_hour(rows, project="apollo")
    assert hourly[3] == spent_by_hour(rows, run_id="run_1")
    below = spent_by_hour([row for row in rows if row["path"] != "10"], run_id="run_1")
    assert hourly[4] == below
    calls = [row for row in rows if row["note"] == ""]
    since = before[len(PARTS)]
    assert since == tuple(
        sum(row["cost_nano_usd"] for row in calls if row["created_time"] >= start)
        for start in (TODAY - timedelta(minutes=90), TODAY - 5 * HOUR, TODAY - DAY, START)
    )
    await books.rollups.add_up(most=1)
    assert _plain(await books.sums()) == _plain(before)
    await books.roll()
    assert _plain(await books.sums()) == _plain(before)


def _plain(sums: list[Any]) -> list[Any]:
    """Leaves out hours that add up to nothing."""
    return [
        {hour: cost for hour, cost in found.items() if cost} if isinstance(found, dict) else found for found in sums
    ]


async def test_what_was_priced_anew_is_no_spending_of_its_hour(books: Books) -> None:
    random, at = Random(1), TODAY - HOUR
    usual = {"kind": 1, "assumed": False, "cost_nano_usd": 100, "agent_name": "Athena", "run_id": "run_1"}
    await books.write([a_call(random, at, **usual, note=""), a_call(random, at, **usual, note="priced anew")])
    await books.roll()
    assert await books.reader.hourly(books.tenant, start=START, end=TODAY) == {at: 100}
    assert await books.reader.since(books.tenant, at, at - HOUR / 2) == (100, 100)
    shares = await books.reader.shares(books.tenant, Spender.RUN, hour=at, start=at - DAY)
    assert shares == Shares(since={"run_1": 100}, before={"run_1": 0})


async def test_advice_rests_on_the_same_calls_whether_their_days_are_kept_or_not(books: Books) -> None:
    await books.write(some_calls(2))
    await books.roll()
    fresh = await books.advised_on()
    assert sum(use.calls for use in fresh) > 200
    assert any(day.long_calls for use in fresh for day in use.days)
    assert {day.warm_calls > 0 for use in fresh for day in use.days} == {True, False}
    # Half of the days, then all.
    for day in range(15):
        await books.uses.keep(books.tenant, START + day * DAY)
    assert await books.advised_on() == fresh
    clock = FakeClock(TODAY + timedelta(minutes=11))
    assert await KeepUses(uses=books.uses, clock=clock).once() > 0
    assert await books.uses.behind(start=START, end=TODAY) == []
    assert await books.advised_on() == fresh
    # To keep a day again changes nothing, and what is kept is not looked for in the ledger.
    assert await books.uses.keep(books.tenant, TODAY - DAY) == 0
    async with maintenance_scope(books.engines[1]) as scope:
        await scope.execute(COST_EVENT.delete())
        await scope.commit()
    assert await books.advised_on() == fresh
    assert {day.day for use in await books.advised_on(TODAY - DAY) for day in use.days} == {(TODAY - DAY).date()}


async def test_a_day_is_kept_once_it_is_over_and_dropped_when_nobody_looks_back_on_it(books: Books) -> None:
    call = {"kind": 1, "note": "", "assumed": False, "model": "gpt-test"}
    await books.write([a_call(Random(3), TODAY + days * DAY, **call) for days in (-2, -1, 0)])
    await books.roll()
    clock = FakeClock(TODAY + timedelta(minutes=9))
    keep = KeepUses(uses=books.uses, clock=clock)
    # Until ten minutes into the day the day before may still change.
    assert await keep.once() == 1
    assert await keep.once() == 0
    clock.advance(seconds=120)
    assert await keep.once() == 1
    clock.advance(seconds=DAY.total_seconds())
    assert await keep.once() == 1
    clock.advance(seconds=30 * DAY.total_seconds())
    assert await keep.once() == 0
    async with maintenance_scope(books.engines[1], read_only=True) as scope:
        assert (await scope.execute(select(func.count()).select_from(COST_USE_DAY))).scalar_one() == 0


async def test_nobody_is_advised_on_the_calls_of_others(books: Books) -> None:
    await books.write(some_calls(4, count=100))
    await books.roll()
    await KeepUses(uses=books.uses, clock=FakeClock(TODAY + HOUR)).once()
    stranger = TenantId(uuid4())
    assert await books.advised_on() != []
    assert await books.reader.uses(stranger, start=START, end=TODAY) == []
    assert await books.reader.hourly(stranger, start=START, end=TODAY) == {}
