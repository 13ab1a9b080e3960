"""What runs were estimated at and took, and what is learnt from it."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.sql.scope import DriverScope, driver_scope
from services.orchestrator.domain.estimator import Habits, keys_of
from services.orchestrator.domain.run_shape import Amount, Prices, RunShape
from services.orchestrator.storage.advisory_locks import ESTIMATES_LOCK
from services.orchestrator.storage.habits_codec import (
    fit_from_json,
    prices_from_json,
    prices_to_json,
    run_from_json,
    run_to_json,
    turn_from_json,
    turn_to_json,
    work_from_json,
    work_to_json,
)
from services.orchestrator.usecases.estimate_ports import EstimatedRun, Lesson

_TURN: Final = "turn"
_WORK: Final = "work"
_RUN: Final = "run"
_PRICE: Final = "price"
#: Runs of one tenant that wait to be learnt from: of more that have not ended, the later ones are not learnt from.
_MOST_PENDING: Final = 1_000
_GATHERED_AT_ONCE: Final = 200
#: Of one tenant, that are kept.
MOST_ESTIMATES: Final = 10_000
MOST_HABITS: Final = 5_000
#: Tenants are found one after the other by the index.
_GATHER: Final = """
    WITH RECURSIVE having_runs (tenant_id) AS (
        (SELECT tenant_id FROM run ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT run.tenant_id FROM run WHERE run.tenant_id > before.tenant_id ORDER BY run.tenant_id LIMIT 1)
        FROM having_runs AS before WHERE before.tenant_id IS NOT NULL),
    found AS (
        SELECT following.tenant_id, following.run_id FROM having_runs
        LEFT JOIN estimate_place AS place USING (tenant_id)
        CROSS JOIN LATERAL (
            SELECT run.tenant_id, run.run_id FROM run
            WHERE run.tenant_id = having_runs.tenant_id AND run.run_id < $1
                AND run.run_id > greatest(place.run_id, $4)
            ORDER BY run.run_id LIMIT $2) AS following),
    noted AS (
        INSERT INTO estimate_pending (tenant_id, run_id)
        SELECT tenant_id, run_id FROM (
            SELECT found.tenant_id, found.run_id,
                row_number() OVER (PARTITION BY found.tenant_id ORDER BY found.run_id)
                + (SELECT count(*) FROM estimate_pending WHERE tenant_id = found.tenant_id) AS place
            FROM found) AS numbered
        WHERE place <= $3
        ON CONFLICT DO NOTHING RETURNING 1),
    moved AS (
        INSERT INTO estimate_place (tenant_id, run_id)
        SELECT DISTINCT ON (tenant_id) tenant_id, run_id FROM found ORDER BY tenant_id, run_id DESC
        ON CONFLICT (tenant_id) DO UPDATE SET run_id = greatest(estimate_place.run_id, excluded.run_id))
    SELECT count(*) FROM noted"""
#: Of each tenant the first one comes before anybody's second. A run that is not there any more is due, too: it is
#: taken out.
_DUE: Final = """
    SELECT tenant_id, run_id FROM (
        SELECT pending.tenant_id, pending.run_id,
            row_number() OVER (PARTITION BY pending.tenant_id ORDER BY pending.run_id) AS place
        FROM estimate_pending AS pending LEFT JOIN run ON run.run_id = pending.run_id
        WHERE (run.run_id IS NULL OR run.state IN (5, 6, 7)) AND pending.run_id <> ALL($2::uuid[])
        ORDER BY place, pending.tenant_id LIMIT $1) AS first
    ORDER BY tenant_id, run_id"""
_TAKE: Final = """
    DELETE FROM estimate_pending WHERE tenant_id = $1 AND run_id = ANY($2::uuid[]) RETURNING run_id"""
#: Each by the index, however many there are: a join might read all that the tenant has.
_HABITS: Final = """
    SELECT wanted.kind, wanted.name, found.habits
    FROM unnest($2::text[], $3::text[]) AS wanted (kind, name)
    CROSS JOIN LATERAL (
        SELECT habits::text AS habits FROM run_habits
        WHERE tenant_id = $1 AND kind = wanted.kind AND name = wanted.name LIMIT 1) AS found"""
#: Without the turns of agents: of those an estimate needs what follows from them.
_FITS: Final = """
    SELECT wanted.kind, wanted.name, found.habits
    FROM unnest($2::text[], $3::text[]) AS wanted (kind, name)
    CROSS JOIN LATERAL (
        SELECT (CASE kind WHEN 'turn' THEN habits->'fit' ELSE habits END)::text AS habits FROM run_habits
        WHERE tenant_id = $1 AND kind = wanted.kind AND name = wanted.name LIMIT 1) AS found"""
_KEEP: Final = """
    INSERT INTO run_habits (tenant_id, kind, name, habits)
    SELECT $1, kind, name, habits::jsonb FROM unnest($2::text[], $3::text[], $4::text[]) AS kept (kind, name, habits)
    ORDER BY kind, name
    ON CONFLICT (tenant_id, kind, name) DO UPDATE SET habits = excluded.habits, update_time = now()
    WHERE run_habits.habits IS DISTINCT FROM excluded.habits"""
_ADD: Final = """
    INSERT INTO run_estimate
        (tenant_id, run_id, name, reference, project, estimated, actual, calibrated_on, end_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"""
_PAGE: Final = """
    SELECT run_id, name, reference, project, estimated, actual, calibrated_on, end_time FROM run_estimate
    WHERE tenant_id = $1 AND ($2 = '' OR name = $2) AND ($3::uuid IS NULL OR run_id < $3)
        AND ($4::uuid IS NULL OR run_id = $4)
    ORDER BY run_id DESC LIMIT $5"""
#: The latest runs first, then those that had an interval: however few had one, no more is read. The bounds of the money
#: are the seventh and the ninth number.
_COVERAGE: Final = """
    SELECT count(*) AS judged, count(*) FILTER (WHERE actual[3] BETWEEN estimated[7] AND estimated[9]) AS covered
    FROM (SELECT actual, estimated, calibrated_on FROM run_estimate
          WHERE tenant_id = $1 AND ($2 = '' OR name = $2)
          ORDER BY run_id DESC LIMIT $3) AS latest
    WHERE calibrated_on > 0"""
_JUDGED: Final = 1_000
#: Rows that one round forgets.
_FORGOTTEN_AT_ONCE: Final = 10_000
#: By tenant, found one after the other by the index: places on it up to the first that is not kept, and what lies
#: beyond, the oldest first.
_FORGET_ESTIMATES: Final = """
    WITH RECURSIVE having_estimates (tenant_id) AS (
        (SELECT tenant_id FROM run_estimate ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT following.tenant_id FROM run_estimate AS following
                WHERE following.tenant_id > before.tenant_id ORDER BY following.tenant_id LIMIT 1)
        FROM having_estimates AS before WHERE before.tenant_id IS NOT NULL),
    beyond AS (
        SELECT old.run_id FROM having_estimates
        CROSS JOIN LATERAL (
            SELECT kept.run_id FROM run_estimate AS kept WHERE kept.tenant_id = having_estimates.tenant_id
            ORDER BY kept.run_id DESC OFFSET $1 LIMIT 1) AS first
        CROSS JOIN LATERAL (
            SELECT following.run_id FROM run_estimate AS following
            WHERE following.tenant_id = having_estimates.tenant_id AND following.run_id <= first.run_id
            ORDER BY following.run_id LIMIT $2) AS old
        LIMIT $2)
    DELETE FROM run_estimate WHERE run_id = ANY(ARRAY(SELECT run_id FROM beyond))"""
_FORGET_HABITS: Final = """
    WITH RECURSIVE having_habits (tenant_id) AS (
        (SELECT tenant_id FROM run_habits ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT following.tenant_id FROM run_habits AS following
                WHERE following.tenant_id > before.tenant_id ORDER BY following.tenant_id LIMIT 1)
        FROM having_habits AS before WHERE before.tenant_id IS NOT NULL),
    beyond AS (
        SELECT having_habits.tenant_id, old.kind, old.name FROM having_habits
        CROSS JOIN LATERAL (
            SELECT kept.kind, kept.name FROM run_habits AS kept WHERE kept.tenant_id = having_habits.tenant_id
            ORDER BY kept.update_time DESC OFFSET $1 LIMIT $2) AS old
        LIMIT $2)
    DELETE FROM run_habits USING beyond
    WHERE (run_habits.tenant_id, run_habits.kind, run_habits.name) = (beyond.tenant_id, beyond.kind, beyond.name)"""


class SqlEstimates:
    """Implements `EstimateStore` and `LessonPlan`."""

    def __init__(self, *, app: AsyncEngine, maintenance: AsyncEngine) -> None:
        self._app = app
        self._maintenance = maintenance

    async def habits(self, tenant: TenantId, shape: RunShape) -> tuple[Habits, dict[str, Prices]]:
        """See `EstimateStore.habits`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            return await _read(scope, tenant, [shape], _FITS)

    async def keep_prices(self, tenant: TenantId, prices: Mapping[str, Prices]) -> None:
        """See `EstimateStore.keep_prices`."""
        async with driver_scope(self._app, tenant) as scope:
            await _write(scope, tenant, [(_PRICE, model, prices_to_json(price)) for model, price in prices.items()])
            await scope.commit()

    async def page(
        self, tenant: TenantId, *, name: str, before: UUID | None, most: int, run: UUID | None = None
    ) -> tuple[Sequence[EstimatedRun], bool]:
        """See `EstimateStore.page`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            rows = await scope.driver.fetch(_PAGE, tenant, name, before, run, most + 1)
        return [_estimated(row) for row in rows[:most]], len(rows) > most

    async def coverage(self, tenant: TenantId, *, name: str) -> tuple[int, int]:
        """See `EstimateStore.coverage`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            [row] = await scope.driver.fetch(_COVERAGE, tenant, name, _JUDGED)
        return row["judged"], row["covered"]

    async def gather(self, since: UUID, until: UUID) -> int:
        """See `LessonPlan.gather`."""
        async with driver_scope(self._maintenance, None) as scope:
            noted: int = await scope.driver.fetchval(_GATHER, until, _GATHERED_AT_ONCE, _MOST_PENDING, since)
            await scope.commit()
        return noted

    async def due(self, *, most: int, but: Collection[str]) -> Sequence[tuple[TenantId, str]]:
        """See `LessonPlan.due`."""
        left_out = [to_uuid(run_id, "run") for run_id in but]
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_DUE, most, left_out)
        return [(TenantId(row["tenant_id"]), from_uuid("run", row["run_id"])) for row in rows]

    @asynccontextmanager
    async def lesson(self, tenant: TenantId) -> AsyncGenerator[Lesson]:
        """See `LessonPlan.lesson`."""
        async with driver_scope(self._app, tenant) as scope:
            await scope.driver.execute(
                f"SELECT pg_advisory_xact_lock({ESTIMATES_LOCK}, hashtext($1::text))", str(tenant)
            )
            yield _SqlLesson(scope, tenant)

    async def forget_old(self) -> tuple[int, bool]:
        """See `LessonPlan.forget_old`."""
        async with driver_scope(self._maintenance, None) as scope:
            tags = [
                await scope.driver.execute(_FORGET_ESTIMATES, MOST_ESTIMATES, _FORGOTTEN_AT_ONCE),
                await scope.driver.execute(_FORGET_HABITS, MOST_HABITS, _FORGOTTEN_AT_ONCE),
            ]
            await scope.commit()
        gone = [int(tag.rpartition(" ")[2]) for tag in tags]
        return sum(gone), max(gone) >= _FORGOTTEN_AT_ONCE


