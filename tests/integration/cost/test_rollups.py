"""Sums by hour and by day on real Postgres: they are what the entries are, whenever one asks."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.cost_event import CostEvent
from services.cost.domain.hold import CostKind
from services.cost.domain.rollup import Span, Step
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.storage.rollup_store import RollupStore
from services.cost.storage.tables import COST_EVENT
from services.cost.storage.tenant_data import TENANT_DATA
from services.cost.usecases.ledger_ports import CostFilter, Dimension, SeriesQuery, SummaryQuery, Sums
from services.meshkit.content import Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.sql.scope import Scope, maintenance_scope
from services.meshkit.sql.tenant_rows import TenantRows

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = datetime(2026, 3, 10, 22, tzinfo=UTC)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A ledger of this test's own tenant, and the sums over all tenants."""

    tenant: TenantId
    maintenance: AsyncEngine
    ledger: LedgerRepository
    rollups: RollupStore

    async def write(self, *rows: Row) -> None:
        async with maintenance_scope(self.maintenance) as scope:
            await self.put(scope, rows)
            await scope.commit()

    async def put(self, scope: Scope, rows: Sequence[Row]) -> None:
        await scope.execute(COST_EVENT.insert(), [{**row, "tenant_id": self.tenant} for row in rows])

    async def roll(self, *, most: int = 1000) -> None:
        while await self.rollups.add_up(most=most):
            pass

    async def entries(self, span: Span, only: CostFilter = CostFilter()) -> list[CostEvent]:  # noqa: B008 - frozen
        return await self.ledger.ascending(self.tenant, span, only, size=100, after=None)

    async def summary(self, **changes: Any) -> dict[str, Sums]:
        values: dict[str, Any] = {"by": Dimension.MODEL, **changes}
        query = SummaryQuery(**values)
        found = await self.ledger.summary(self.tenant, query, most_lines=500)
        assert found.cost == sum(line.sums.cost for line in found.lines)
        assert found.events == sum(line.sums.events for line in found.lines)
        assert found.unpriced == sum(line.sums.unpriced for line in found.lines)
        assert found.unpriced_events == sum(line.sums.unpriced_events for line in found.lines)
        return {line.key: line.sums for line in found.lines}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[Books]:
    urls = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", urls.migrator)
    async with (
        sql_engine(urls.app, pool_size=2) as app,
        sql_engine(urls.maintenance, pool_size=4) as maintenance,
    ):
        yield Books(
            tenant=TenantId(uuid4()),
            maintenance=maintenance,
            ledger=LedgerRepository(app),
            rollups=RollupStore(maintenance),
        )


@pytest.fixture
def books(database: Books) -> Books:
    return replace(database, tenant=TenantId(uuid4()))


def an_event(at: datetime = START, cost: int = 10, **changes: Any) -> Row:
    return {
        "id": uuid4(),
        "hold_id": uuid4(),
        "kind": int(CostKind.GENERATE),
        "provider": "openai",
        "model": "gpt-test",
        "run_id": "run_1",
        "path": "1",
        "attempt_group": 0,
        "call_index": 0,
        "agent_name": "Athena",
        "agent_version": "",
        "project": "apollo",
        **dict.fromkeys((f"{name}_tokens" for name in USAGE_CLASSES), 0),
        "input_tokens": cost,
        "cost_nano_usd": cost,
        "assumed": False,
        "reversal": False,
        "price_digest": None,
        "created_time": at,
        **changes,
    }


def some_events(random: Random, count: int) -> list[Row]:
    """Events of five days, many of them at the turn of an hour or of a day, some assumed, some taken back."""
    made: list[Row] = []
    for _ in range(count):
        at = START + timedelta(microseconds=random.randrange(5 * 86_400_000_000))
        if random.random() < 0.3:
            at = random.choice((Step.HOUR, Step.DAY)).floor(at) - timedelta(microseconds=random.choice((0, 1)))
        back = random.random() < 0.1
        made.append(
            an_event(
                at,
                random.randrange(10**9) * (-1 if back else 1),
                reversal=back,
                assumed=back or random.random() < 0.2,
                kind=int(random.choice(list(CostKind))),
                price_digest=random.choice((None, b"price", b"price")),
                provider=random.choice(("openai", "anthropic")),
                model=random.choice(("gpt-test", "other", "a" * 200, "=1+1")),
                run_id=random.choice(("run_1", "run_2", "direct_3")),
                agent_name=random.choice(("Athena", "Hermes", "", "ü" * 200)),
                project=random.choice(("", "apollo")),
            )
        )
    return made


