"""Sums of what rollouts are judged by, in Postgres: each bad event and each score is read once."""

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Double, RowMapping, Table, column, func, not_, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert

from services.inference.domain.rollout.judgement import Seen
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.rollout.scores import Score, Scores
from services.inference.domain.rollout.watch import Metric
from services.inference.domain.route import Arm
from services.inference.storage.rollout_tables import (
    rollout_event,
    rollout_event_sum,
    rollout_score,
    rollout_score_sum,
    rollout_tally,
)
from services.inference.storage.tried_answers import HUNDREDTHS, PERMILLE
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.sql.scope import Scope

#: Bad events and scores of one rollout that one look adds. The others follow with the next ones.
EVENTS_AT_ONCE: Final = 10_000
SCORES_AT_ONCE: Final = 1_000
#: What another release counts beside is no business of this one.
_KNOWN: Final = [metric.value for metric in Metric]


async def add_up(scope: Scope, tenant: TenantId, rollout: Rollout, *, most: int | None = None) -> None:
    """Adds to the sums what is in none yet.

    Args:
        most: bad events, and scores, that are added at most; None: as many as one look should.
    """
    about = to_uuid(rollout.id, "rollout")
    await _add_events(scope, tenant, about, most=most or EVENTS_AT_ONCE)
    await _add_scores(scope, tenant, about, margin=rollout.quality_margin, most=most or SCORES_AT_ONCE)


async def read_seen(scope: Scope, tenant: TenantId, rollout: Rollout) -> Seen:
    """Puts together what all replicas have seen of a rollout, and of its step how often."""
    about, seen = to_uuid(rollout.id, "rollout"), Seen()
    sums = rollout_event_sum.c
    for row in await scope.execute(
        select(rollout_event_sum).where(sums.tenant_id == tenant, sums.rollout_id == about, sums.metric.in_(_KNOWN))
    ):
        seen.evidence[Metric(row.metric)].note(_arm(row.canary), share_permille=row.share_permille, times=row.times)
    totals = rollout_tally.c
    summed = (
        select(totals.metric, totals.canary, func.sum(totals.units).label("units"), func.sum(totals.bad).label("bad"))
        .where(
            totals.tenant_id == tenant,
            totals.rollout_id == about,
            totals.step == rollout.step,
            totals.metric.in_(_KNOWN),
        )
        .group_by(totals.metric, totals.canary)
    )
    for row in await scope.execute(summed):
        tally = seen.tallies[_arm(row.canary)]
        tally.units = int(row.units)
        tally.bad[Metric(row.metric)] = int(row.bad)
    scored = rollout_score_sum.c
    for row in await scope.execute(
        select(rollout_score_sum).where(scored.tenant_id == tenant, scored.rollout_id == about)
    ):
        of_one = Scores(lower_logs=row.lower_logs, kept_logs=row.kept_logs)
        of_one.units[_arm(row.canary)], of_one.totals[_arm(row.canary)] = row.units, row.total
        seen.scores.add(of_one, in_step=row.step == rollout.step)
    return seen


async def _add_events(scope: Scope, tenant: TenantId, about: UUID, *, most: int) -> None:
    columns, sums = rollout_event.c, rollout_event_sum.c
    key = tuple_(columns.metric, columns.unit)
    fresh = _taken(rollout_event, tenant, about, key, columns.metric.in_(_KNOWN), most=most)
    kinds = [fresh.c[name] for name in ("tenant_id", "rollout_id", "metric", "canary", "share_permille")]
    counted = select(*kinds, func.count()).group_by(*kinds)
    statement = insert(rollout_event_sum).from_select([*(one.name for one in kinds), "times"], counted)
    await scope.execute(
        statement.on_conflict_do_update(
            constraint="pk_rollout_event_sum", set_={"times": sums.times + statement.excluded.times}
        )
    )


async def _add_scores(scope: Scope, tenant: TenantId, about: UUID, *, margin: float, most: int) -> None:
    columns = rollout_score.c
    fresh = _taken(rollout_score, tenant, about, tuple_(columns.unit, columns.step), most=most)
    names = ("step", "canary", "share_permille", "score_percent", "usual_permille", "first")
    alike = [fresh.c[name] for name in names]
    counted = select(*alike, func.count().label("times")).group_by(*alike).order_by(fresh.c.step, fresh.c.canary)
    rows = (await scope.execute(counted)).mappings().all()
    if not rows:
        return
    # A thousand of them take milliseconds.
    summed = await asyncio.to_thread(_summed, rows, margin)
    statement, sums = insert(rollout_score_sum), rollout_score_sum.c
    added = statement.excluded
    await scope.execute(
        statement.on_conflict_do_update(
            constraint="pk_rollout_score_sum",
            set_={
                "units": sums.units + added.units,
                "total": sums.total + added.total,
                "lower_logs": _each_added(sums.lower_logs, added.lower_logs),
                "kept_logs": _each_added(sums.kept_logs, added.kept_logs),
            },
        ),
        [{"tenant_id": tenant, "rollout_id": about, **one} for one in summed],
    )


def _taken(table: Table, tenant: TenantId, about: UUID, key: Any, *also: ColumnElement[bool], most: int) -> Any:
    """Marks what is in no sum yet as summed, and gives it."""
    mine = (table.c.tenant_id == tenant, table.c.rollout_id == about)
    fresh = select(*key.clauses).where(*mine, not_(table.c.judged), *also).limit(most)
    # By itself, or Postgres may run it once for each row, and the limit would be none.
    wanted = fresh.with_for_update(skip_locked=True).cte("wanted")
    taken = update(table).where(*mine, key.in_(select(*wanted.c))).values(judged=True)
    return taken.returning(table).cte("fresh")


def _summed(rows: Sequence[RowMapping], margin: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for (step, canary), alike in groupby(rows, key=lambda row: (row["step"], row["canary"])):
        arm = _arm(canary)
        scores = Scores().note((_score(row) for row in alike), margin=margin)
        found.append(
            {
                "step": step,
                "canary": canary,
                "units": scores.units[arm],
                "total": scores.totals[arm],
                "lower_logs": scores.lower_logs,
                "kept_logs": scores.kept_logs,
            }
        )
    return found


def _score(row: RowMapping) -> Score:
    usual = row["usual_permille"]
    return Score(
        arm=_arm(row["canary"]),
        share_permille=row["share_permille"],
        score=row["score_percent"] / HUNDREDTHS,
        usual=None if usual is None else usual / PERMILLE,
        times=row["times"],
        first=row["first"],
    )


def _each_added(one: Any, other: Any) -> Any:
    """Adds two arrays of the same length, component by component."""
    columns = column("one", Double), column("other", Double)
    pairs = func.unnest(one, other).table_valued(*columns, with_ordinality="place").render_derived()
    added = aggregate_order_by(pairs.c.one + pairs.c.other, pairs.c.place)
    return select(func.array_agg(added, type_=ARRAY(Double))).scalar_subquery()


def _arm(canary: bool) -> Arm:
    return Arm.CANARY if canary else Arm.STABLE
