"""Measures the ledger of one tenant with a million charges: how fast they are written and added up, and how fast read.

A part of `make bench-cost`. Charges come in groups of 1,000, each a synced commit of role `app` under row-level
security; the last 5,000 are not added up when reports are read. `BENCH_LONG=1` makes it ten million, which takes a
quarter of an hour and 10 GB of disk.
"""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.baseline import MOST_HOURS
from services.cost.domain.cost_file import FileFormat
from services.cost.domain.hold import CostKind
from services.cost.domain.hourly_spend import HOUR, hour_of
from services.cost.domain.rollup import Span, Step
from services.cost.domain.velocity import RECENT
from services.cost.prices.snapshot import shipped_prices
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.storage.price_repository import PriceRepository
from services.cost.storage.rollup_store import RollupStore
from services.cost.storage.spend_reader import LedgerSpendReader
from services.cost.storage.use_store import UseStore
from services.cost.usecases.export_costs import Detail, ExportCosts, ExportOrder
from services.cost.usecases.forecast_ports import Spender
from services.cost.usecases.keep_uses import KeepUses
from services.cost.usecases.ledger_ports import CostFilter, Dimension, SeriesQuery, SummaryQuery
from services.cost.usecases.prices import CurrentPrices, import_prices
from services.cost.usecases.recommend_savings import RecommendSavings
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import driver_scope
from services.meshkit.testing.fake_clock import FakeClock

_SIZE: Final = (
    10_000_000
    if os.environ.get("BENCH_LONG") == "1"
    else 100_000
    if os.environ.get("BENCH_SHORT") == "1"
    else 1_000_000
)
EVENTS: Final = int(os.environ.get("BENCH_EVENTS") or _SIZE)
GOAL_INGEST: Final = 20_000
GOAL_SUMMARY_P95_SECONDS: Final = 0.100
GOAL_ADVICE_P95_SECONDS: Final = 0.500
GROUP: Final = 1000
TAIL: Final = 5_000
DAYS: Final = 30
START: Final = datetime(2026, 10, 1, tzinfo=UTC)
END: Final = START + timedelta(days=DAYS)
READS: Final = 20
#: Name, value, unit, goal and note.
Figure = tuple[str, float, str, float | None, str]
MODELS: Final = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-5", "claude-opus-5", "command-r", "embed-v4.0")

_TYPES: Final = (
    ("id", "uuid"),
    ("hold_id", "uuid"),
    ("model", "text"),
    ("run_id", "text"),
    ("agent_name", "text"),
    ("project", "text"),
    ("input_tokens", "bigint"),
    ("cost_nano_usd", "bigint"),
    ("created_time", "timestamptz"),
)
_ZERO: Final = tuple(f"{name}_tokens" for name in USAGE_CLASSES if name != "input")
_WRITE: Final = f"""
    INSERT INTO cost_event (tenant_id, kind, provider, path, attempt_group, call_index, agent_version, assumed,
                            reversal, {", ".join(name for name, _ in _TYPES)}, {", ".join(_ZERO)})
    SELECT ${len(_TYPES) + 1}, {int(CostKind.GENERATE)}, 'openai', 'rounds/1', 0, 0, '1.0.0', false, false,
           {", ".join(name for name, _ in _TYPES)}, {", ".join("0" for _ in _ZERO)}
    FROM unnest({", ".join(f"${place}::{kind}[]" for place, (_, kind) in enumerate(_TYPES, start=1))})
        AS item ({", ".join(name for name, _ in _TYPES)})"""


def a_group(random: Random, ids: SystemIds, first: int) -> list[list[object]]:
    """Makes charges in the order of time: 30 agents of 10 projects, a new run every 50 calls."""
    step = timedelta(days=DAYS) / EVENTS
    rows: list[tuple[object, ...]] = []
    for number in range(first, first + GROUP):
        agent = random.randrange(30)
        tokens = random.randrange(100, 4000)
        rows.append(
            (
                ids.uuid(),
                ids.uuid(),
                random.choice(MODELS),
                f"run_{number // 50 + random.randrange(20)}",
                f"agent-{agent}",
                f"project-{agent % 10}",
                tokens,
                tokens * 150,
                START + number * step,
            )
        )
    return [list(column) for column in zip(*rows, strict=True)]


