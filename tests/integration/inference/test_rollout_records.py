"""What replicas say they have seen of rollouts, by step, and for how long it is kept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.rollout.judgement import Kind
from services.inference.domain.rollout.rollout import Rollout, RolloutState
from services.inference.domain.rollout.watch import BadEvent, Metric, Tally
from services.inference.domain.route import Arm, Trial
from services.inference.storage.lesson_records import FORGET_LOCK, JUDGED_WITHIN, SqlLessonRecords
from services.inference.storage.rollout_records import EVIDENCE_KEPT, SqlRolloutRecords
from services.inference.storage.rollout_sums import add_up, read_seen
from services.inference.storage.rollout_tables import rollout_score
from services.inference.storage.tried_answers import keep_tried, score_tried
from services.inference.usecases.learning_ports import TriedAnswer
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
from tests.integration.inference.conftest import Surroundings
from tests.unit.inference.test_rollout import a_rollout

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANT = TenantId(uuid4())


@pytest_asyncio.fixture(loop_scope="module")
async def replicas(surroundings: Surroundings) -> AsyncIterator[tuple[SqlRolloutRecords, SqlRolloutRecords]]:
    async with (
        sql_engine(surroundings.urls.app, pool_size=1) as app,
        sql_engine(surroundings.urls.maintenance, pool_size=2) as maintenance,
    ):
        one, two = (
            SqlRolloutRecords(app, maintenance, replica=replica, clock=SystemClock()) for replica in ("one", "two")
        )
        yield one, two


def tallied(units: int, bad: int) -> dict[Arm, Tally]:
    return {arm: Tally(units, {**dict.fromkeys(Metric, 0), Metric.ERROR: bad}) for arm in Arm}


async def test_replicas_add_up_what_they_saw_in_a_step(
    replicas: tuple[SqlRolloutRecords, SqlRolloutRecords],
) -> None:
    one, two = replicas
    rollout = SystemIds().new("rollout")
    event = BadEvent(Metric.ERROR, b"unit", Arm.CANARY, 100)
    await one.add(TENANT, rollout, [event], tallied(150, 3), step=0)
    await one.add(TENANT, rollout, [], tallied(160, 4), step=0)
    await two.add(TENANT, rollout, [event], tallied(40, 1), step=0)
    await two.add(TENANT, rollout, [], tallied(7, 0), step=1)
    first, second = [await one.judged(TENANT, a_rollout(id=rollout, step=step)) for step in (0, 1)]
    assert (first.tallies[Arm.CANARY].units, first.tallies[Arm.CANARY].bad[Metric.ERROR]) == (200, 5)
    assert (second.tallies[Arm.CANARY].units, second.tallies[Arm.CANARY].bad[Metric.ERROR]) == (7, 0)
    assert first.evidence[Metric.ERROR].canary == second.evidence[Metric.ERROR].canary == 1


def tried(rollout: Rollout, unit: int) -> TriedAnswer:
    arm = Arm.STABLE
    trial = Trial(tenant=TENANT, rollout=rollout, unit=b"%d" % unit, arm=arm, project="p")
    return TriedAnswer(hold_id=SystemIds().new("hold"), trial=trial)


@asynccontextmanager
async def begun(surroundings: Surroundings, *rollouts: Rollout) -> AsyncIterator[AsyncEngine]:
    """Has rollouts stand in the database as they are; gives its owner."""
    async with sql_engine(surroundings.urls.migrator, pool_size=1) as owner:
        async with owner.begin() as connection:
            for one in rollouts:
                await connection.execute(
                    text(
                        "INSERT INTO model_rollout (tenant_id, rollout_id, route, spec, state, step, share_permille,"
                        " revision, started_time, step_time, decided_time)"
                        " VALUES (:tenant, :rollout, :route, '{}', CAST(:state AS text), 0, 100, 1, now(), now(),"
                        " CASE WHEN CAST(:state AS text) <> 'running' THEN now() END)"
                    ),
                    {
                        "tenant": TENANT,
                        "rollout": to_uuid(one.id, "rollout"),
                        "route": one.id,
                        "state": one.state.value,
                    },
                )
        try:
            yield owner
        finally:
            async with owner.begin() as connection:
                await connection.execute(
                    text("DELETE FROM model_rollout WHERE tenant_id = :tenant"), {"tenant": TENANT}
                )


async def test_what_is_usual_is_known_to_a_thousandth(
    replicas: tuple[SqlRolloutRecords, SqlRolloutRecords], surroundings: Surroundings
) -> None:
    rollout = a_rollout(id=SystemIds().new("rollout"))
    answers = [tried(rollout, unit) for unit in range(21)]
    async with begun(surroundings, rollout), sql_engine(surroundings.urls.app, pool_size=1) as app:
        async with tenant_scope(app, TENANT, audited=False) as scope:
            await keep_tried(scope, TENANT, answers)
            for score, one in zip([0.9, *[0.8] * 20], answers, strict=True):
                hold = to_uuid(one.hold_id, "hold")
                assert await score_tried(scope, TENANT, hold, score, project=None, within=JUDGED_WITHIN)
            await scope.commit()
        async with tenant_scope(app, TENANT, read_only=True) as scope:
            usual = await scope.execute(select(rollout_score.c.usual_permille).distinct())
            assert set(usual.scalars()) == {None, 805}


async def test_a_bad_event_and_a_score_are_read_once_and_no_more_of_them_at_a_time_than_one_look_takes(
    replicas: tuple[SqlRolloutRecords, SqlRolloutRecords], surroundings: Surroundings
) -> None:
    one, two = replicas
    rollout = a_rollout(id=SystemIds().new("rollout"), quality_margin=0.1)
    answers = [tried(rollout, unit) for unit in range(60)]
    events = [BadEvent(Metric.ERROR, b"%d" % unit, list(Arm)[unit % 2], 100) for unit in range(60)]
    async with begun(surroundings, rollout) as owner, sql_engine(surroundings.urls.app, pool_size=1) as app:
        async with tenant_scope(app, TENANT, audited=False) as scope:
            await keep_tried(scope, TENANT, answers)
            for unit, answer in enumerate(answers):
                hold = to_uuid(answer.hold_id, "hold")
                assert await score_tried(scope, TENANT, hold, unit / 60, project=None, within=JUDGED_WITHIN)
            await scope.commit()
        await one.add(TENANT, rollout.id, events, tallied(60, 60), step=0)
        async with tenant_scope(app, TENANT, audited=False) as scope:
            await add_up(scope, TENANT, rollout, most=20)
            seen = await read_seen(scope, TENANT, rollout)
            await scope.commit()
        assert seen.evidence[Metric.ERROR].canary + seen.evidence[Metric.ERROR].stable == 20
        assert seen.scores.units[Arm.STABLE] == 20
        seen = await one.judged(TENANT, rollout)
        assert (seen.evidence[Metric.ERROR].canary, seen.evidence[Metric.ERROR].stable) == (30, 30)
        assert seen.scores.units[Arm.STABLE] == 60
        async with owner.begin() as connection:
            for table in ("rollout_event", "rollout_score"):
                gone = await connection.execute(text(f"DELETE FROM {table}"))
                assert gone.rowcount >= 60
        again = await two.judged(TENANT, rollout)
        assert again.scores == seen.scores
        assert [again.value(kind) for kind in Kind] == [seen.value(kind) for kind in Kind]


async def test_answers_on_trial_are_kept_while_their_scores_count_and_forgotten_by_one_replica_at_a_time(
    surroundings: Surroundings,
) -> None:
    running, ended = (a_rollout(id=SystemIds().new("rollout"), state=state) for state in list(RolloutState)[:2])
    left = text("SELECT count(*) FROM tried_answer WHERE tenant_id = :tenant AND rollout_id = :rollout")
    async with (
        begun(surroundings, running, ended),
        sql_engine(surroundings.urls.app, pool_size=1) as app,
        sql_engine(surroundings.urls.maintenance, pool_size=2) as maintenance,
    ):
        records = SqlLessonRecords(app, maintenance)
        await records.add(TENANT, {}, [tried(one, unit) for one in (running, ended) for unit in range(5)])

        async def kept() -> list[int]:
            async with maintenance_scope(maintenance) as scope:
                counted = [{"tenant": TENANT, "rollout": to_uuid(one.id, "rollout")} for one in (running, ended)]
                return [(await scope.execute(left, one)).scalar_one() for one in counted]

        async with maintenance_scope(maintenance) as busy:
            await busy.execute(select(func.pg_advisory_xact_lock(FORGET_LOCK)))
            await records.forget(most=2)
            assert await kept() == [5, 5]
        await records.forget(most=2)
        assert await kept() == [5, 0]


async def test_what_a_rollout_was_judged_by_is_kept_for_a_while_after_its_end(
    replicas: tuple[SqlRolloutRecords, SqlRolloutRecords], surroundings: Surroundings
) -> None:
    records, _ = replicas
    running, fresh, old = (SystemIds().new("rollout") for _ in range(3))
    ended = {running: None, fresh: EVIDENCE_KEPT.days - 1, old: EVIDENCE_KEPT.days + 1}
    for rollout in ended:
        await records.add(TENANT, rollout, [BadEvent(Metric.ERROR, b"unit", Arm.CANARY, 100)], tallied(1, 1), step=0)
    async with sql_engine(surroundings.urls.migrator, pool_size=1) as owner, owner.begin() as connection:
        for rollout, days in ended.items():
            await connection.execute(
                text(
                    "INSERT INTO model_rollout (tenant_id, rollout_id, route, spec, state, step, share_permille,"
                    " revision, started_time, step_time, decided_time) VALUES (:tenant, :rollout, :route, '{}',"
                    " CASE WHEN CAST(:days AS int) IS NULL THEN 'running' ELSE 'promoted' END, 0, 100, 1, now(), now(),"
                    " now() - make_interval(days => :days))"
                ),
                {"tenant": TENANT, "rollout": to_uuid(rollout, "rollout"), "route": rollout, "days": days},
            )
    try:
        await records.forget()
        seen = {rollout: await records.judged(TENANT, a_rollout(id=rollout)) for rollout in ended}
        assert {one: of.tallies[Arm.CANARY].units for one, of in seen.items()} == {running: 1, fresh: 1, old: 0}
        assert {one: of.evidence[Metric.ERROR].canary for one, of in seen.items()} == {running: 1, fresh: 1, old: 0}
    finally:
        async with sql_engine(surroundings.urls.migrator, pool_size=1) as owner, owner.begin() as connection:
            await connection.execute(text("DELETE FROM model_rollout WHERE tenant_id = :tenant"), {"tenant": TENANT})