def added(rows: Sequence[Row]) -> Sums:
    return Sums(
        events=sum(-1 if row["reversal"] else 1 for row in rows),
        usage=Usage(**{name: sum(row[f"{name}_tokens"] for row in rows) for name in USAGE_CLASSES}),
        cost=NanoUsd(sum(row["cost_nano_usd"] for row in rows)),
        assumed=NanoUsd(sum(row["cost_nano_usd"] for row in rows if row["assumed"])),
        unpriced_events=sum(-1 if row["reversal"] else 1 for row in rows if unpriced(row)),
        unpriced=NanoUsd(sum(row["cost_nano_usd"] for row in rows if unpriced(row))),
    )


def unpriced(row: Row) -> bool:
    return row["price_digest"] is None and not CostKind(row["kind"]).flat


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, Sums]:
    return {name: added([row for row in rows if key(row) == name]) for name in {key(row) for row in rows}}


KEYS: dict[Dimension, Callable[[Row], str]] = {
    Dimension.MODEL: lambda row: row["model"],
    Dimension.PROVIDER: lambda row: row["provider"],
    Dimension.AGENT: lambda row: row["agent_name"],
    Dimension.RUN: lambda row: row["run_id"],
    Dimension.PROJECT: lambda row: row["project"],
    Dimension.KIND: lambda row: CostKind(row["kind"]).name.lower(),
}


def matching(rows: Sequence[Row], span: Span, only: CostFilter) -> list[Row]:
    return [
        row
        for row in rows
        if (span.start is None or row["created_time"] >= span.start)
        and (span.end is None or row["created_time"] < span.end)
        and only.run_id in (None, row["run_id"])
        and only.project in (None, row["project"])
        and only.agent_name in (None, row["agent_name"])
    ]


@pytest.mark.parametrize("seed", range(8))
async def test_sums_are_those_of_the_entries_at_any_time(books: Books, seed: int) -> None:
    random = Random(seed)
    rows: list[Row] = []
    for _ in range(6):
        fresh = some_events(random, random.randrange(1, 40))
        await books.write(*fresh)
        rows += fresh
        if random.random() < 0.6:
            await books.rollups.add_up(most=random.choice((1, 10, 1000)))
        if random.random() < 0.2:
            await books.rollups.rebuild()
        for _ in range(6):
            ends = [None, *sorted(START + timedelta(minutes=random.randrange(-60, 6 * 1440)) for _ in range(2))]
            span = random.choice((Span(), Span(ends[1], ends[2]), Span(None, ends[1]), Span(ends[1], None)))
            only = CostFilter(
                run_id=random.choice((None, None, "run_1")),
                project=random.choice((None, "apollo")),
                agent_name=random.choice((None, None, "Athena")),
            )
            by = random.choice(list(KEYS))
            wanted = matching(rows, span, only)
            assert await books.summary(by=by, span=span, only=only) == grouped(wanted, KEYS[by])


@pytest.mark.parametrize("seed", range(4))
async def test_a_series_adds_up_to_its_summary(books: Books, seed: int) -> None:
    random = Random(seed)
    rows = some_events(random, 80)
    await books.write(*rows[:40])
    await books.roll()
    await books.write(*rows[40:])
    for step in Step:
        for by in (None, *KEYS):
            span = Span(step.floor(START), step.floor(START) + timedelta(days=4))
            query = SeriesQuery(by=by, step=step, span=span)
            lines = await books.ledger.series(books.tenant, query, most_lines=2)
            inside = matching(rows, span, CostFilter())
            for line in lines:
                for moment, sums in line.points.items():
                    shown = {one.key for one in lines}
                    mine = [
                        row
                        for row in inside
                        if step.floor(row["created_time"]) == moment
                        and (
                            by is None or KEYS[by](row) == line.key or (line.key is None and KEYS[by](row) not in shown)
                        )
                    ]
                    assert sums == added(mine)
            assert sum(sums.cost for line in lines for sums in line.points.values()) == added(inside).cost
            if by is not None:
                dearest = sorted(grouped(inside, KEYS[by]).items(), key=lambda item: (-item[1].cost, item[0]))
                assert [line.key for line in lines][:2] == [key for key, _ in dearest[:2]]
                assert [line.key for line in lines][2:] == [None] * (len(dearest) > 2)