async def ledger_figures(urls: DatabaseUrls) -> list[Figure]:
    """Lets a ledger grow and reads it."""
    random, ids = Random(7), SystemIds()
    tenant = TenantId(ids.uuid())
    async with (
        sql_engine(urls.app, pool_size=2) as app,
        sql_engine(urls.maintenance, pool_size=2) as maintenance,
    ):
        rollups, ledger = RollupStore(maintenance), LedgerRepository(app)
        writing = adding = 0.0
        for first in range(0, EVENTS, GROUP):
            columns = a_group(random, ids, first)
            began = time.perf_counter()
            async with driver_scope(app, tenant) as scope:
                await scope.driver.execute(_WRITE, *columns, tenant)
                await scope.commit()
            writing += time.perf_counter() - began
            if first % (20 * GROUP) == 19 * GROUP and first + GROUP < EVENTS:
                began = time.perf_counter()
                while await rollups.add_up(most=20_000):
                    pass
                adding += time.perf_counter() - began
        await _leave_a_tail(rollups)
        took = sorted(await _read(ledger, tenant, random))
        began = time.perf_counter()
        uses = UseStore(maintenance)
        await KeepUses(uses=uses, clock=FakeClock(END + timedelta(hours=1))).once()
        keeping = time.perf_counter() - began
        prices = PriceRepository(maintenance)
        await import_prices(prices, shipped_prices(), free_providers=(), now=START)
        reads = await _watched(app, ledger, prices, tenant)
    million = f"{EVENTS:,} charges of one tenant"
    return [
        ("ledger_ingest_events_per_s", EVENTS / writing, "1/s", GOAL_INGEST, f"{million}, in commits of {GROUP:,}"),
        ("ledger_rollup_events_per_s", EVENTS / adding, "1/s", None, "added to the sums of hours, days and runs"),
        ("summary_p50_seconds", took[len(took) // 2], "s", None, f"{million}; summaries by any dimension and span"),
        ("summary_p95_seconds", took[len(took) * 95 // 100], "s", GOAL_SUMMARY_P95_SECONDS, million),
        ("uses_kept_events_per_s", EVENTS / keeping, "1/s", None, "calls of 30 days counted by shape, once a day"),
        *reads,
    ]


async def _watched(
    app: AsyncEngine, ledger: LedgerRepository, table: PriceRepository, tenant: TenantId
) -> list[Figure]:
    """Reads what people and the watch ask for besides summaries."""
    clock = FakeClock(END - timedelta(minutes=90))
    now, hour, month = clock.now(), hour_of(clock.now()), Span(START, END)
    reader = LedgerSpendReader(app)
    prices = CurrentPrices(table, clock=clock, refresh_seconds=60)
    await prices.refresh()
    advise = RecommendSavings(reader=reader, prices=prices, clock=FakeClock(END))
    export = ExportCosts(ledger=ledger, clock=clock)

    async def look() -> None:
        await reader.since(tenant, hour)
        for by in Spender:
            await reader.shares(tenant, by, hour=hour, start=hour - timedelta(days=7))

    async def pace() -> None:
        await reader.since(tenant, now - RECENT, now - HOUR, now - timedelta(days=1), hour)

    async def export_days() -> None:
        async for _ in export(tenant, ExportOrder(form=FileFormat.CSV, detail=Detail.DAY, span=month)):
            pass

    async def top(by: Dimension) -> None:
        await ledger.summary(tenant, SummaryQuery(by=by, span=month), most_lines=10)

    async def series(step: Step) -> None:
        await ledger.series(tenant, SeriesQuery(by=Dimension.AGENT, step=step, span=month), most_lines=10)

    asked: tuple[tuple[str, Callable[[], Awaitable[object]], float | None, str], ...] = (
        ("recommendations", lambda: advise(tenant), GOAL_ADVICE_P95_SECONDS, "advice on the calls of 30 days"),
        (
            "forecast_history",
            lambda: reader.hourly(tenant, start=hour - MOST_HOURS * HOUR, end=hour),
            None,
            "the hours of eight weeks, which forecast and baseline rest on, without those remembered",
        ),
        ("spend_velocity", pace, None, "what was spent in the last minutes, hour and day"),
        ("spend_alert", look, None, "one look of the watch that finds who is behind a spike"),
        ("series_by_day", lambda: series(Step.DAY), None, "30 days of the ten dearest agents"),
        ("series_by_hour", lambda: series(Step.HOUR), None, "720 hours of the ten dearest agents"),
        ("top_agents", lambda: top(Dimension.AGENT), None, "of 30 days"),
        ("top_runs", lambda: top(Dimension.RUN), None, "of 30 days"),
        ("export_by_day", export_days, None, "a file of 30 days by project, agent, model and provider"),
    )
    figures: list[Figure] = []
    for name, ask, goal, note in asked:
        took: list[float] = []
        for _ in range(READS):
            began = time.perf_counter()
            await ask()
            took.append(time.perf_counter() - began)
        figures.append((f"{name}_p95_seconds", sorted(took)[READS * 95 // 100], "s", goal, note))
    figures.append(await _export_of_charges(export, tenant))
    return figures


async def _export_of_charges(export: ExportCosts, tenant: TenantId) -> Figure:
    """Writes a file with each charge of a day."""
    span = Span(END - timedelta(days=2), END - timedelta(days=1))
    lines, began = 0, time.perf_counter()
    async for piece in export(tenant, ExportOrder(form=FileFormat.CSV, detail=Detail.EVENT, span=span)):
        lines += piece.count(b"\n")
    note = f"a file of {lines:,} lines"
    return ("export_charges_per_s", lines / (time.perf_counter() - began), "1/s", None, note)


async def _leave_a_tail(rollups: RollupStore) -> None:
    """Adds all but the last charges up, as when a roll-up was a moment ago."""
    left = EVENTS % (20 * GROUP) or 20 * GROUP
    while left > TAIL:
        left -= await rollups.add_up(most=GROUP)


async def _read(ledger: LedgerRepository, tenant: TenantId, random: Random) -> list[float]:
    """Reads reports as people ask for them; gives the seconds of each."""
    took: list[float] = []
    for number in range(200):
        start = START + timedelta(seconds=random.randrange(DAYS * 86_400))
        spans = (
            Span(),
            Span(START, START + timedelta(days=DAYS)),
            Span(start, start + timedelta(hours=random.randrange(1, 200))),
            Span(Step.HOUR.floor(start)),
        )
        span = spans[number % len(spans)]
        by = random.choice([one for one in Dimension if one is not Dimension.RUN])
        only = CostFilter(project=random.choice((None, None, "project-3")))
        reads: Sequence[Callable[[], Awaitable[object]]] = (
            lambda by=by, span=span, only=only: ledger.summary(
                tenant, SummaryQuery(by=by, span=span, only=only), most_lines=500
            ),
            lambda start=start: ledger.summary(
                tenant,
                SummaryQuery(by=Dimension.RUN, span=Span(start, start + timedelta(days=1))),
                most_lines=20,
            ),
            lambda by=by: ledger.series(
                tenant,
                SeriesQuery(by=by, step=Step.DAY, span=Span(START, START + timedelta(days=DAYS))),
                most_lines=10,
            ),
        )
        read = reads[0] if number % 10 < 8 else reads[number % 10 - 7]
        began = time.perf_counter()
        await read()
        took.append(time.perf_counter() - began)
    return took
