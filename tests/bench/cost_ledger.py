"""Measures the ledger of one tenant with a million charges: how fast they are written and added up, and how fast read.

A part of `make bench-cost`. Charges come in groups of 1,000, each a synced commit of role `app` under row-level
security; the last 5,000 are not added up when reports are read.
"""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from services.cost.domain.hold import CostKind
from services.cost.domain.rollup import Span, Step
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.storage.rollup_store import RollupStore
from services.cost.usecases.ledger_ports import CostFilter, Dimension, SeriesQuery, SummaryQuery
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.roles import DatabaseUrls
from services.meshkit.sql.scope import driver_scope

EVENTS: Final = int(os.environ.get("BENCH_EVENTS") or (100_000 if os.environ.get("BENCH_SHORT") == "1" else 1_000_000))
GOAL_INGEST: Final = 20_000
GOAL_SUMMARY_P95_SECONDS: Final = 0.100
GROUP: Final = 1000
TAIL: Final = 5_000
DAYS: Final = 30
START: Final = datetime(2026, 10, 1, tzinfo=UTC)
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


async def ledger_figures(urls: DatabaseUrls) -> list[tuple[str, float, str, float | None, str]]:
    """Gives figures: name, value, unit, goal and note."""
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
    million = f"{EVENTS:,} charges of one tenant"
    return [
        ("ledger_ingest_events_per_s", EVENTS / writing, "1/s", GOAL_INGEST, f"{million}, in commits of {GROUP:,}"),
        ("ledger_rollup_events_per_s", EVENTS / adding, "1/s", None, "added to the sums of hours, days and runs"),
        ("summary_p50_seconds", took[len(took) // 2], "s", None, f"{million}; summaries by any dimension and span"),
        ("summary_p95_seconds", took[len(took) * 95 // 100], "s", GOAL_SUMMARY_P95_SECONDS, million),
    ]


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