async def test_tools_are_added_up_alone(books: Books) -> None:
    kinds = {CostKind.TOOL: "search", CostKind.MEMORY: "recall", CostKind.JUDGE: "gpt-test", CostKind.GENERATE: "gpt"}
    await books.write(*(an_event(cost=int(kind), kind=int(kind), model=model) for kind, model in kinds.items()))
    for _ in range(2):
        found = await books.summary(by=Dimension.TOOL)
        assert {key: sums.cost for key, sums in found.items()} == {"search": 3, "recall": 4}
        await books.roll()


async def test_an_entry_whose_commit_comes_late_is_not_passed_by(books: Books) -> None:
    async with AsyncExitStack() as opened:
        late = await opened.enter_async_context(maintenance_scope(books.maintenance))
        await books.put(late, [an_event(cost=1)])
        await books.write(an_event(cost=2))
        await books.roll()
        assert (await books.summary())["gpt-test"].cost == 2
        await late.commit()
    assert (await books.summary())["gpt-test"].cost == 3
    await books.roll()
    assert (await books.summary())["gpt-test"].cost == 3
    async with maintenance_scope(books.maintenance, read_only=True) as scope:
        query = text("SELECT sum(cost_nano_usd) FROM cost_day WHERE tenant_id = :tenant")
        assert (await scope.execute(query, {"tenant": books.tenant})).scalar_one() == 3


async def test_two_replicas_add_each_entry_once(books: Books) -> None:
    await books.write(an_event())
    async with maintenance_scope(books.maintenance) as scope:
        await scope.execute(text("SELECT 1 FROM rollup_mark FOR UPDATE"))
        assert await books.rollups.add_up(most=10) == 0
    await books.roll()
    await books.roll()
    assert (await books.summary())["gpt-test"].cost == 10


async def test_a_database_that_came_from_another_cluster_is_added_up_anew(books: Books) -> None:
    await books.write(an_event(cost=1))
    await books.roll()
    await books.write(an_event(cost=2))
    async with maintenance_scope(books.maintenance) as scope:
        far = {"tenant": books.tenant, "far": 2**40}
        await scope.execute(text("UPDATE cost_event SET ledger_xid = :far WHERE tenant_id = :tenant"), far)
        await scope.execute(text("UPDATE rollup_mark SET ledger_xid = :far"), {"far": 2**40 + 1})
        await scope.commit()
    assert await books.rollups.follow_cluster()
    assert not await books.rollups.follow_cluster()
    assert (await books.summary())["gpt-test"].cost == 3
    await books.write(an_event(cost=4))
    await books.roll()
    assert (await books.summary())["gpt-test"].cost == 7


async def test_old_entries_go_once_they_are_in_the_sums_which_stay(books: Books) -> None:
    old = START - timedelta(days=500)
    await books.write(an_event(old, 1), an_event(old + timedelta(minutes=90), 2), an_event(START, 4))
    cut = datetime(2026, 1, 1, tzinfo=UTC)
    await books.rollups.keep_from(cut)
    assert await books.rollups.forget(cut, most=100) == 0
    await books.roll()
    assert await books.rollups.forget(cut, most=100) == 2
    assert len(await books.ledger.page(books.tenant, CostFilter(), size=10, after=None)) == 1
    for _ in range(2):
        assert (await books.summary())["gpt-test"].cost == 7
        assert (await books.summary(span=Span(None, old + timedelta(hours=1))))["gpt-test"].cost == 1
        assert (await books.summary(by=Dimension.RUN, span=Span(None, cut)))["run_1"].cost == 3
        await books.rollups.rebuild()
    with pytest.raises(Invalid, match="full hour"):
        await books.summary(span=Span(old + timedelta(minutes=5)))
    for span in (Span(), Span(old), Span(old + timedelta(minutes=10), old + timedelta(minutes=20))):
        with pytest.raises(Invalid, match="single charges"):
            await books.summary(span=span, only=CostFilter(run_id="run_1"))
        with pytest.raises(Invalid, match="single charges"):
            await books.entries(span)
    assert [entry.cost for entry in await books.entries(Span(cut))] == [4]