class _SqlLesson:
    """Implements `Lesson`."""

    def __init__(self, scope: DriverScope, tenant: TenantId) -> None:
        self._scope = scope
        self._tenant = tenant

    async def take(self, run_ids: Sequence[str]) -> Collection[str]:
        """See `Lesson.take`."""
        wanted = [to_uuid(run_id, "run") for run_id in run_ids]
        rows = await self._scope.driver.fetch(_TAKE, self._tenant, wanted)
        return {from_uuid("run", row["run_id"]) for row in rows}

    async def habits(self, shapes: Sequence[RunShape]) -> tuple[Habits, dict[str, Prices]]:
        """See `Lesson.habits`."""
        return await _read(self._scope, self._tenant, shapes, _HABITS)

    async def keep(self, habits: Habits, prices: Mapping[str, Prices], runs: Sequence[EstimatedRun]) -> None:
        """See `Lesson.keep`."""
        kept = [(_TURN, name, turn_to_json(one)) for name, one in habits.turns.items()]
        kept += [(_WORK, name, work_to_json(one)) for name, one in habits.works.items()]
        kept += [(_RUN, name, run_to_json(one)) for name, one in habits.runs.items()]
        kept += [(_PRICE, model, prices_to_json(price)) for model, price in prices.items()]
        await _write(self._scope, self._tenant, kept)
        for run in runs:
            await self._scope.driver.execute(
                _ADD,
                self._tenant,
                to_uuid(run.run_id, "run"),
                run.name,
                run.reference,
                run.project,
                [bound for bounds in run.estimated for bound in bounds],
                list(run.actual),
                run.calibrated_on,
                run.end_time,
            )
        await self._scope.commit()


