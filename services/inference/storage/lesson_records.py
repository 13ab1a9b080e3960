"""What bandits have learnt, in Postgres: sums to which replicas add, so that none loses what another has learnt."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, TextClause, func, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.rollout.rollout import RolloutState
from services.inference.domain.routing.lesson import ArmName, BanditKind, Learnt, corrected
from services.inference.domain.routing.reward import Earned
from services.inference.storage.routing_tables import bandit_arm, learnt_answer
from services.inference.storage.tried_answers import keep_tried, score_tried
from services.inference.usecases.learning_ports import MOST_ARMS, GivenAnswer, LearntAnswer, TriedAnswer
from services.meshkit.core.errors import AlreadyExists, NotFound
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope

#: How long somebody may say how good an answer was.
JUDGED_WITHIN: Final = timedelta(hours=24)
#: Arms that nobody has asked for so long are forgotten.
_ARMS_KEPT: Final = timedelta(days=90)
#: What was written by transactions that took so long at most is read again rather than missed.
_OVERLAP: Final = timedelta(seconds=60)
_AT_ONCE: Final = 1_000
#: Rows that are forgotten in one transaction.
_FORGOTTEN_AT_ONCE: Final = 5_000
#: Held by the replica that forgets.
FORGET_LOCK: Final = int.from_bytes(sha256(b"comitia.forget_lessons").digest()[:8], "big", signed=True)


def _forget(table: str, old: str) -> TextClause:
    return text(
        f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {old} LIMIT :most))"  # noqa: S608
    )


_JUDGED: Final = f"answer_time < now() - make_interval(secs => {JUDGED_WITHIN.total_seconds()})"
_FORGETS: Final = (
    _forget("learnt_answer", _JUDGED),
    _forget("tried_answer", _JUDGED),
    # Scores count while a rollout runs.
    _forget(
        "tried_answer",
        "EXISTS (SELECT FROM model_rollout WHERE model_rollout.tenant_id = tried_answer.tenant_id"
        " AND model_rollout.rollout_id = tried_answer.rollout_id"
        f" AND model_rollout.state <> '{RolloutState.RUNNING}')",
    ),
    _forget("bandit_arm", f"updated_time < now() - make_interval(secs => {_ARMS_KEPT.total_seconds()})"),
)
#: Sums of the row and of what is added to it, place by place.
_ADDED_UP: Final[ColumnElement[Any]] = literal_column(
    "(SELECT array_agg(mine + more ORDER BY place)"
    " FROM unnest(bandit_arm.sums, excluded.sums) WITH ORDINALITY AS added (mine, more, place))"
)


class SqlLessonRecords:
    """Implements `LessonRecords`.

    Args:
        most_arms: are read at once.
    """

    def __init__(self, app: AsyncEngine, maintenance: AsyncEngine, *, most_arms: int = MOST_ARMS) -> None:
        self._app = app
        self._maintenance = maintenance
        self._most_arms = most_arms

    async def add(
        self, tenant: TenantId, lessons: Mapping[ArmName, Learnt], answers: Sequence[GivenAnswer]
    ) -> Mapping[ArmName, Learnt]:
        """See `LessonRecords.add`."""
        kept = [_row(tenant, one) for one in answers if isinstance(one, LearntAnswer)]
        async with tenant_scope(self._app, tenant, audited=False) as scope:
            for first in range(0, len(kept), _AT_ONCE):
                statement = insert(learnt_answer).values(answer_time=func.now()).on_conflict_do_nothing()
                await scope.execute(statement, kept[first : first + _AT_ONCE])
            await keep_tried(scope, tenant, [one for one in answers if isinstance(one, TriedAnswer)])
            arms = await _added(scope, lessons)
            await scope.commit()
        return arms

    async def since(self, moment: datetime | None) -> tuple[datetime, Mapping[ArmName, Learnt]]:
        """See `LessonRecords.since`."""
        statement = select(bandit_arm).order_by(bandit_arm.c.updated_time.desc()).limit(self._most_arms)
        if moment is not None:
            statement = statement.where(bandit_arm.c.updated_time >= moment - _OVERLAP)
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            now: datetime = (await scope.execute(select(func.now()))).scalar_one()
            rows = (await scope.execute(statement)).mappings().all()
        return now, dict(_arm(row) for row in rows)

    async def judge(
        self, tenant: TenantId, hold_id: str, quality: float, *, project: str | None
    ) -> Mapping[ArmName, Learnt]:
        """See `LessonRecords.judge`."""
        hold = to_uuid(hold_id, "hold", field="hold_id")
        async with tenant_scope(self._app, tenant) as scope:
            await claim_once(scope)
            tried = await score_tried(scope, tenant, hold, quality, project=project, within=JUDGED_WITHIN)
            learnt = await _corrected(scope, tenant, hold, quality, project=project)
            if learnt is None and not tried:
                raise NotFound("answer", hold_id)
            arms = await _added(scope, learnt or {})
            await keep_once(scope, None)
            await scope.commit()
        return arms

    async def forget(self, *, most: int = _FORGOTTEN_AT_ONCE) -> None:
        """See `LessonRecords.forget`.

        Args:
            most: rows of one transaction.
        """
        for statement in _FORGETS:
            while await self._forgot(statement, most=most) == most:
                pass

    async def _forgot(self, statement: TextClause, *, most: int) -> int:
        """Forgets a portion. Gives how many rows are gone; none while another replica is at it."""
        async with maintenance_scope(self._maintenance) as scope:
            if not (await scope.execute(select(func.pg_try_advisory_xact_lock(FORGET_LOCK)))).scalar_one():
                return 0
            gone = await scope.execute(statement, {"most": most})
            await scope.commit()
        return gone.rowcount


async def _corrected(
    scope: Scope, tenant: TenantId, hold: UUID, quality: float, *, project: str | None
) -> Mapping[ArmName, Learnt] | None:
    """Gives what a bandit learns from how good an answer was. None: no bandit gave it. Raises: AlreadyExists."""
    answer = learnt_answer.c
    mine = (answer.tenant_id == tenant, answer.hold_id == hold)
    wanted = select(learnt_answer).where(*mine, answer.answer_time > func.now() - JUDGED_WITHIN).with_for_update()
    if project is not None:
        wanted = wanted.where(answer.project == project)
    row = (await scope.execute(wanted)).mappings().one_or_none()
    if row is None:
        return None
    if row["quality"] is not None:
        raise AlreadyExists("quality", from_uuid("hold", hold))
    await scope.execute(update(learnt_answer).where(*mine).values(quality=quality))
    kind, features = BanditKind(row["kind"]), tuple(row["features"])
    before = Earned(points=row["points"], weight=row["weight"], quality_weight=row["quality_weight"])
    change = corrected(kind, features, before, quality)
    name = ArmName(tenant=tenant, route=row["route"], kind=kind, arm=row["arm"])
    return {} if change is None else {name: change}


async def _added(scope: Scope, lessons: Mapping[ArmName, Learnt]) -> Mapping[ArmName, Learnt]:
    """Adds to arms, in an order that all replicas keep, so that none waits for another that waits for it."""
    arms: dict[ArmName, Learnt] = {}
    ordered = sorted(lessons.items(), key=lambda one: (one[0].route, one[0].kind, one[0].arm))
    for first in range(0, len(ordered), _AT_ONCE):
        rows = [
            {
                "tenant_id": name.tenant,
                "route": name.route,
                "kind": name.kind.value,
                "arm": name.arm,
                "pulls": one.pulls,
                "sums": list(one.sums),
                "updated_time": func.now(),
            }
            for name, one in ordered[first : first + _AT_ONCE]
        ]
        statement = insert(bandit_arm).values(rows)
        added = statement.on_conflict_do_update(
            constraint="pk_bandit_arm",
            set_={
                "pulls": bandit_arm.c.pulls + statement.excluded.pulls,
                "sums": _ADDED_UP,
                "updated_time": statement.excluded.updated_time,
            },
        ).returning(bandit_arm)
        arms.update(_arm(row) for row in (await scope.execute(added)).mappings())
    return arms


def _row(tenant: TenantId, answer: LearntAnswer) -> dict[str, object]:
    lesson, earned = answer.lesson, answer.earned
    return {
        "tenant_id": tenant,
        "hold_id": to_uuid(answer.hold_id, "hold"),
        "route": lesson.arm.route,
        "kind": lesson.arm.kind.value,
        "arm": lesson.arm.arm,
        "project": lesson.project,
        "features": list(lesson.features),
        "points": earned.points,
        "weight": earned.weight,
        "quality_weight": earned.quality_weight,
    }


def _arm(row: RowMapping) -> tuple[ArmName, Learnt]:
    name = ArmName(tenant=TenantId(row["tenant_id"]), route=row["route"], kind=BanditKind(row["kind"]), arm=row["arm"])
    return name, Learnt(pulls=row["pulls"], sums=tuple(row["sums"]))