async def test_charges_of_a_run_that_began_later_are_all_there(books: Books) -> None:
    old = START - timedelta(days=500)
    await books.write(an_event(old, 1, run_id="run_0"), an_event(START, 4))
    await books.roll()
    await books.rollups.keep_from(datetime(2026, 1, 1, tzinfo=UTC))
    assert (await books.summary(only=CostFilter(run_id="run_1")))["gpt-test"].cost == 4
    assert [entry.cost for entry in await books.entries(Span(), CostFilter(run_id="run_1"))] == [4]


async def test_old_charges_of_other_projects_make_no_difference(books: Books) -> None:
    old = START - timedelta(days=500)
    await books.write(
        an_event(old, 1, project="vega", run_id="run_v"),
        an_event(START, 2, project="vega", run_id="run_v"),
        an_event(START, 4, project="vega", run_id="run_w"),
        an_event(),
    )
    await books.roll()
    cut = datetime(2026, 1, 1, tzinfo=UTC)
    await books.rollups.keep_from(cut)
    await books.rollups.forget(cut, most=100)
    for run in ("run_v", "run_1", "run_unknown", None):
        mine = await books.summary(by=Dimension.RUN, only=CostFilter(run_id=run, project="apollo"))
        assert sum(sums.cost for sums in mine.values()) == (10 if run in ("run_1", None) else 0), run
    began_later = await books.summary(by=Dimension.RUN, only=CostFilter(run_id="run_w", project="vega"))
    assert began_later["run_w"].cost == 4
    for run, kept in (("run_v", 2), ("run_unknown", 0), (None, 6)):
        with pytest.raises(Invalid, match="single charges"):
            await books.summary(by=Dimension.RUN, only=CostFilter(run_id=run, project="vega"))
        later = await books.summary(by=Dimension.RUN, span=Span(cut), only=CostFilter(run_id=run, project="vega"))
        assert sum(sums.cost for sums in later.values()) == kept


async def test_a_transaction_that_stays_open_hides_no_entry_from_an_export(books: Books) -> None:
    await books.write(an_event(START, 1))
    async with maintenance_scope(books.maintenance) as scope:
        await books.put(scope, [an_event(START, 2)])
        await books.write(an_event(START, 4))
        assert sorted(entry.cost for entry in await books.entries(Span())) == [1, 4]


async def test_an_erased_tenants_sums_stay_without_the_names(books: Books) -> None:
    await books.write(*(an_event(agent_name=name, project="apollo") for name in ("Athena", "Hermes")))
    await books.roll()
    rows = TenantRows("cost", books.maintenance, TENANT_DATA)
    sums = [one for one in TENANT_DATA if one.table in ("cost_hour", "cost_day", "cost_event")]
    assert [await rows.erase(books.tenant, one) for one in sums] == [2, 2, 2]
    assert [await rows.erase(books.tenant, one) for one in sums] == [0, 0, 0]
    assert {key: line.cost for key, line in (await books.summary(by=Dimension.AGENT)).items()} == {"": 20}


async def test_one_whose_sums_are_beyond_every_number_keeps_nobody_elses_waiting(books: Books) -> None:
    other = replace(books, tenant=TenantId(uuid4()))
    for hour in range(2):
        absurd = [an_event(START + timedelta(hours=hour), 2**62, input_tokens=2**40) for _ in range(3)]
        await books.write(*absurd)
        await other.write(an_event(START, 7))
        await books.roll()
    assert (await other.summary(span=Span()))["gpt-test"].cost == 14
    query = SummaryQuery(by=Dimension.MODEL, span=Span())
    found = await books.ledger.summary(books.tenant, query, most_lines=10)
    assert (found.cost, found.events) == (2**63 - 1, 6)