async def _read(
    scope: DriverScope, tenant: TenantId, shapes: Sequence[RunShape], statement: str
) -> tuple[Habits, dict[str, Prices]]:
    wanted: set[tuple[str, str]] = set()
    for shape in shapes:
        turns, works, runs = keys_of(shape)
        wanted |= {(_TURN, name) for name in turns} | {(_WORK, name) for name in works}
        wanted |= {(_RUN, name) for name in runs} | {(_PRICE, turn.model) for turn in shape.turns()}
    pairs = sorted(wanted)
    rows = await scope.driver.fetch(statement, tenant, [kind for kind, _ in pairs], [name for _, name in pairs])
    habits, prices = Habits(), dict[str, Prices]()
    for row in rows:
        name, written = row["name"], row["habits"]
        match row["kind"]:
            case "turn":
                habits.turns[name] = (turn_from_json if statement is _HABITS else fit_from_json)(written)
            case "work":
                habits.works[name] = work_from_json(written)
            case "run":
                habits.runs[name] = run_from_json(written)
            case _:
                prices[name] = prices_from_json(written)
    return habits, prices


async def _write(scope: DriverScope, tenant: TenantId, kept: Sequence[tuple[str, str, str]]) -> None:
    columns = [list(column) for column in zip(*kept, strict=True)]
    if columns:
        await scope.driver.execute(_KEEP, tenant, *columns)


def _estimated(row: Record) -> EstimatedRun:
    bounds = row["estimated"]
    return EstimatedRun(
        run_id=from_uuid("run", row["run_id"]),
        name=row["name"],
        reference=row["reference"],
        project=row["project"],
        estimated=tuple((bounds[at], bounds[at + 1], bounds[at + 2]) for at in range(0, 3 * len(Amount), 3)),
        actual=tuple(row["actual"]),
        calibrated_on=row["calibrated_on"],
        end_time=row["end_time"],
    )
